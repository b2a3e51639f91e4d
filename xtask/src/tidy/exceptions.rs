//! `xtask/tidy-exceptions.toml`: what breaks a rule of size, known and with a reason.
//!
//! A ratchet: an entry states the size that is tolerated; growth past it is a finding, and so is an entry that nothing
//! needs any more.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Finding;

/// Where the list lies.
const FILE: &str = "xtask/tidy-exceptions.toml";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    function: Vec<Function>,
}

/// A function that is longer than the rule allows.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Function {
    file: String,
    name: String,
    lines: usize,
    reason: String,
    #[serde(skip)]
    used: bool,
}

/// The list, and which of it was needed.
pub(super) struct Exceptions(List);

impl Exceptions {
    /// Reads the list; no file is an empty one.
    pub(super) fn load(root: &Path) -> Result<Self> {
        let path = root.join(FILE);
        if !path.exists() {
            return Self::parse("");
        }
        Self::parse(&std::fs::read_to_string(path).context(FILE)?)
    }

    /// Reads it from its text.
    pub(super) fn parse(text: &str) -> Result<Self> {
        Ok(Self(toml::from_str(text).context(FILE)?))
    }

    /// How many lines that function may have, if it is listed.
    pub(super) fn function(&mut self, file: &str, name: &str) -> Option<usize> {
        let entry = self
            .0
            .function
            .iter_mut()
            .find(|entry| entry.file == file && entry.name == name)?;
        entry.used = true;
        Some(entry.lines)
    }

    /// Entries that nothing needed, and those without a reason.
    pub(super) fn report_unused(&self, findings: &mut Vec<Finding>) {
        for entry in &self.0.function {
            let advice = if !entry.used {
                "is no longer too long, or gone: delete its exception"
            } else if entry.reason.trim().is_empty() {
                "needs a reason for its exception"
            } else {
                continue;
            };
            findings.push(Finding {
                file: FILE.to_owned(),
                line: 1,
                text: format!("{} in {} {advice}", entry.name, entry.file),
            });
        }
    }
}
