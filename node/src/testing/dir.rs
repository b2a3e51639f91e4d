//! What a directory and its files promise, but for what a power cut does: only a simulated disk can show that.

use polyfs_store::disk::{Dir, Disk, DiskError, OpenMode};

const CACHED: OpenMode = OpenMode {
    create: true,
    direct: false,
};
const DIRECT: OpenMode = OpenMode {
    create: true,
    direct: true,
};

/// Runs the suite in an empty directory and leaves it empty.
///
/// # Panics
/// With the promise that is not kept.
pub fn dir<D: Dir>(dir: &D) {
    assert_eq!(
        dir.list(),
        Ok(vec![]),
        "the suite starts in an empty directory"
    );
    names(dir);
    reading_and_writing(dir);
    lengths(dir);
    allocating_and_punching(dir);
    direct_files(dir);
    removed_files_live_while_open(dir);
    handles_share_a_file(dir);
    space(dir);
    for name in dir.list().expect("it can be listed") {
        dir.remove(&name).expect("it can be removed");
    }
    assert_eq!(dir.sync(), Ok(()));
}

fn names<D: Dir>(dir: &D) {
    let absent = OpenMode {
        create: false,
        direct: false,
    };
    assert_eq!(
        dir.open("a", absent).err(),
        Some(DiskError::NotFound("a".into()))
    );
    assert_eq!(dir.remove("a"), Err(DiskError::NotFound("a".into())));
    assert_eq!(dir.rename("a", "b"), Err(DiskError::NotFound("a".into())));
    for (name, content) in [("b", b"of b"), ("a", b"of a"), ("c", b"of c")] {
        let file = dir.open(name, CACHED).expect("it is created");
        assert_eq!(file.write_at(0, content), Ok(()));
    }
    assert_eq!(
        dir.list(),
        Ok(vec!["a".into(), "b".into(), "c".into()]),
        "names are sorted"
    );
    assert_eq!(dir.rename("a", "b"), Ok(()), "a rename replaces");
    assert_eq!(dir.list(), Ok(vec!["b".into(), "c".into()]));
    let mut content = [0; 4];
    let file = dir.open("b", CACHED).expect("it is there");
    assert_eq!(file.read_at(0, &mut content), Ok(()));
    assert_eq!(&content, b"of a", "opening to create leaves what is there");
    assert_eq!(dir.rename("b", "b"), Ok(()), "onto itself nothing happens");
    assert_eq!(dir.remove("b"), Ok(()));
    assert_eq!(dir.remove("c"), Ok(()));
    assert_eq!(dir.sync(), Ok(()));
    assert_eq!(dir.list(), Ok(vec![]));
}

fn reading_and_writing<D: Dir>(dir: &D) {
    let file = dir.open("file", CACHED).expect("it is created");
    assert_eq!(file.is_empty(), Ok(true));
    assert_eq!(file.write_at(5, b"world"), Ok(()));
    assert_eq!(file.len(), Ok(10), "a write extends the file");
    let mut all = [1; 10];
    assert_eq!(file.read_at(0, &mut all), Ok(()));
    assert_eq!(
        &all, b"\0\0\0\0\0world",
        "what was never written reads as zeros"
    );
    assert_eq!(file.write_at(0, b"hello"), Ok(()));
    assert_eq!(file.sync_data(), Ok(()));
    assert_eq!(file.read_at(0, &mut all), Ok(()));
    assert_eq!(&all, b"helloworld");
    let mut more = [0; 8];
    assert_eq!(
        file.read_at(5, &mut more),
        Err(DiskError::UnexpectedEnd(5)),
        "a short file says so"
    );
    assert_eq!(
        file.read_at(10, &mut []),
        Ok(()),
        "nothing can be read anywhere"
    );
    assert_eq!(file.write_at(100, &[]), Ok(()));
    assert_eq!(file.len(), Ok(10), "writing nothing extends nothing");
    // Across many pages, at offsets that are multiples of nothing.
    let pattern: Vec<u8> = (0..50_000_u32)
        .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
        .collect();
    assert_eq!(file.write_at(4001, &pattern), Ok(()));
    let mut back = vec![0; pattern.len()];
    assert_eq!(file.read_at(4001, &mut back), Ok(()));
    assert!(back == pattern, "bytes come back as they were");
    assert_eq!(file.read_at(4001 + 777, &mut back[..8192]), Ok(()));
    assert!(back[..8192] == pattern[777..777 + 8192]);
    assert_eq!(dir.remove("file"), Ok(()));
}

fn lengths<D: Dir>(dir: &D) {
    let file = dir.open("file", CACHED).expect("it is created");
    assert_eq!(file.write_at(0, &[7; 10_000]), Ok(()));
    assert_eq!(file.set_len(5000), Ok(()));
    assert_eq!(file.set_len(9000), Ok(()));
    let mut back = vec![1; 9000];
    assert_eq!(file.read_at(0, &mut back), Ok(()));
    assert!(back[..5000].iter().all(|byte| *byte == 7));
    assert!(
        back[5000..].iter().all(|byte| *byte == 0),
        "old bytes never come back after a cut"
    );
    assert_eq!(file.set_len(0), Ok(()));
    assert_eq!(file.len(), Ok(0));
    assert_eq!(dir.remove("file"), Ok(()));
}

