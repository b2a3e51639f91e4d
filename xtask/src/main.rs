//! Developer tasks: `cargo xtask TASK`.
//!
//! Owns the entry points that CI and people share, so that both run the same checks: [`verify`] and [`tidy`] look and
//! never write, `fix` may write, [`accept`] runs the acceptance lines against the real binary, [`ci`] is all of them.
//! [`sim`] and [`planted`] drive the simulators, [`mod@bench`] compares with other filesystems. Deliberately knows no
//! crate of the product: it sees them as packages, sources and a binary.
#![expect(
    clippy::print_stdout,
    reason = "what a developer tool says is its output"
)]

mod accept;
mod bench;
mod ci;
mod install;
mod planted;
mod process;
mod sim;
mod tidy;
mod verify;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer tasks of PolyFS.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check everything that a change must satisfy; never writes to the tree
    Verify,
    /// Mend what can be mended by machine: formatting, and clippy's suggestions
    Fix,
    /// Check dependency directions, module headers, sizes and names
    Tidy,
    /// Install the programs that verify and accept need (as root, Debian)
    Install,
    /// install, then verify, then accept: what CI runs
    Ci,
    /// Run acceptance lines against a release build of polyfs
    Accept(accept::Arguments),
    /// Run seeds of a simulation, each range in processes of its own
    Sim(sim::Arguments),
    /// Build with a rule broken on purpose and see that its finder notices
    Planted(planted::Arguments),
    /// Compare with a native disk and GlusterFS; takes long, not part of CI
    Bench(bench::Arguments),
    /// One acceptance line in a process of its own; for `accept` itself
    #[command(hide = true)]
    AcceptLine(accept::LineArguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Verify => verify::verify(),
        Task::Fix => verify::fix(),
        Task::Tidy => tidy::run(),
        Task::Install => install::install(&accept::packages()),
        Task::Ci => ci::run(),
        Task::Accept(arguments) => accept::run(&arguments),
        Task::Sim(arguments) => sim::run(&arguments),
        Task::Planted(arguments) => planted::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::AcceptLine(arguments) => accept::run_line(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
