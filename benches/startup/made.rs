//! Stores with many blobs, made quickly: what roadstead would have written, but for the bytes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use redb::{Database, TableDefinition};

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// As in `store/metadata/index.rs`; the benchmark sees by the number of blobs that it is read.
const BLOBS: Table = Table::new("blobs");
const LINKS: Table = Table::new("links");
const MEDIA_TYPES: Table = Table::new("media_types");

/// One in so many is a manifest.
const MANIFEST_EACH: usize = 8;

/// The first use that is noted: some day in 2026, in milliseconds.
const USED_FIRST_MS: u64 = 1_790_000_000_000;

/// The directory of a store with so many blobs; made if it is not there.
pub(crate) fn store(count: usize) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("startup-{count}"));
    let whole = dir.join("made");
    if whole.exists() {
        return dir;
    }
    fs::remove_dir_all(&dir).ok();
    let mut digests: Vec<[u8; 32]> = (0..count as u64).map(digest).collect();
    digests.sort_unstable();
    files(&dir, &digests);
    index(&dir, &digests);
    fs::write(dir.join("VERSION"), "1\n").unwrap();
    fs::write(whole, "").unwrap();
    dir
}

/// The store loses its index, until [`put_index_back`].
pub(crate) fn take_index_away(dir: &Path) {
    fs::rename(dir.join("index.redb"), dir.join("index.kept")).unwrap();
}

/// As it was before.
pub(crate) fn put_index_back(dir: &Path) {
    fs::rename(dir.join("index.kept"), dir.join("index.redb")).unwrap();
}

fn files(dir: &Path, digests: &[[u8; 32]]) {
    for digest in digests {
        let name = roadstead::oci::Digest::Sha256(*digest).hex();
        let shard = dir.join("blobs/sha256").join(&name[..2]);
        fs::create_dir_all(&shard).unwrap();
        File::create(shard.join(&name))
            .unwrap()
            .set_len(size(digest))
            .unwrap();
    }
}

fn index(dir: &Path, digests: &[[u8; 32]]) {
    let database = Database::create(dir.join("index.redb")).unwrap();
    let write = database.begin_write().unwrap();
    {
        let mut blobs = write.open_table(BLOBS).unwrap();
        let mut links = write.open_table(LINKS).unwrap();
        let mut media_types = write.open_table(MEDIA_TYPES).unwrap();
        for (place, digest) in digests.iter().enumerate() {
            let key = [&[1], digest.as_slice()].concat();
            let used = USED_FIRST_MS + u64::from(digest[5]) * 3_600_000 + u64::from(digest[6]);
            let mut record = [size(digest).to_be_bytes(), used.to_be_bytes()].concat();
            record.push(1 + digest[7] % 20);
            blobs.insert(key.as_slice(), record.as_slice()).unwrap();
            // Some thousand repositories.
            let repository = format!("docker.io\0team-{}/app-{}\0", digest[1] % 32, digest[2]);
            let link = [repository.as_bytes(), &key].concat();
            let value = [&[2], size(digest).to_be_bytes().as_slice()].concat();
            links.insert(link.as_slice(), value.as_slice()).unwrap();
            if place % MANIFEST_EACH == 0 {
                let media_type = b"application/vnd.oci.image.manifest.v1+json".as_slice();
                media_types.insert(key.as_slice(), media_type).unwrap();
            }
        }
    }
    write.commit().unwrap();
}

/// The size of a blob: from some KiB to some MiB.
fn size(digest: &[u8; 32]) -> u64 {
    1024 << (digest[3] % 12)
}

/// Noise that is always the same.
fn digest(seed: u64) -> [u8; 32] {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = [0; 32];
    for eight in bytes.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        eight.copy_from_slice(&(mixed ^ (mixed >> 31)).to_be_bytes());
    }
    bytes
}
