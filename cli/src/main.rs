//! The `polyfs` binary: arguments, configuration, wiring, and what people read.
//!
//! Owns exit codes (0, 1 for a failure, 2 for wrong usage) and everything that is printed. Deliberately holds no rule of
//! the protocol: it starts what the other crates own.

mod apart;
mod arguments;
mod background;
mod cluster;
mod configuration;
mod fsck;
mod logging;
mod mount;
mod node;
mod output;
mod serving;
mod signals;
mod status;
mod up;
mod values;
mod waypoint;

use std::process::ExitCode;

use arguments::{Command, Invocation};

fn main() -> ExitCode {
    abort_on_panic();
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
        Err(error) => output::fail(&error),
    }
}

/// A broken law of our own ends the process at once. What the database panics with over a damaged file is caught, and
/// said by whoever catches it.
fn abort_on_panic() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if polyfs_store::state::panic_is_caught() {
            return;
        }
        say(panic);
        std::process::abort();
    }));
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
        Command::Completions { shell } => output::print(arguments::completions(shell).trim_end())?,
    }
    Ok(ExitCode::SUCCESS)
}
