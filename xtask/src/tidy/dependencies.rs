//! Which way the arrows between crates go.
//!
//! Owns the table of `ARCHITECTURE.md`: what each crate of ours may depend on, and which crates of others are at home
//! in one place only. What a dependency brings along in turn is deny.toml's to judge.

use super::Finding;
use crate::workspace::{Package, Workspace};

/// Each crate of ours, and which of ours it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("polyfs-core", &[]),
    ("polyfs-model", &["core"]),
    ("polyfs-store", &["core"]),
    ("polyfs-node", &["core", "store"]),
    ("polyfs-runtime-tokio", &["node", "store", "core"]),
    ("polyfs-runtime-sim", &["node", "store", "core"]),
    ("polyfs-fuse", &["node", "core"]),
    ("polyfs-docker", &["node", "core"]),
    (
        "polyfs-cli",
        &["core", "store", "node", "runtime-tokio", "fuse"],
    ),
    (
        "polyfs-sim-tests",
        &["runtime-sim", "node", "store", "model", "core"],
    ),
    ("polyfs-jepsen", &["model", "node", "core"]),
    ("polyfs-fuzz", &["core", "store", "node"]),
    ("polyfs-xtask", &[]),
];

/// Crates of others that only some of ours may name.
const AT_HOME: &[(&str, &[&str], &str)] = &[
    (
        "tokio",
        &["runtime-tokio", "runtime-sim", "cli"],
        "node is generic over Runtime; async code takes what it needs from there",
    ),
    (
        "openraft-rt-tokio",
        &["runtime-tokio", "runtime-sim"],
        "name openraft_rt's traits instead",
    ),
    (
        "madsim",
        &["runtime-sim", "sim-tests"],
        "production code never sees the simulator",
    ),
    (
        "fuser",
        &["fuse"],
        "the FUSE adapter is the only place that knows the kernel's protocol",
    ),
    (
        "redb",
        &["store"],
        "region state is reached through the store",
    ),
    (
        "bincode",
        &["core"],
        "encode and decode through polyfs_core::codec",
    ),
];

/// Executors that a crate generic over `Runtime` may test itself with.
const EXECUTORS: &[&str] = &["tokio", "openraft-rt-tokio"];

/// Checks every member.
pub(super) fn check(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &workspace.packages {
        check_package(workspace, package, &mut findings);
    }
    findings
}

fn check_package(workspace: &Workspace, package: &Package, findings: &mut Vec<Finding>) {
    let manifest = std::fs::read_to_string(&package.manifest_path).unwrap_or_default();
    let file = package
        .manifest_path
        .strip_prefix(&workspace.root)
        .unwrap_or(&package.manifest_path)
        .display()
        .to_string();
    let mut report = |name: &str, text: String| {
        findings.push(Finding {
            file: file.clone(),
            line: line_of(&manifest, name),
            text,
        });
    };
    let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == package.name) else {
        report(
            "name",
            format!(
                "{} is not in the table of xtask/src/tidy/dependencies.rs: enter what it may depend on",
                package.name
            ),
        );
        return;
    };
    for dependency in &package.dependencies {
        let name = dependency.name.as_str();
        let development = dependency.kind.as_deref() == Some("dev");
        if workspace.package(name).is_some() {
            if development {
                check_development(workspace, package, name, &mut report);
            } else if !allowed.contains(&folder(name)) {
                let list = if allowed.is_empty() {
                    "nothing of ours".to_owned()
                } else {
                    allowed.join(", ")
                };
                report(
                    name,
                    format!("{} may depend on {list}, not on {name}", package.name),
                );
            }
        } else if development && EXECUTORS.contains(&name) {
            // Tests may bring an executor of their own to run what is generic over one.
        } else if let Some((_, homes, advice)) = AT_HOME.iter().find(|(other, ..)| *other == name)
            && !homes.contains(&folder(&package.name))
        {
            report(
                name,
                format!("only {} may name {name}: {advice}", homes.join(", ")),
            );
        }
    }
}

/// A development dependency must not reach back to the crate itself (its types would exist twice), and core has none
/// of ours: what needs the model is tested from the model's side.
fn check_development(
    workspace: &Workspace,
    package: &Package,
    name: &str,
    report: &mut impl FnMut(&str, String),
) {
    if package.name == "polyfs-core" {
        report(
            name,
            format!("core's tests use core alone; a test that needs {name} lives in model/tests"),
        );
    } else if reaches(workspace, name, &package.name) {
        report(
            name,
            format!(
                "{name} depends on {}: put the test in a crate above both",
                package.name
            ),
        );
    }
}

fn reaches(workspace: &Workspace, from: &str, to: &str) -> bool {
    let mut open = vec![from.to_owned()];
    let mut seen = std::collections::BTreeSet::new();
    while let Some(name) = open.pop() {
        if name == to {
            return true;
        }
        if !seen.insert(name.clone()) {
            continue;
        }
        let dependencies = workspace
            .package(&name)
            .map_or(&[][..], |package| &package.dependencies);
        open.extend(
            dependencies
                .iter()
                .filter(|dependency| dependency.kind.as_deref() != Some("dev"))
                .map(|dependency| dependency.name.clone()),
        );
    }
    false
}

fn folder(name: &str) -> &str {
    name.strip_prefix("polyfs-").unwrap_or(name)
}

fn line_of(manifest: &str, name: &str) -> usize {
    manifest
        .lines()
        .position(|line| line.starts_with(name))
        .map_or(1, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
        Package {
            name: name.to_owned(),
            manifest_path: "/none/Cargo.toml".into(),
            dependencies: dependencies
                .iter()
                .map(|(name, kind)| Dependency {
                    name: (*name).to_owned(),
                    kind: kind.map(str::to_owned),
                })
                .collect(),
        }
    }

    fn findings(packages: Vec<Package>) -> Vec<String> {
        let workspace = Workspace {
            root: "/none".into(),
            target: "/none/target".into(),
            packages,
        };
        let texts = check(&workspace).into_iter().map(|finding| finding.text);
        texts.collect()
    }

    #[test]
    fn arrows_that_go_the_right_way_pass() {
        let found = findings(vec![
            package("polyfs-core", &[("serde", None)]),
            package("polyfs-store", &[("polyfs-core", None), ("redb", None)]),
            package("polyfs-model", &[("polyfs-core", None)]),
        ]);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn arrows_that_go_the_wrong_way_are_found() {
        let found = findings(vec![
            package("polyfs-core", &[("polyfs-model", Some("dev"))]),
            package("polyfs-store", &[("polyfs-node", Some("dev"))]),
            package(
                "polyfs-node",
                &[
                    ("polyfs-store", None),
                    ("polyfs-model", None),
                    ("tokio", None),
                ],
            ),
            package("polyfs-model", &[("polyfs-core", None)]),
            package("polyfs-new", &[]),
        ]);
        assert_eq!(found.len(), 5, "{found:#?}");
        assert!(found[0].contains("model/tests"));
        assert!(found[1].contains("polyfs-node depends on polyfs-store"));
        assert!(found[2].contains("not on polyfs-model"));
        assert!(found[3].contains("may name tokio"));
        assert!(found[4].contains("not in the table"));
    }
}
