//! The commands and flags that people type.
//!
//! Owns their names and their help. What a configuration file says is added as flags that were not typed.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::{configuration, values};

/// What was asked for.
#[derive(Parser, Debug)]
#[command(
    name = "polyfs",
    about = "A distributed filesystem: as easy as one binary, as safe as the local disk.",
    version = version(),
    after_help = "Try it:  mkdir -p /mnt/polyfs && polyfs up /mnt/polyfs"
)]
pub(crate) struct Invocation {
    /// Read flags from this TOML file; its keys are the flags' names. What is typed wins over it, and it over the environment.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What to log on stderr: a level (error, warn, info, debug, trace) or a filter such as polyfs_node=debug.
    #[arg(long, global = true, value_name = "FILTER", env = "POLYFS_LOG", value_parser = values::log_filter)]
    pub(crate) log: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Start a filesystem of its own in this process and mount it: nothing else is needed.
    Up(Up),
    /// Run this machine's part of a cluster.
    Node(NodeOptions),
    /// Run the discovery service by which nodes and mounts find a cluster.
    Waypoint(WaypointOptions),
    /// Mount a cluster's filesystem on this machine.
    Mount(Mount),
    /// Unmount a filesystem.
    Umount(Umount),
    /// Say how a cluster is doing, and why.
    Status(Ask),
    /// Read everything a cluster holds and check it.
    Fsck(Ask),
    /// Print a script that completes commands and flags in your shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

/// As many nodes may run in one process.
pub(crate) const NODES_MAX: u16 = 64;

/// `polyfs up`.
#[derive(Args, Debug)]
pub(crate) struct Up {
    /// Where to mount: an empty directory.
    pub(crate) mountpoint: PathBuf,
    /// Where to keep data [default: /var/lib/polyfs as root, else ~/.local/share/polyfs].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// How many nodes to run, all in this process.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    pub(crate) nodes: u16,
    /// Let other machines join: run the waypoint at this address and the nodes at the ports after it [default: only
    /// this process].
    #[arg(long, value_name = "ADDR", value_parser = values::listening_here)]
    pub(crate) listen: Option<SocketAddr>,
}

/// `polyfs node`.
#[derive(Args, Debug)]
pub(crate) struct NodeOptions {
    /// Where to keep data: a directory on a local disk.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Where to listen, host:port.
    #[arg(long, value_name = "ADDR", value_parser = values::listening)]
    pub(crate) listen: String,
    /// Where others reach this node, host:port [default: where it listens].
    #[arg(long, value_name = "ADDR", value_parser = values::dialled)]
    pub(crate) advertise: Option<String>,
    /// The waypoints of the cluster, host:port each; a node that is a member already can do without.
    #[arg(
        long,
        value_name = "ADDR",
        env = "POLYFS_WAYPOINT",
        value_delimiter = ',',
        value_parser = values::dialled
    )]
    pub(crate) waypoint: Vec<String>,
    /// What fails together with this machine: a rack, a room. Replicas are kept in different zones.
    #[arg(long, value_name = "NAME", value_parser = values::zone)]
    pub(crate) zone: Option<String>,
    /// How much of the disk to offer, such as 500GB or 2TiB, at least 256MiB [default: all of it].
    #[arg(long, value_name = "SIZE", value_parser = values::capacity)]
    pub(crate) capacity: Option<u64>,
    /// Found a new cluster only when so many fresh nodes are there.
    #[arg(long, value_name = "N", conflicts_with = "join_only", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) expect: Option<u32>,
    /// Never found a new cluster.
    #[arg(long)]
    pub(crate) join_only: bool,
    /// Also mount the filesystem here.
    #[arg(long, value_name = "MOUNTPOINT")]
    pub(crate) mount: Option<PathBuf>,
}

