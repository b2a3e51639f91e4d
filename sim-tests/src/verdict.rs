//! Whether what mounts saw could have been seen on one local filesystem; if not, what was seen, for people to read.

use std::collections::BTreeSet;

use polyfs_core::place::Ino;
use polyfs_model::history::{Event, History};
use polyfs_model::linearize::{self, Verdict};
use polyfs_model::reference::Tree;

/// Events shown around a violation.
const SHOWN: usize = 12;
/// ... and how much of each: data is long.
const SHOWN_CHARACTERS: usize = 500;

/// Judges a history that began with an empty volume.
pub(crate) fn judge(history: &History, root: Ino) -> Result<(), String> {
    let history = history.with_parts_of_unknown_ends();
    match linearize::check(&Tree::new(root, 0o755, 0, 0), &history) {
        Verdict::Linearizable => Ok(()),
        Verdict::TooHard { longest, stuck } => Err(format!(
            "the search for an order gave up beyond {longest} events: {stuck:?}"
        )),
        Verdict::Violated { longest, stuck } => Err(tell(&history, longest, &stuck)),
    }
}

fn tell(history: &History, longest: usize, stuck: &[(usize, String)]) -> String {
    let history = history.in_order();
    let events = history.events();
    let numbers: Vec<usize> = stuck.iter().map(|(number, _)| *number).collect();
    let mut text = format!("no order gets past {longest} of {} calls", events.len());
    // What nobody learnt the end of is always open; it says little.
    let ended = |number: &usize| events[*number].ended.is_some();
    let told: Vec<usize> = numbers.iter().copied().filter(ended).collect();
    let subjects: BTreeSet<String> = told
        .iter()
        .filter_map(|number| subject(&events[*number]))
        .collect();
    for (number, event) in events.iter().enumerate() {
        let event = format!("{event:?}");
        let concerns = subjects.iter().any(|subject| event.contains(subject));
        let is_near = told.iter().any(|at| at.abs_diff(number) <= SHOWN);
        if !concerns && !is_near {
            continue;
        }
        let mark = if numbers.contains(&number) { "*" } else { " " };
        text += &format!("\n{mark}{number}: {}", shortened(&event));
    }
    for (number, why) in stuck {
        text += &format!("\n*{number} {}", shortened(why));
    }
    text
}

/// The inode that an event is about, as it is printed.
fn subject(event: &Event) -> Option<String> {
    let text = format!("{event:?}");
    let (_, rest) = text.split_once("ino: ")?;
    rest.split([',', ' ']).next().map(str::to_owned)
}

/// Long runs of zeros as their number, and no more than can be read.
fn shortened(event: &str) -> String {
    let mut text = String::new();
    let mut rest = event;
    while let Some(at) = rest.find("\\0\\0\\0\\0") {
        text.push_str(&rest[..at]);
        let zeros = rest[at..].trim_start_matches("\\0");
        text += &format!("<{} zeros>", (rest.len() - at - zeros.len()) / 2);
        rest = zeros;
    }
    text.push_str(rest);
    if let Some((cut, _)) = text.char_indices().nth(SHOWN_CHARACTERS) {
        text.truncate(cut);
    }
    text
}
