//! The rules of style that no compiler checks: who may depend on whom, what may be named where, how long things are.
//!
//! Owns the list of checks and how a finding is shown: the file and line, what is wrong, what to do.
//! `xtask/tidy-exceptions.toml` lists what is known and why; an exception that is no longer needed is a finding too,
//! so that the list only shrinks.

mod dependencies;
mod exceptions;
mod names;
mod source;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use exceptions::Exceptions;

/// One thing to mend.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Relative to the workspace's root.
    pub(crate) file: String,
    /// From 1.
    pub(crate) line: usize,
    /// What is wrong and what to do.
    pub(crate) text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.text)
    }
}

/// A Rust file of the workspace, as every check sees it.
pub(crate) struct Source {
    /// Relative to the workspace's root, with forward slashes.
    pub(crate) path: String,
    /// Its text.
    pub(crate) text: String,
    /// Parsed.
    pub(crate) syntax: syn::File,
}

impl Source {
    /// Parses a file's text.
    pub(crate) fn parse(path: String, text: String) -> Result<Self> {
        let syntax = syn::parse_file(&text).with_context(|| path.clone())?;
        Ok(Self { path, text, syntax })
    }

    /// The folder of the crate it belongs to: `core` of `core/src/lib.rs`.
    pub(crate) fn package(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }

    /// Whether all of it is test code.
    pub(crate) fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// A finding at a line of it.
    pub(crate) fn at(&self, line: usize, text: impl Into<String>) -> Finding {
        Finding {
            file: self.path.clone(),
            line,
            text: text.into(),
        }
    }
}

/// `cargo xtask tidy`.
pub(crate) fn run() -> Result<()> {
    check(&Workspace::load()?)?;
    println!("tidy: ok");
    Ok(())
}

/// Prints every finding; an error when there is one.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let mut exceptions = Exceptions::load(&workspace.root)?;
    let mut findings = dependencies::check(workspace);
    for source in sources(workspace)? {
        names::check(&source, &mut findings);
        source::check(&source, &mut exceptions, &mut findings);
    }
    exceptions.report_unused(&mut findings);
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings", findings.len());
    }
    Ok(())
}

/// Every Rust file that git knows or would add.
fn sources(workspace: &Workspace) -> Result<Vec<Source>> {
    let listing = workspace.git(&[
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
        "*.rs",
    ])?;
    let mut paths: Vec<&str> = listing.lines().collect();
    paths.sort_unstable();
    paths.dedup();
    let mut sources = Vec::new();
    for path in paths {
        let file: PathBuf = workspace.root.join(Path::new(path));
        // A file that was deleted but not yet committed is still listed.
        if file.is_file() {
            let text = std::fs::read_to_string(&file).with_context(|| path.to_owned())?;
            sources.push(Source::parse(path.to_owned(), text)?);
        }
    }
    Ok(sources)
}
