//! The `polyfs` binary: arguments, configuration, wiring, and what people read.
//!
//! Owns exit codes (0, 1 for a failure, 2 for wrong usage) and everything that is printed. Deliberately holds no rule of
//! the protocol: it starts what the other crates own.

mod arguments;
mod cluster;
mod configuration;
mod fsck;
mod logging;
mod mount;
mod node;
mod serving;
mod signals;
mod status;
mod up;
mod waypoint;

use std::process::ExitCode;

use arguments::{Command, Invocation};

fn main() -> ExitCode {
    let invocation = match arguments::parse(std::env::args_os().collect()) {
        Ok(invocation) => invocation,
        Err(error) => error.exit(),
    };
    let log_file = match &invocation.command {
        Command::Mount(options) if !mount::goes_to_background(options) => options.log_file.clone(),
        _ => None,
    };
    let done = logging::start(invocation.log.as_deref(), log_file.as_deref());
    match done.and_then(|()| run(invocation)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("polyfs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    match invocation.command {
        Command::Up(options) => up::run(&options)?,
        Command::Node(options) => node::run(&options)?,
        Command::Waypoint(options) => waypoint::run(&options)?,
        Command::Mount(options) => mount::run(&options)?,
        Command::Umount(options) => polyfs_fuse::unmount(&options.mountpoint, options.lazy)?,
        Command::Status(options) => return status::run(&options),
        Command::Fsck(options) => return fsck::run(&options),
        Command::Completions { shell } => arguments::completions(shell),
    }
    Ok(ExitCode::SUCCESS)
}
