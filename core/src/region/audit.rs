//! What must hold in the state of a cluster's meta regions together (fsck, and every simulation's end).
//!
//! Owns the checks: every entry has its inode, link counts match, fragments count their entries, runs don't overlap, no
//! intent is left. Works on records as they are stored, region by region.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::entry::{self, Fragment};
use super::inode::Inode;
use super::key::{self, Kind};
use super::kv::{KvError, KvRead};
use crate::attr::FileKind;
use crate::place::Ino;

/// What one region, or several together, hold.
#[derive(Default)]
struct Gathered {
    inodes: BTreeMap<Ino, Inode>,
    /// Entries by child: which directories name it.
    named: BTreeMap<Ino, Vec<Ino>>,
    subdirs: BTreeMap<Ino, u32>,
    entries: BTreeMap<Ino, u64>,
    counted: BTreeMap<Ino, u64>,
    orphans: Vec<Ino>,
    findings: Vec<String>,
}

/// Audits the meta regions of a cluster at rest; what it finds wrong, in words.
///
/// # Errors
/// As [`KvError`].
pub fn meta(regions: &[&dyn KvRead]) -> Result<Vec<String>, KvError> {
    let mut gathered = Gathered::default();
    for state in regions {
        gathered.gather(*state)?;
    }
    gathered.judge();
    Ok(gathered.findings)
}

fn id(key: &[u8]) -> Result<Ino, KvError> {
    let number = key::number(key, 0);
    Ok(Ino(number.ok_or_else(|| {
        KvError::Corrupt("a key is short".into())
    })?))
}

impl Gathered {
    fn gather(&mut self, state: &dyn KvRead) -> Result<(), KvError> {
        let all = |kind| {
            let (from, to) = key::all_of(kind);
            state.scan(&from, &to, usize::MAX)
        };
        for (key, value) in all(Kind::Inode)? {
            let inode = crate::codec::decode_versioned("inode", super::VERSION, &value)?;
            self.inodes.insert(id(&key)?, inode);
        }
        for (key, value) in all(Kind::Fragment)? {
            let fragment: Fragment =
                crate::codec::decode_versioned("fragment", super::VERSION, &value)?;
            *self.counted.entry(id(&key)?).or_default() += fragment.entries;
        }
        let entries = all(Kind::Entry)?;
        let dirs: Vec<Ino> = entries
            .iter()
            .map(|(key, _)| id(key))
            .collect::<Result<_, _>>()?;
        for (dir, (_, entry)) in dirs.into_iter().zip(entry::decode(entries)?) {
            *self.entries.entry(dir).or_default() += 1;
            self.named.entry(entry.child).or_default().push(dir);
            if entry.kind == FileKind::Directory {
                *self.subdirs.entry(dir).or_default() += 1;
            }
        }
        for (key, _) in all(Kind::Orphan)? {
            self.orphans.push(id(&key)?);
        }
        for (key, _) in all(Kind::Intent)?.into_iter().chain(all(Kind::Txn)?) {
            self.findings
                .push(format!("a transaction left {key:?} behind"));
        }
        Ok(())
    }

    fn judge(&mut self) {
        let mut findings = Vec::new();
        for (child, dirs) in &self.named {
            if !self.inodes.contains_key(child) {
                findings.push(format!("{child:?} is named in {dirs:?} but has no inode"));
            }
        }
        for (ino, inode) in &self.inodes {
            let names = self.named.get(ino).map_or(0, Vec::len);
            let is_root = inode.parent == *ino && inode.kind == FileKind::Directory;
            match inode.kind {
                FileKind::Directory if inode.nlink == 0 => {}
                FileKind::Directory => {
                    let subdirs = self.subdirs.get(ino).copied().unwrap_or(0);
                    if inode.nlink != 2 + subdirs {
                        findings.push(format!(
                            "directory {ino:?} has {subdirs} subdirectories but nlink {}",
                            inode.nlink
                        ));
                    }
                    if names != usize::from(!is_root) {
                        findings.push(format!("directory {ino:?} has {names} names"));
                    }
                    if !is_root && !self.named[ino].contains(&inode.parent) {
                        findings.push(format!(
                            "directory {ino:?} says it is in {:?}, which does not name it",
                            inode.parent
                        ));
                    }
                }
                FileKind::Regular
                | FileKind::Symlink
                | FileKind::Fifo
                | FileKind::Socket
                | FileKind::CharDevice
                | FileKind::BlockDevice => {
                    if usize::try_from(inode.nlink).unwrap_or(usize::MAX) != names {
                        findings.push(format!(
                            "{ino:?} has {names} names but nlink {}",
                            inode.nlink
                        ));
                    }
                }
            }
            if inode.nlink == 0 && !self.orphans.contains(ino) {
                findings.push(format!("{ino:?} has no name and nobody waits for its end"));
            }
        }
        for (dir, counted) in &self.counted {
            let entries = self.entries.get(dir).copied().unwrap_or(0);
            if *counted != entries {
                findings.push(format!(
                    "directory {dir:?} has {entries} entries but counts {counted}"
                ));
            }
        }
        for dir in self.entries.keys() {
            if !self.counted.contains_key(dir) {
                findings.push(format!("directory {dir:?} has entries but no fragment"));
            }
        }
        self.findings.append(&mut findings);
    }
}
