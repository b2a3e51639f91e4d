//! The `polyfs` binary: arguments, configuration, wiring, and what people read.
//!
//! Owns exit codes (0, 1 for a failure, 2 for wrong usage) and everything that is printed. Deliberately holds no rule of
//! the protocol: it starts what the other crates own.

mod arguments;
mod configuration;
mod logging;
mod up;

use std::process::ExitCode;

use arguments::{Command, Invocation};

fn main() -> ExitCode {
    let invocation = match arguments::parse(std::env::args_os().collect()) {
        Ok(invocation) => invocation,
        Err(error) => error.exit(),
    };
    logging::start(invocation.log.as_deref());
    match run(invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("polyfs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(invocation: Invocation) -> anyhow::Result<()> {
    match invocation.command {
        Command::Up(options) => up::run(&options),
        Command::Umount(options) => Ok(polyfs_fuse::unmount(&options.mountpoint, options.lazy)?),
        Command::Completions { shell } => {
            arguments::completions(shell);
            Ok(())
        }
    }
}
