//! What a killed process left on the disk.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::content::Content;

/// What is there and right. It is looked at when nobody runs.
#[derive(Debug, Default)]
pub struct Left {
    /// Whole blobs, and their sizes.
    pub blobs: BTreeMap<String, u64>,
    /// Partial files that can be gone on with, and how much of them is there.
    pub fills: BTreeMap<String, u64>,
}

impl Left {
    /// Looks at everything: what is not as it should be fails the test.
    pub fn look(store: &Path, content: &Content) -> Self {
        let mut left = Self::default();
        for path in files(&store.join("blobs/sha256")) {
            let digest = digest_of(&path);
            let bytes = fs::read(&path).unwrap();
            let right = content.blobs.get(&digest);
            let right = right.unwrap_or_else(|| panic!("nobody pulled {digest}"));
            // The same bytes as those that the digest was computed from.
            assert!(
                bytes == *right,
                "{digest} is not whole: {} bytes",
                bytes.len()
            );
            left.blobs.insert(digest, bytes.len() as u64);
        }
        for path in files(&store.join("fills/sha256")) {
            if path.extension().is_some_and(|extension| extension == "cov") {
                left.look_at_fill(&path, content);
            }
        }
        left
    }

    fn look_at_fill(&mut self, record: &Path, content: &Content) {
        let part = record.with_extension("part");
        let digest = digest_of(&part.with_extension(""));
        let Ok(file) = fs::File::open(&part) else {
            // Killed between the blob's getting its name and the record's end.
            assert!(self.blobs.contains_key(&digest), "a record without a file");
            return;
        };
        let ranges = coverage(&fs::read(record).unwrap());
        let right = &content.blobs[&digest];
        for (start, end) in &ranges {
            let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
            file.read_exact_at(&mut bytes, *start)
                .expect("the file has what the record says");
            let from = usize::try_from(*start).unwrap();
            assert!(
                bytes == right[from..from + bytes.len()],
                "recorded, and wrong"
            );
        }
        let durable = ranges.iter().map(|(start, end)| end - start).sum();
        self.fills.insert(digest, durable);
    }

    /// What of it takes room.
    pub fn bytes(&self) -> u64 {
        self.blobs.values().sum::<u64>() + self.fills.values().sum::<u64>()
    }
}

/// The ranges that a record names.
fn coverage(record: &[u8]) -> Vec<(u64, u64)> {
    let record: serde_json::Value =
        serde_json::from_slice(record).expect("a record is replaced as a whole");
    serde_json::from_value(record["coverage"].clone()).unwrap()
}

/// What is there while a process runs: by the files' lengths, and of partial ones what their records name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub blobs: u64,
    blob_bytes: u64,
    part_bytes: u64,
    index_bytes: u64,
    /// Files that should not be there.
    pub strangers: Vec<PathBuf>,
}

impl Taken {
    pub fn bytes(&self) -> u64 {
        self.blob_bytes + self.part_bytes + self.index_bytes
    }
}

/// What a store takes.
pub fn taken(store: &Path) -> Taken {
    let mut taken = Taken::default();
    let length = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    for path in files(&store.join("blobs")) {
        taken.blobs += 1;
        taken.blob_bytes += length(&path);
    }
    for path in files(&store.join("fills")) {
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension {
            Some("part") if path.with_extension("cov").exists() => {
                let record = fs::read(path.with_extension("cov")).unwrap_or_default();
                let ranges = (!record.is_empty()).then(|| coverage(&record));
                let held = ranges.iter().flatten().map(|(start, end)| end - start);
                taken.part_bytes += held.sum::<u64>();
            }
            Some("cov") if path.with_extension("part").exists() => {}
            _ => taken.strangers.push(path),
        }
    }
    // In the units of stat(2).
    let index = fs::metadata(store.join("index.redb"));
    taken.index_bytes = index.map_or(0, |index| index.blocks() * 512);
    taken
}

/// How long the journal is.
pub fn journal_bytes(store: &Path) -> u64 {
    let lengths = ["journal.0", "journal.1"].map(|name| fs::metadata(store.join(name)));
    lengths.into_iter().flatten().map(|m| m.len()).sum()
}

/// Changes with each record of a fill.
pub fn records(store: &Path) -> u64 {
    let fills = files(&store.join("fills/sha256"));
    let records = fills
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "cov"));
    // Each is a new file.
    records
        .filter_map(|path| fs::metadata(path).ok())
        .fold(0, |all, m| all.wrapping_mul(31).wrapping_add(m.ino()))
}

pub fn has_part(store: &Path, digest: &str) -> bool {
    let hex = digest.strip_prefix("sha256:").unwrap();
    // The name goes on with the upstream's.
    files(&store.join("fills/sha256")).iter().any(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        let of_it = name.is_some_and(|name| name.starts_with(hex));
        of_it
            && path
                .extension()
                .is_some_and(|extension| extension == "part")
    })
}

/// A metric that is a whole number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes of some MiB"
)]
pub fn whole(value: f64) -> u64 {
    value as u64
}

fn digest_of(path: &Path) -> String {
    let name = path.file_name().unwrap().to_str().unwrap();
    // A fill's name goes on with its upstream's.
    format!("sha256:{}", name.split('@').next().unwrap())
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}