/// `polyfs waypoint`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct WaypointOptions {
    /// Where to listen, host:port.
    #[arg(long, value_name = "ADDR", value_parser = values::listening)]
    pub(crate) listen: Option<String>,
    /// Remember in this file which cluster was here, so that after a restart nobody founds a second one.
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Option<WaypointCommand>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum WaypointCommand {
    /// Say that a lost cluster won't come back, so that a new one can be founded.
    Forget(Forget),
}

/// `polyfs waypoint forget`.
#[derive(Args, Debug)]
pub(crate) struct Forget {
    /// The cluster's id, as the nodes that wait for it print it.
    pub(crate) cluster: String,
    /// Which waypoints to tell, host:port each.
    #[arg(
        long,
        value_name = "ADDR",
        env = "POLYFS_WAYPOINT",
        value_delimiter = ',',
        value_parser = values::dialled
    )]
    pub(crate) waypoint: Vec<String>,
}

/// Where the cluster is.
#[derive(Args, Debug)]
pub(crate) struct Cluster {
    /// A waypoint of the cluster, host:port; several are tried in turn.
    #[arg(
        long,
        value_name = "ADDR",
        env = "POLYFS_WAYPOINT",
        value_delimiter = ',',
        value_parser = values::dialled
    )]
    pub(crate) waypoint: Vec<String>,
    /// A node of the cluster, to be asked instead of a waypoint.
    #[arg(long, value_name = "ADDR", hide = true, value_delimiter = ',', value_parser = values::dialled)]
    pub(crate) node: Vec<String>,
}

/// `polyfs mount`.
#[derive(Args, Debug)]
pub(crate) struct Mount {
    /// Where to mount: an empty directory.
    pub(crate) mountpoint: PathBuf,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// Change nothing.
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Return as soon as it is mounted, and go on in the background.
    #[arg(long)]
    pub(crate) daemon: bool,
    /// Append logs to this file instead of writing them to stderr.
    #[arg(long, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
}

/// `polyfs status` and `polyfs fsck`.
#[derive(Args, Debug)]
pub(crate) struct Ask {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// Print JSON, for programs.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `polyfs umount`.
#[derive(Args, Debug)]
pub(crate) struct Umount {
    /// Where it is mounted.
    pub(crate) mountpoint: PathBuf,
    /// Detach at once; those who use it finish on their own.
    #[arg(long)]
    pub(crate) lazy: bool,
}

/// The version, with the commit it was built from.
const fn version() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("POLYFS_COMMIT"), ")")
}

/// Parses the command line, with the configuration file's flags added.
pub(crate) fn parse(typed: Vec<OsString>) -> Result<Invocation, clap::Error> {
    let invocation = Invocation::try_parse_from(&typed);
    // What a command cannot do without may be in the file.
    if let Err(error) = &invocation
        && error.kind() != ErrorKind::MissingRequiredArgument
    {
        return invocation;
    }
    let Some(file) = file_of(&typed) else {
        return invocation;
    };
    let mut all = typed.clone();
    match configuration::flags_not_typed(&file, &Invocation::command(), &typed) {
        Ok(flags) => {
            let end = configuration::before_operands(&typed).count();
            all.splice(end..end, flags);
        }
        Err(error) => {
            let message = format!("{error:#}\n");
            return Err(Invocation::command().error(ErrorKind::InvalidValue, message));
        }
    }
    // All that was typed is well formed: what is not is in the file.
    Invocation::try_parse_from(&all).map_err(|error| match error.kind() {
        ErrorKind::MissingRequiredArgument => error,
        kind => {
            let text = error.render().to_string();
            let text = text.trim_start_matches("error: ");
            clap::Error::raw(kind, format!("in {}: {text}", file.display()))
        }
    })
}

/// The configuration file that is named, however incomplete the rest is.
fn file_of(typed: &[OsString]) -> Option<PathBuf> {
    let lenient = Invocation::command().ignore_errors(true);
    let matches = lenient.try_get_matches_from(typed).ok()?;
    let below = matches.subcommand().map(|(_, matches)| matches);
    let named = |matches: &ArgMatches| matches.get_one::<PathBuf>("config").cloned();
    named(&matches).or_else(|| below.and_then(named))
}

