//! What core, store, node and model must not name: executors, simulators, clocks, threads, randomness.
//!
//! Reads paths and imports as syntax, so a word in a comment or a name such as `TokioRuntime` is no finding. The
//! compiler holds the same line for core (`no_std`), clippy's `disallowed-methods` for calls.

use syn::visit::{self, Visit};

use super::{Finding, Source};

/// Crates that code without a runtime of its own may not name; openraft_rt, their abstraction, is another word.
const CRATES: &[&str] = &[
    "tokio",
    "madsim",
    "rand",
    "getrandom",
    "fastrand",
    "async_std",
];
/// Where the line holds, and which of [`CRATES`] are welcome all the same.
const FOLDERS: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("store", &[]),
    ("node", &[]),
    // Operations and schedules are drawn from a seed.
    ("model", &["rand"]),
];

/// Checks one file.
pub(super) fn check(source: &Source, findings: &mut Vec<Finding>) {
    let Some((_, welcome)) = FOLDERS
        .iter()
        .find(|(folder, _)| *folder == source.package())
    else {
        return;
    };
    if source.is_test() {
        return;
    }
    let mut paths = Paths {
        source,
        welcome,
        findings,
    };
    paths.visit_file(&source.syntax);
}

struct Paths<'a> {
    source: &'a Source,
    welcome: &'a [&'static str],
    findings: &'a mut Vec<Finding>,
}

impl Paths<'_> {
    fn path(&mut self, words: &[String], line: usize) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let wrong = match words.as_slice() {
            [name, _, ..] if CRATES.contains(name) && !self.welcome.contains(name) => {
                "take tasks, timers, channels and randomness from Runtime, or as arguments"
            }
            [
                "std",
                "time",
                "Instant" | "SystemTime" | "*" | "UNIX_EPOCH",
                ..,
            ] => "time is an argument: polyfs_core::time::Now",
            // Asks about this thread only: what a destructor must know before it complains.
            ["std", "thread", "panicking"] => return,
            ["std", "thread", ..] => "threads belong to a runtime: see Runtime::blocking",
            _ => return,
        };
        let text = format!("{} may not be named here: {wrong}", words.join("::"));
        self.findings.push(self.source.at(line, text));
    }

    fn tree(&mut self, tree: &syn::UseTree, before: &[String]) {
        let mut words = before.to_vec();
        let leaf = match tree {
            syn::UseTree::Path(path) => {
                words.push(path.ident.to_string());
                self.tree(&path.tree, &words);
                return;
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(tree, before);
                }
                return;
            }
            syn::UseTree::Name(name) => &name.ident,
            syn::UseTree::Rename(rename) => &rename.ident,
            syn::UseTree::Glob(glob) => {
                words.push("*".to_owned());
                return self.path(&words, glob.star_token.spans[0].start().line);
            }
        };
        // `use tokio;` and `use std::time::{self}` name the whole of it.
        words.push(if leaf == "self" || before.is_empty() {
            "*".to_owned()
        } else {
            leaf.to_string()
        });
        if before.is_empty() {
            words.insert(0, leaf.to_string());
        }
        self.path(&words, leaf.span().start().line);
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        if let Some(first) = path.segments.first() {
            self.path(&words, first.ident.span().start().line);
        }
        visit::visit_path(self, path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        let source = Source::parse(path.to_owned(), text.to_owned()).unwrap();
        let mut findings = Vec::new();
        check(&source, &mut findings);
        findings.iter().map(|finding| finding.line).collect()
    }

    const BAD: &str = "//! x\nuse std::{thread, time::{Duration, Instant}};\nuse tokio::sync::mpsc;\n\
        fn f() { std::thread::spawn(|| rand::random::<u8>()); }\nfn g(t: std::time::SystemTime) {}\n";
    const GOOD: &str = "//! tokio::spawn, std::thread\nuse std::time::Duration;\nuse openraft_rt::AsyncRuntime;\n\
        fn f(rand: u64) -> u64 { rand }\nstruct TokioRuntime;\n#[cfg(test)]\nmod tests { use std::thread; }\n";

    #[test]
    fn forbidden_names_are_found_where_they_stand() {
        assert_eq!(lines("node/src/a.rs", BAD), [2, 2, 3, 4, 4, 5]);
        assert_eq!(
            lines("model/src/a.rs", "//! x\nuse rand::Rng;\nuse tokio::x;\n"),
            [3]
        );
    }

    #[test]
    fn other_names_and_other_places_are_fine() {
        assert!(lines("node/src/a.rs", GOOD).is_empty());
        assert!(lines("runtime-tokio/src/a.rs", BAD).is_empty());
        assert!(lines("node/src/a/tests.rs", BAD).is_empty());
    }
}
