//! What must hold in the state of a set of meta regions together.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::entry::{Entry, Fragment};
use super::inode::Inode;
use super::key::{self, Kind};
use super::kv::{KvError, KvRead};
use super::{record, runs};
use crate::attr::FileKind;
use crate::place::Ino;

/// Every broken law, in words: entries have inodes, link counts match, fragments count their entries, runs don't
/// overlap. Empty when all is well.
///
/// # Errors
/// As [`KvError`].
pub fn check_invariants(regions: &[&dyn KvRead]) -> Result<Vec<String>, KvError> {
    let mut found = Vec::new();
    let mut inodes: BTreeMap<Ino, Inode> = BTreeMap::new();
    let (mut names, mut subdirs): (BTreeMap<Ino, u32>, BTreeMap<Ino, u32>) = Default::default();
    let (mut held, mut counted): (BTreeMap<Ino, u64>, BTreeMap<Ino, u64>) = Default::default();
    let bad = || KvError::Corrupt("a key is too short".into());
    for state in regions {
        for (_, inode) in record::all::<Inode>(*state, "inode", key::all_of(Kind::Inode))? {
            let mut end = 0;
            for run in runs::load(*state, inode.attr.ino)? {
                if run.first < end {
                    found.push(format!("{:?}: runs overlap", inode.attr.ino));
                }
                end = run.first + run.count;
            }
            inodes.insert(inode.attr.ino, inode);
        }
        for (key, entry) in record::all::<Entry>(*state, "entry", key::all_of(Kind::Entry))? {
            let dir = Ino(key::number(&key, 0).ok_or_else(bad)?);
            *held.entry(dir).or_default() += 1;
            *names.entry(entry.child).or_default() += 1;
            if entry.kind == FileKind::Directory {
                *subdirs.entry(dir).or_default() += 1;
            }
        }
        let fragments = record::all::<Fragment>(*state, "fragment", key::all_of(Kind::Fragment))?;
        for (key, fragment) in fragments {
            let dir = Ino(key::number(&key, 0).ok_or_else(bad)?);
            *counted.entry(dir).or_default() += fragment.count;
        }
    }
    for child in names.keys().filter(|child| !inodes.contains_key(child)) {
        found.push(format!("an entry names {child:?}, which is not there"));
    }
    for (ino, inode) in &inodes {
        let of = |map: &BTreeMap<Ino, u32>| map.get(ino).copied().unwrap_or(0);
        let directory = inode.attr.kind == FileKind::Directory;
        let links = if directory {
            2 + of(&subdirs)
        } else {
            of(&names)
        };
        if inode.attr.nlink != links {
            found.push(format!("{ino:?}: nlink {}, not {links}", inode.attr.nlink));
        }
    }
    for (dir, held) in &held {
        if counted.get(dir) != Some(held) {
            found.push(format!(
                "{dir:?}: {held} entries, counted {:?}",
                counted.get(dir)
            ));
        }
    }
    for (dir, count) in &counted {
        if *count > 0 && !held.contains_key(dir) {
            found.push(format!("{dir:?}: no entries, counted {count}"));
        }
    }
    Ok(found)
}