/// The script for a shell.
pub(crate) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    let mut command = Invocation::command();
    clap_complete::generate(shell, &mut command, "polyfs", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Invocation, clap::Error> {
        parse(words.iter().map(Into::into).collect())
    }

    #[test]
    fn the_commands_are_well_formed() {
        Invocation::command().debug_assert();
    }

    #[test]
    fn a_missing_mountpoint_is_wrong_usage() {
        let error = parse_words(&["polyfs", "up"]).expect_err("no mountpoint");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn wrong_values_are_wrong_usage_and_the_flag_is_named() {
        let node = [
            "polyfs",
            "node",
            "--data",
            "/d",
            "--listen",
            "10.0.0.1:7791",
        ];
        for (flag, value) in [
            ("--advertise", "foo"),
            ("--advertise", "foo:0"),
            ("--advertise", "0.0.0.0:7791"),
            ("--waypoint", ""),
            ("--waypoint", "w1"),
            ("--waypoint", "w1:7790,"),
            ("--zone", "a\tb"),
            ("--capacity", "0"),
            ("--capacity", "9999999EB"),
            ("--expect", "0"),
        ] {
            let mut words = node.to_vec();
            words.extend([flag, value]);
            let error = parse_words(&words).expect_err(flag);
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(flag), "{flag} {value}: {error}");
        }
        let listen = ["polyfs", "node", "--data", "/d", "--listen", "7791"];
        let error = parse_words(&listen).expect_err("no host");
        assert!(error.to_string().contains("--listen"), "{error}");
    }

    #[test]
    fn what_is_typed_wins_over_the_file() {
        let dir = std::env::temp_dir().join(format!("polyfs-args-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for the test");
        let file = dir.join("polyfs.toml");
        std::fs::write(&file, "data = \"/from/file\"\nlog = \"debug\"\n").expect("a file");
        let file = file.to_str().expect("a plain path");
        let typed = ["polyfs", "up", "/mnt", "--config", file, "--data", "/typed"];
        let invocation = parse_words(&typed).expect("well formed");
        assert_eq!(invocation.log.as_deref(), Some("debug"));
        let Command::Up(up) = invocation.command else {
            panic!("up was asked for")
        };
        assert_eq!(up.data, Some(PathBuf::from("/typed")));
        std::fs::write(dir.join("polyfs.toml"), "dta = 1\n").expect("a file");
        let error = parse_words(&typed).expect_err("an unknown key");
        assert!(error.to_string().contains("dta"), "{error}");
        std::fs::remove_dir_all(dir).expect("the test's own directory");
    }

    #[test]
    fn a_file_may_bring_what_a_command_cannot_do_without() {
        let dir = std::env::temp_dir().join(format!("polyfs-args-all-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for the test");
        let file = dir.join("node.toml");
        std::fs::write(&file, "data = \"/d\"\nlisten = \"10.0.0.1:7791\"\n").expect("a file");
        let name = file.to_str().expect("a plain path");
        for typed in [
            ["polyfs", "node", "--config", name],
            ["polyfs", "--config", name, "node"],
        ] {
            let Command::Node(node) = parse_words(&typed).expect("well formed").command else {
                panic!("node was asked for")
            };
            assert_eq!(node.listen, "10.0.0.1:7791");
        }
        std::fs::write(&file, "data = \"/d\"\n").expect("a file");
        let error = parse_words(&["polyfs", "node", "--config", name]).expect_err("no address");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--listen"), "{error}");
        std::fs::write(&file, "data = \"/d\"\nlisten = \"x\"\n").expect("a file");
        let error = parse_words(&["polyfs", "node", "--config", name]).expect_err("no port");
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("HOST:PORT"), "{text}");
        std::fs::remove_dir_all(dir).expect("the test's own directory");
    }
}
