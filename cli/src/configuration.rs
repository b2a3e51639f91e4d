//! The configuration file: a TOML table whose keys are the flags' names.
//!
//! Owns how it becomes flags. Which flags there are is the arguments' business.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context as _, bail};

/// The flags in `file` that `typed` does not have.
pub(crate) fn flags_not_typed(
    file: &Path,
    command: &clap::Command,
    typed: &[OsString],
) -> anyhow::Result<Vec<OsString>> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("the configuration file {} can't be read", file.display()))?;
    let table: toml::Table = text
        .parse()
        .with_context(|| format!("the configuration file {} is not TOML", file.display()))?;
    let subcommand = typed
        .iter()
        .filter_map(|word| word.to_str())
        .find_map(|word| command.find_subcommand(word));
    let mut flags = Vec::new();
    for (key, value) in &table {
        let known = |command: &clap::Command| {
            command
                .get_arguments()
                .any(|argument| argument.get_long() == Some(key))
        };
        if !known(command) && !command.get_subcommands().any(known) {
            bail!(
                "{} sets {key:?}, which is no flag; see polyfs --help",
                file.display()
            );
        }
        // One file may serve several commands: flags of the others are not for this one.
        let applies = known(command) || subcommand.is_some_and(known);
        if applies && !is_typed(typed, key) {
            flags.extend(flag(key, value)?);
        }
    }
    Ok(flags)
}

fn is_typed(typed: &[OsString], key: &str) -> bool {
    let flag = format!("--{key}");
    let with_value = format!("--{key}=");
    typed
        .iter()
        .filter_map(|word| word.to_str())
        .any(|word| word == flag || word.starts_with(&with_value))
}

fn flag(key: &str, value: &toml::Value) -> anyhow::Result<Vec<OsString>> {
    let text = match value {
        toml::Value::Boolean(false) => return Ok(Vec::new()),
        toml::Value::Boolean(true) => return Ok(vec![format!("--{key}").into()]),
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Array(items) => {
            let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
            let texts: Option<Vec<String>> = texts.collect();
            texts
                .with_context(|| format!("{key} must be a list of strings"))?
                .join(",")
        }
        _ => bail!("{key} must be a string, a number, true or false, or a list of strings"),
    };
    Ok(vec![format!("--{key}={text}").into()])
}
