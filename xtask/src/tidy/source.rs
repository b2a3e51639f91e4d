//! Rules about the shape of a file: its header, its length, the length of its functions, its name, its marks.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::exceptions::Exceptions;
use super::{Finding, Source};

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 100;
/// A module of such a name owns nothing in particular.
const EMPTY_NAMES: &[&str] = &["utils", "util", "manager", "helper", "helpers", "misc"];

/// Checks one file.
pub(super) fn check(source: &Source, exceptions: &mut Exceptions, findings: &mut Vec<Finding>) {
    header(source, findings);
    length(source, findings);
    name(source, findings);
    marks(source, findings);
    let mut functions = Functions {
        source,
        exceptions,
        findings,
    };
    functions.visit_file(&source.syntax);
}

fn header(source: &Source, findings: &mut Vec<Finding>) {
    let first = source.text.lines().next().unwrap_or_default();
    if !first.starts_with("//!") {
        findings.push(source.at(
            1,
            "begin with //!: what this module owns and what it deliberately does not know",
        ));
    }
}

fn length(source: &Source, findings: &mut Vec<Finding>) {
    let lines = source.text.lines().count();
    if lines > FILE_LINES_MAX {
        findings.push(source.at(
            lines,
            format!(
                "{lines} lines, at most {FILE_LINES_MAX}: it hides a module that wants its own name"
            ),
        ));
    }
}

fn name(source: &Source, findings: &mut Vec<Finding>) {
    for part in source.path.trim_end_matches(".rs").split('/') {
        if EMPTY_NAMES.contains(&part) {
            findings.push(source.at(
                1,
                format!("`{part}` says nothing: name it after what it owns"),
            ));
        }
    }
}

/// Marks of unfinished work, in comments. Built from pieces so that this file passes its own check.
fn marks(source: &Source, findings: &mut Vec<Finding>) {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
    ];
    for (at, line) in source.text.lines().enumerate() {
        let Some((_, comment)) = line.split_once("//") else {
            continue;
        };
        let mut words = comment.split(|c: char| !c.is_ascii_alphanumeric());
        if let Some(mark) = words.find(|word| marks.contains(word)) {
            findings.push(source.at(
                at + 1,
                format!("{mark}: finish it, or say in the docs what is missing"),
            ));
        }
    }
}

struct Functions<'a> {
    source: &'a Source,
    exceptions: &'a mut Exceptions,
    findings: &'a mut Vec<Finding>,
}

impl Functions<'_> {
    fn check(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let first = signature.span().start().line;
        let lines = block.span().end().line + 1 - first;
        if lines <= FUNCTION_LINES_MAX {
            return;
        }
        let name = signature.ident.to_string();
        let allowed = self.exceptions.function(&self.source.path, &name);
        if lines > allowed.unwrap_or(FUNCTION_LINES_MAX) {
            self.findings.push(self.source.at(
                first,
                format!(
                    "{name} has {lines} lines, at most {}: split it, or list it with a reason in \
                     xtask/tidy-exceptions.toml",
                    allowed.unwrap_or(FUNCTION_LINES_MAX)
                ),
            ));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.check(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.check(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.check(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        if item.content.is_some() && EMPTY_NAMES.contains(&name.as_str()) {
            let line = item.ident.span().start().line;
            self.findings.push(self.source.at(
                line,
                format!("`{name}` says nothing: name it after what it owns"),
            ));
        }
        visit::visit_item_mod(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str, exceptions: &str) -> Vec<String> {
        let source = Source::parse(path.to_owned(), text.to_owned()).unwrap();
        let mut exceptions = Exceptions::parse(exceptions).unwrap();
        let mut findings = Vec::new();
        check(&source, &mut exceptions, &mut findings);
        exceptions.report_unused(&mut findings);
        findings.iter().map(ToString::to_string).collect()
    }

    fn long_function(lines: usize) -> String {
        format!(
            "//! Owns.\nfn long() {{\n{}}}\n",
            "    ();\n".repeat(lines - 2)
        )
    }

    #[test]
    fn a_plain_module_passes() {
        assert!(findings("core/src/a.rs", "//! Owns a.\nfn f() {}\n", "").is_empty());
    }

    #[test]
    fn header_name_length_and_marks_are_found() {
        let text = format!(
            "fn f() {{}} // {}{}: later\n{}",
            "TO",
            "DO",
            "\n".repeat(900)
        );
        let found = findings("core/src/utils.rs", &text, "");
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(found[0].starts_with("core/src/utils.rs:1: begin with"));
        assert!(found[1].contains("901 lines"));
        assert!(found[2].contains("`utils`"));
        assert!(found[3].starts_with("core/src/utils.rs:1: "));
    }

    #[test]
    fn a_long_function_needs_an_exception_that_fits_and_is_needed() {
        let entry = |lines: usize| {
            format!("[[function]]\nfile='a.rs'\nname='long'\nlines={lines}\nreason='a table'\n")
        };
        assert!(findings("a.rs", &long_function(100), "").is_empty());
        assert_eq!(findings("a.rs", &long_function(101), "").len(), 1);
        assert!(findings("a.rs", &long_function(120), &entry(120)).is_empty());
        assert_eq!(findings("a.rs", &long_function(121), &entry(120)).len(), 1);
        assert_eq!(findings("a.rs", &long_function(90), &entry(120)).len(), 1);
    }
}