fn allocating_and_punching<D: Dir>(dir: &D) {
    let file = dir.open("file", CACHED).expect("it is created");
    assert_eq!(file.write_at(0, &[7; 8192]), Ok(()));
    assert_eq!(file.allocate(4096, 1 << 20), Ok(()));
    assert_eq!(
        file.len(),
        Ok(4096 + (1 << 20)),
        "an allocation extends the length"
    );
    let mut back = vec![1; 16384];
    assert_eq!(file.read_at(0, &mut back), Ok(()));
    assert!(
        back[..8192].iter().all(|byte| *byte == 7),
        "and changes no byte"
    );
    assert!(back[8192..].iter().all(|byte| *byte == 0));
    assert_eq!(file.punch(4096, 8192), Ok(()));
    assert_eq!(file.read_at(0, &mut back), Ok(()));
    assert!(back[..4096].iter().all(|byte| *byte == 7));
    assert!(
        back[4096..].iter().all(|byte| *byte == 0),
        "a hole reads as zeros"
    );
    assert_eq!(
        file.len(),
        Ok(4096 + (1 << 20)),
        "punching keeps the length"
    );
    assert_eq!(file.punch(100, 50), Ok(()));
    assert_eq!(file.read_at(0, &mut back), Ok(()));
    assert!(
        back[..4096]
            .iter()
            .enumerate()
            .all(|(at, byte)| *byte == if (100..150).contains(&at) { 0 } else { 7 }),
        "a hole inside a page is exact"
    );
    assert_eq!(dir.remove("file"), Ok(()));
}

/// Bytes that begin at a multiple of 4096 in memory.
struct Aligned(Vec<u8>, usize);

impl Aligned {
    fn new(bytes: usize, fill: u8) -> Self {
        let buffer = vec![fill; bytes + 4096];
        let start = buffer.as_ptr().align_offset(4096);
        Self(buffer, start)
    }

    fn get(&mut self) -> &mut [u8] {
        let end = self.0.len() - 4096 + self.1;
        &mut self.0[self.1..end]
    }
}

fn direct_files<D: Dir>(dir: &D) {
    let file = dir.open("direct", DIRECT).expect("it is created");
    assert_eq!(file.allocate(0, 65536), Ok(()));
    assert_eq!(file.write_at(8192, Aligned::new(12288, 9).get()), Ok(()));
    assert_eq!(file.sync_data(), Ok(()));
    let mut back = Aligned::new(24576, 1);
    assert_eq!(file.read_at(0, back.get()), Ok(()));
    for (at, byte) in back.get().iter().enumerate() {
        let expected = if (8192..20480).contains(&at) { 9 } else { 0 };
        assert_eq!(*byte, expected, "at {at}");
    }
    assert_eq!(
        file.read_at(61440, Aligned::new(8192, 0).get()),
        Err(DiskError::UnexpectedEnd(61440))
    );
    let cached = dir.open("direct", CACHED).expect("it is there");
    let mut some = [0; 3];
    assert_eq!(cached.read_at(8191, &mut some), Ok(()));
    assert_eq!(some, [0, 9, 9], "both kinds of handle see one file");
    assert_eq!(dir.remove("direct"), Ok(()));
}

fn removed_files_live_while_open<D: Dir>(dir: &D) {
    let old = dir.open("file", CACHED).expect("it is created");
    assert_eq!(old.write_at(0, b"old"), Ok(()));
    assert_eq!(dir.remove("file"), Ok(()));
    let new = dir.open("file", CACHED).expect("it is created again");
    assert_eq!(new.len(), Ok(0), "a new file of an old name is empty");
    assert_eq!(new.write_at(0, b"new"), Ok(()));
    let mut back = [0; 3];
    assert_eq!(old.read_at(0, &mut back), Ok(()));
    assert_eq!(&back, b"old");
    assert_eq!(old.sync_data(), Ok(()));
    assert_eq!(dir.remove("file"), Ok(()));
}

fn handles_share_a_file<D: Dir>(dir: &D) {
    let one = dir.open("file", CACHED).expect("it is created");
    let two = dir.open("file", CACHED).expect("it is there");
    assert_eq!(one.write_at(0, b"shared"), Ok(()));
    let mut back = [0; 6];
    assert_eq!(two.read_at(0, &mut back), Ok(()));
    assert_eq!(&back, b"shared");
    assert_eq!(dir.rename("file", "other"), Ok(()));
    assert_eq!(two.write_at(0, b"SHARED"), Ok(()));
    assert_eq!(one.read_at(0, &mut back), Ok(()), "a rename keeps handles");
    assert_eq!(&back, b"SHARED");
    assert_eq!(dir.remove("other"), Ok(()));
}

fn space<D: Dir>(dir: &D) {
    let space = dir.space().expect("a filesystem knows its room");
    assert!(space.free > 0 && space.free <= space.total, "{space:?}");
}
