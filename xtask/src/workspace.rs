//! The workspace as cargo sees it: its root, its target directory, its packages and what they depend on.
//!
//! Deliberately reads `cargo metadata --no-deps` only: it works offline and takes milliseconds.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::process;

/// What `cargo metadata` says of this workspace.
#[derive(Deserialize)]
pub(crate) struct Workspace {
    /// Where Cargo.toml of the workspace lies.
    #[serde(rename = "workspace_root")]
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    #[serde(rename = "target_directory")]
    pub(crate) target: PathBuf,
    /// The members.
    pub(crate) packages: Vec<Package>,
}

/// One member.
#[derive(Deserialize)]
pub(crate) struct Package {
    /// `polyfs-core`, say.
    pub(crate) name: String,
    /// Its Cargo.toml.
    pub(crate) manifest_path: PathBuf,
    /// What its Cargo.toml names, of every kind.
    pub(crate) dependencies: Vec<Dependency>,
}

/// One dependency as a manifest names it.
#[derive(Deserialize)]
pub(crate) struct Dependency {
    /// The package's name.
    pub(crate) name: String,
    /// None for a normal one, else `dev` or `build`.
    pub(crate) kind: Option<String>,
}

impl Workspace {
    /// Asks cargo about the workspace that the current directory lies in.
    pub(crate) fn load() -> Result<Self> {
        let output = process::command("cargo")
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .output()
            .context("cargo can't be started")?;
        ensure!(
            output.status.success(),
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).context("cargo metadata answered something else")
    }

    /// `cargo TASK` in the workspace's root.
    pub(crate) fn cargo(&self, task: &[&str]) -> std::process::Command {
        let mut command = process::command("cargo");
        command.args(task).current_dir(&self.root);
        command
    }

    /// The member of that name.
    pub(crate) fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }

    /// The directory beside the work tree with suites and benchmarks that are not part of this repository.
    pub(crate) fn shared(&self) -> PathBuf {
        std::env::var_os("POLYFS_SHARED").map_or_else(|| self.root.join("../shared"), PathBuf::from)
    }

    /// `git ARGS` in the root; its standard output.
    pub(crate) fn git(&self, arguments: &[&str]) -> Result<String> {
        let mut command = process::command("git");
        command.args(arguments).current_dir(&self.root);
        process::check("git", &mut command, Duration::from_secs(120))
    }

    /// The commit that is checked out, with a mark when the tree differs from it.
    pub(crate) fn commit(&self) -> String {
        self.git(&["describe", "--always", "--dirty", "--abbrev=12"])
            .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
    }
}

impl Package {
    /// The folder that holds it.
    pub(crate) fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(&self.manifest_path)
    }
}
