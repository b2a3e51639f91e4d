//! How a broken build is made: `--cfg planted="NAME"` is added for the crates of this workspace alone, by a compiler wrapper
//! in a target directory of its own. So dependencies are built once for all names, and the product never sees a broken
//! build. (A cargo feature would leak into the product, and `build.rustflags` would build every dependency again for
//! each name.)
//!
//! Owns that directory. Cargo does not know what the wrapper adds: the packages in which the bug, or the one before it, is
//! planted are marked as not built. All others keep what was built for earlier names.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace::Workspace;

/// A bug planted in the target directory of broken builds.
pub(super) struct Broken {
    target: PathBuf,
    wrapper: PathBuf,
}

impl Broken {
    /// Plants the bug of that name; whatever was planted before is gone.
    pub(super) fn plant(workspace: &Workspace, name: &str) -> Result<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        ensure!(
            !name.is_empty() && name.chars().all(plain),
            "a name has letters, digits, _ and - only"
        );
        let target = workspace.target.join("planted");
        std::fs::create_dir_all(&target)?;
        let (wrapper, note) = (target.join("wrapper"), target.join("name"));
        let before = std::fs::read_to_string(&note).unwrap_or_default();
        if before != name {
            let packages = packages_with(workspace, name)?;
            ensure!(!packages.is_empty(), "no source has planted = \"{name}\"");
            for package in packages.iter().chain(&packages_with(workspace, &before)?) {
                forget(&target, package)?;
            }
            std::fs::write(&note, name)?;
        }
        let text = format!(
            "#!/bin/sh\nexec \"$@\" --cfg \"planted=\\\"$(cat '{}')\\\"\"\n",
            note.display()
        );
        std::fs::write(&wrapper, text)?;
        std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self { target, wrapper })
    }

    /// Makes a cargo command build and run what is broken. Nobody debugs it.
    pub(super) fn dress(&self, command: &mut Command) {
        command
            .env("RUSTC_WORKSPACE_WRAPPER", &self.wrapper)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_PROFILE_DEV_DEBUG", "false");
    }

    /// Drops what the compiler kept of earlier builds: one that was ended in its middle may have left half of it.
    pub(super) fn forget_partial(&self) {
        // What is not there need not be dropped, and what can't be shows in the next build.
        let _ = std::fs::remove_dir_all(self.target.join("debug/incremental"));
    }
}

/// The packages in whose sources the bug is planted.
fn packages_with(workspace: &Workspace, name: &str) -> Result<Vec<String>> {
    let mut packages = Vec::new();
    for package in &workspace.packages {
        if !name.is_empty() && plants(&package.folder().join("src"), name)? {
            packages.push(package.name.clone());
        }
    }
    Ok(packages)
}

fn plants(folder: &Path, name: &str) -> Result<bool> {
    let plant = format!("planted = \"{name}\"");
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let here = match path.extension() {
            _ if path.is_dir() => plants(&path, name)?,
            Some(extension) if extension == "rs" => {
                std::fs::read_to_string(&path)?.contains(&plant)
            }
            _ => false,
        };
        if here {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Lets cargo believe that it never built a package.
fn forget(target: &Path, package: &str) -> Result<()> {
    let Ok(built) = std::fs::read_dir(target.join("debug/.fingerprint")) else {
        return Ok(());
    };
    for entry in built {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let hash = name.and_then(|name| name.strip_prefix(package)?.strip_prefix('-'));
        if hash.is_some_and(|hash| !hash.contains('-')) {
            std::fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}
