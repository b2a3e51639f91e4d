//! The configuration file: a TOML table whose keys are the flags' names.
//!
//! Owns how it becomes flags, and what is said of one that can't. Which flags there are is the arguments' business.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use clap::Arg;

/// No file of flags comes near; what never ends is not read to its end.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The flags in `file` that `typed` does not have.
pub(crate) fn flags_not_typed(
    file: &Path,
    command: &clap::Command,
    typed: &[OsString],
) -> anyhow::Result<Vec<OsString>> {
    let table: toml::Table = read(file)?
        .parse()
        .with_context(|| format!("the configuration file {} is not TOML", file.display()))?;
    let chosen = chosen(command, typed);
    let mut flags = Vec::new();
    for (key, value) in &table {
        // The global ones, and those of the command that runs.
        let here = own(command, key).or_else(|| own(chosen, key));
        let anywhere = here.clone().or_else(|| below(command, key));
        let argument = match anywhere {
            Some(argument) if key != "config" => argument,
            _ => bail!(
                "{} sets {key:?}, which is no flag that a file can set; see polyfs --help",
                file.display()
            ),
        };
        let wrong = || format!("{} sets {key} wrongly", file.display());
        let made = flag(&argument, key, value).with_context(wrong)?;
        // One file may serve several commands: flags of the others are not for this one.
        if here.is_some() && !is_typed(typed, key) {
            flags.extend(made);
        }
    }
    Ok(flags)
}

/// The command that the words choose: a word may choose one below the last.
fn chosen<'c>(command: &'c clap::Command, typed: &[OsString]) -> &'c clap::Command {
    let words = before_operands(typed).filter_map(|word| word.to_str());
    words.fold(command, |at, word| at.find_subcommand(word).unwrap_or(at))
}

/// After `--` nothing is a flag.
pub(crate) fn before_operands(typed: &[OsString]) -> impl Iterator<Item = &OsString> {
    typed.iter().take_while(|word| *word != "--")
}

fn own(command: &clap::Command, key: &str) -> Option<Arg> {
    let mut arguments = command.get_arguments();
    let found = arguments.find(|argument| argument.get_long() == Some(key));
    found.cloned()
}

fn below(command: &clap::Command, key: &str) -> Option<Arg> {
    let mut commands = command.get_subcommands();
    commands.find_map(|command| own(command, key).or_else(|| below(command, key)))
}

fn read(file: &Path) -> anyhow::Result<String> {
    let unread = || format!("the configuration file {} can't be read", file.display());
    let mut text = String::new();
    let opened = File::open(file).with_context(unread)?;
    if opened.metadata().with_context(unread)?.is_dir() {
        bail!("the configuration file {} is a directory", file.display());
    }
    let mut limited = opened.take(FILE_BYTES_MAX + 1);
    let read = limited.read_to_string(&mut text);
    if limited.limit() == 0 {
        bail!(
            "the configuration file {} is larger than 1 MiB: is it the right one?",
            file.display()
        );
    }
    read.with_context(unread)?;
    Ok(text)
}

fn is_typed(typed: &[OsString], key: &str) -> bool {
    let flag = format!("--{key}");
    let with_value = format!("--{key}=");
    before_operands(typed)
        .filter_map(|word| word.to_str())
        .any(|word| word == flag || word.starts_with(&with_value))
}

/// The flag that a value stands for, if any.
fn flag(argument: &Arg, key: &str, value: &toml::Value) -> anyhow::Result<Option<OsString>> {
    let takes_value = argument.get_action().takes_values();
    let text = match value {
        toml::Value::Boolean(set) if !takes_value => {
            return Ok(set.then(|| format!("--{key}").into()));
        }
        _ if !takes_value => bail!("it must be true or false"),
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Array(items) if items.is_empty() => bail!("the list is empty"),
        toml::Value::Array(items) if argument.get_value_delimiter().is_some() => {
            let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
            let texts: Option<Vec<String>> = texts.collect();
            texts.context("it must be a list of strings")?.join(",")
        }
        _ if argument.get_value_delimiter().is_some() => {
            bail!("it must be a string or a list of strings")
        }
        _ => bail!("it must be a string or a number"),
    };
    Ok(Some(format!("--{key}={text}").into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Invocation;
    use clap::CommandFactory as _;

    fn flags(content: &[u8], typed: &[&str]) -> Result<Vec<OsString>, String> {
        let name = format!("polyfs-config-{}-{:x}", std::process::id(), sum(content));
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, content).expect("a file for the test");
        let typed: Vec<OsString> = typed.iter().map(Into::into).collect();
        let flags = flags_not_typed(&file, &Invocation::command(), &typed);
        std::fs::remove_file(&file).expect("the test's own file");
        flags.map_err(|error| format!("{error:#}"))
    }

    fn sum(content: &[u8]) -> usize {
        content.iter().fold(content.len(), |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(usize::from(*byte))
        })
    }

    #[test]
    fn values_of_the_wrong_kind_are_refused_by_name() {
        let node = ["polyfs", "node"];
        for (line, word) in [
            ("data = false", "data"),
            ("data = true", "data"),
            ("data = 1.5", "data"),
            ("data = [\"a\"]", "data"),
            ("join-only = \"yes\"", "join-only"),
            ("join-only = 1", "join-only"),
            ("waypoint = [1]", "waypoint"),
            ("waypoint = true", "waypoint"),
            ("dta = \"x\"", "dta"),
            ("config = \"other\"", "config"),
            ("[node]\ndata = \"x\"", "node"),
            ("data", "TOML"),
            // A flag of another command is looked at all the same.
            ("daemon = \"no\"", "daemon"),
        ] {
            let error = flags(line.as_bytes(), &node).expect_err(line);
            assert!(error.contains(word), "{line}: {error}");
        }
        let good = "data = \"/d\"\njoin-only = true\nwaypoint = [\"a:1\", \"b:2\"]\ndaemon = true\nexpect = 3\n";
        let made = flags(good.as_bytes(), &node).expect("all are right");
        let wanted = [
            "--data=/d",
            "--expect=3",
            "--join-only",
            "--waypoint=a:1,b:2",
        ];
        assert_eq!(made, wanted.map(OsString::from));
    }

    #[test]
    fn what_is_no_text_or_never_ends_is_refused() {
        let command = Invocation::command();
        let endless = flags_not_typed(Path::new("/dev/zero"), &command, &[]);
        assert!(
            endless
                .expect_err("too large")
                .to_string()
                .contains("1 MiB")
        );
        assert!(flags(b"\xff\xfe\x00", &["polyfs", "up"]).is_err());
        assert!(flags_not_typed(Path::new("/"), &command, &[]).is_err());
    }
}
