//! Makes a state directory of a backup.
//!
//! All of it comes into a directory of its own, each blob verified. What the state directory has is moved aside when that
//! is done, and the catalogue gets its name last. Where there is none before that, a file beside it keeps a server from
//! beginning without one, and tells the next restore that it may begin again.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

use super::read::{Piece, pieces};
use super::take::{self, hash};
use super::{BackupError, Lost, Manifest, PAGE, Place, Progress, TagThen, cannot, files};
use crate::catalogue::{Copied, DATABASE, RESTORING, Stopped};
use crate::clock::{Clock, Timestamp};
use crate::oci::{Digest, Hasher};
use crate::store::{self, Amount, HandOver, Store, Upload};
use crate::telemetry::Metrics;

/// The directory of hosted content in the state directory.
const HOSTED: &str = "hosted";

/// The directory of everything until it gets its name.
const UNFINISHED: &str = "restoring";

/// The name of the upload that a blob is until it is verified.
const UPLOAD: &str = "restore";

/// Blobs that are wrong and are kept to be named.
const WRONG_MAX: usize = 100_000;

/// Of which so many are named in an error.
const NAMED_MAX: usize = 5;

/// A wish.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The state directory.
    pub state_dir: PathBuf,
    /// The backup.
    pub from: Place,
    /// What the directory has is moved aside.
    pub replace: bool,
    /// Blobs of the backup that are missing or damaged are named, and all others are restored.
    pub keep_going: bool,
    /// The time at which tags are to be; `None`: that of the backup.
    pub tags_at: Option<Timestamp>,
    /// Nothing is written: the backup is verified, and it is said which tags would move.
    pub dry_run: bool,
}

/// A backup that was restored, or could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// When it was made.
    pub created: Timestamp,
    /// Blobs that were verified.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that were missing or damaged when the backup was made.
    pub lost: Vec<Lost>,
    /// Tags that were put back.
    pub tags: Vec<TagThen>,
    /// Where what was there before is now.
    pub aside: Option<PathBuf>,
}

/// Makes a state directory of a backup, or sees that it could.
///
/// # Errors
/// [`BackupError`]: a server uses the directory, it is not empty, or the backup is not whole.
pub async fn restore(
    wanted: &Wanted,
    clock: Arc<dyn Clock>,
    progress: Progress<'_>,
) -> Result<Restored, BackupError> {
    let now = clock.now();
    if wanted.dry_run {
        return look_through(wanted, now, progress).await;
    }
    let dir = &wanted.state_dir;
    let stopped = Stopped::claim(dir)?;
    refuse_beside_a_server(dir)?;
    let old = old_content(dir, wanted.replace)?;
    let new = dir.join(UNFINISHED);
    let failed = |error: io::Error| cannot("write to", dir, &error);
    files::make_directory(&new).map_err(failed)?;
    if old.is_empty() {
        files::replace(&dir.join(RESTORING), b"").map_err(failed)?;
    }
    let filled = fill(wanted, &new, clock, progress).await;
    let filled = filled.and_then(|mut restored| {
        if let Some(at) = wanted.tags_at {
            restored.tags = stopped.put_tags_back(&new, at, now)?;
        }
        Ok(restored)
    });
    let mut restored = match filled {
        Ok(restored) => restored,
        Err(error) => {
            // What was there is as it was. Where nothing was, no server is to begin without what should have come.
            files::discard_directory(&new).map_err(failed)?;
            return Err(error);
        }
    };
    restored.aside = exchange(dir, &new, &old, now).map_err(failed)?;
    Ok(restored)
}

/// Makes a catalogue and a store of a backup in a directory.
async fn fill(
    wanted: &Wanted,
    new: &Path,
    clock: Arc<dyn Clock>,
    progress: Progress<'_>,
) -> Result<Restored, BackupError> {
    let config = store::Config {
        permanent: true,
        ..store::Config::of(new.join(HOSTED), Amount::Bytes(u64::MAX))
    };
    let opening = tokio::task::spawn_blocking(move || {
        Store::open(&config, clock, Metrics::new(std::iter::empty()))
    });
    let opened = opening
        .await
        .map_err(|error| BackupError(error.to_string()))?;
    let store = opened.map_err(|error| BackupError(error.to_string()))?;
    let stop = CancellationToken::new();
    let filling = async {
        let mut filling = Filling::new(new, Some(store.clone()), progress);
        let filled = filling.run(wanted).await;
        stop.cancel();
        filled
    };
    let (filled, ()) = tokio::join!(filling, store.clone().run(stop.clone()));
    let closing = tokio::task::spawn_blocking(move || HandOver(store.contents()).finish());
    closing
        .await
        .map_err(|error| BackupError(error.to_string()))?;
    filled
}

/// Moves aside what is there, and gives what was made of the backup its names: where what was there is now.
fn exchange(dir: &Path, new: &Path, old: &[String], now: Timestamp) -> io::Result<Option<PathBuf>> {
    // A server that starts in between must not begin without what is moved.
    files::replace(&dir.join(RESTORING), b"")?;
    let aside = dir.join(format!("before-restore-{}", now.0));
    if !old.is_empty() {
        files::make_directory(&aside)?;
    }
    for name in old {
        files::rename(&dir.join(name), &aside.join(name))?;
    }
    for name in [HOSTED, DATABASE] {
        files::rename(&new.join(name), &dir.join(name))?;
    }
    files::discard(&dir.join(RESTORING))?;
    files::discard_directory(new)?;
    Ok((!old.is_empty()).then_some(aside))
}

/// Has the tags of a state directory that no server uses name what they named at a time, or says which did not. Blocks.
///
/// # Errors
/// [`BackupError`]; nothing has changed.
pub fn put_tags_back(
    state_dir: &Path,
    at: Timestamp,
    now: Timestamp,
    dry_run: bool,
) -> Result<Vec<TagThen>, BackupError> {
    if dry_run {
        let opened = Copied::open(state_dir)?;
        let none = || BackupError(format!("there is no catalogue in {}", state_dir.display()));
        return opened.ok_or_else(none)?.tags_at(at);
    }
    if !state_dir.join(DATABASE).exists() {
        let why = format!("there is no catalogue in {}", state_dir.display());
        return Err(BackupError(why));
    }
    let stopped = Stopped::claim(state_dir)?;
    refuse_beside_a_server(state_dir)?;
    stopped.put_tags_back(state_dir, at, now)
}

/// Verifies a backup, and says which tags would move.
async fn look_through(
    wanted: &Wanted,
    now: Timestamp,
    progress: Progress<'_>,
) -> Result<Restored, BackupError> {
    static LOOKS: AtomicU64 = AtomicU64::new(0);
    let number = LOOKS.fetch_add(1, Ordering::Relaxed);
    let name = format!(
        "roadstead-restore-{}-{}-{number}",
        std::process::id(),
        now.0
    );
    let beside = std::env::temp_dir().join(name);
    let failed = |error: io::Error| cannot("write to", &beside, &error);
    files::make_directory(&beside).map_err(failed)?;
    let mut filling = Filling::new(&beside, None, progress);
    let looked = filling.run(wanted).await.and_then(|mut restored| {
        if let (Some(at), Some(copied)) = (wanted.tags_at, &filling.copied) {
            restored.tags = copied.tags_at(at)?;
        }
        Ok(restored)
    });
    drop(filling);
    files::discard_directory(&beside).map_err(failed)?;
    looked
}

/// A server whose catalogue could not be opened has the store alone.
fn refuse_beside_a_server(dir: &Path) -> Result<(), BackupError> {
    let lock = dir.join(HOSTED).join("LOCK");
    match files::lock(&lock) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Err(BackupError(format!(
            "a roadstead is using {}: stop it first",
            dir.display()
        ))),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The names of what is to be moved aside, the catalogue's first. What a restore has left that was cut short is removed,
/// but nothing that got its name: that may be what was there before.
fn old_content(dir: &Path, replace: bool) -> Result<Vec<String>, BackupError> {
    let failed = |error: io::Error| cannot("look into", dir, &error);
    files::discard_directory(&dir.join(UNFINISHED)).map_err(failed)?;
    let was_cut_short = dir.join(RESTORING).exists() && !dir.join(DATABASE).exists();
    let mut there = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let text = name.to_string_lossy();
        if text == HOSTED || (text.starts_with(DATABASE) && text != RESTORING) {
            there.push(text.into_owned());
        }
    }
    there.sort();
    if there.is_empty() || replace || was_cut_short {
        return Ok(there);
    }
    Err(BackupError(format!(
        "{} is not empty: it has a catalogue or hosted content; name another --state-dir, or have it moved aside with --replace",
        dir.display()
    )))
}

/// A blob that comes.
enum Coming {
    Nothing,
    Catalogue(fs::File),
    Stored(Digest, u64, Arc<Upload>),
    Hashed(Digest, u64, Hasher, u64),
}

/// Takes the pieces of a backup.
struct Filling<'a> {
    /// The directory of the catalogue.
    dir: &'a Path,
    /// Where blobs go; `None`: they are looked at alone.
    store: Option<Store>,
    progress: Progress<'a>,
    copied: Option<Copied>,
    manifest: Option<Manifest>,
    coming: Coming,
    verified: u64,
    bytes: u64,
    total: u64,
    wrong: Vec<(Digest, String)>,
}

impl<'a> Filling<'a> {
    fn new(dir: &'a Path, store: Option<Store>, progress: Progress<'a>) -> Self {
        Self {
            dir,
            store,
            progress,
            copied: None,
            manifest: None,
            coming: Coming::Nothing,
            verified: 0,
            bytes: 0,
            total: 0,
            wrong: Vec::new(),
        }
    }

    async fn run(&mut self, wanted: &Wanted) -> Result<Restored, BackupError> {
        let mut pieces = pieces(&wanted.from);
        while let Some(piece) = pieces.recv().await {
            self.take(piece).await?;
        }
        self.judge(wanted.keep_going)
    }

    async fn take(&mut self, piece: Piece) -> Result<(), BackupError> {
        let failed = |error: io::Error| cannot("write to", self.dir, &error);
        match piece {
            Piece::Manifest(manifest) => self.manifest = Some(*manifest),
            Piece::Failed(error) => return Err(error),
            Piece::Missing(digest, why) => self.fault(digest, why)?,
            Piece::Catalogue => {
                let file = files::create(&self.dir.join(DATABASE)).map_err(failed)?;
                self.coming = Coming::Catalogue(file);
            }
            Piece::Blob(digest, size) => self.begin(digest, size).await?,
            Piece::Bytes(bytes) => match &mut self.coming {
                Coming::Catalogue(file) => file.write_all(&bytes).map_err(failed)?,
                Coming::Stored(digest, _, upload) => {
                    let digest = *digest;
                    self.bytes += bytes.len() as u64;
                    let written = upload.append(vec![bytes]).await;
                    written.map_err(|error| {
                        BackupError(format!("{digest} cannot be written: {error}"))
                    })?;
                    (self.progress)(self.bytes, self.total);
                }
                Coming::Hashed(_, _, hasher, length) => {
                    hasher.update(&bytes);
                    *length += bytes.len() as u64;
                    self.bytes += bytes.len() as u64;
                    (self.progress)(self.bytes, self.total);
                }
                Coming::Nothing => {}
            },
            Piece::End => self.end().await?,
        }
        Ok(())
    }

    /// A blob comes.
    async fn begin(&mut self, digest: Digest, size: u64) -> Result<(), BackupError> {
        let Some(copied) = &self.copied else {
            return Err(BackupError(
                "the backup has no catalogue before its blobs; take another one".to_owned(),
            ));
        };
        if copied.blob(&digest)? != Some(size) {
            return Err(BackupError(format!(
                "the backup has {digest}, which its catalogue does not name so; take another one"
            )));
        }
        let Some(store) = &self.store else {
            self.coming = Coming::Hashed(digest, size, Hasher::new(digest.algorithm()), 0);
            return Ok(());
        };
        let uploads = store.uploads();
        let begun = uploads.begin(UPLOAD, b"restore".to_vec(), digest.algorithm());
        let upload = begun
            .await
            .map_err(|error| BackupError(format!("{digest} cannot be written: {error}")))?;
        self.coming = Coming::Stored(digest, size, Arc::new(upload));
        Ok(())
    }

    /// All bytes of something have come.
    async fn end(&mut self) -> Result<(), BackupError> {
        match std::mem::replace(&mut self.coming, Coming::Nothing) {
            Coming::Nothing => {}
            Coming::Catalogue(file) => {
                let synced = file.sync_all();
                synced.map_err(|error| cannot("write to", self.dir, &error))?;
                self.have_catalogue()?;
            }
            Coming::Stored(digest, size, upload) => {
                let length = upload.length();
                match upload.finish(digest).await {
                    Ok(_) if length == size => self.verified += 1,
                    Ok(_) => {
                        self.fault(digest, format!("it has {length} bytes instead of {size}"))?;
                    }
                    Err(store::FinishError::Digest(got)) => {
                        upload.discard().await;
                        self.fault(digest, format!("its content hashes to {got}"))?;
                    }
                    Err(store::FinishError::Store(error)) => {
                        return Err(BackupError(format!("{digest} cannot be written: {error}")));
                    }
                }
            }
            Coming::Hashed(digest, size, hasher, length) => {
                let got = hasher.finish();
                if got == digest && length == size {
                    self.verified += 1;
                } else {
                    self.fault(digest, format!("its content hashes to {got}"))?;
                }
            }
        }
        Ok(())
    }

    /// The catalogue has come. In a directory it is known what it must be.
    fn have_catalogue(&mut self) -> Result<(), BackupError> {
        if let Some(manifest) = &self.manifest {
            self.is_that_of(manifest)?;
        }
        let opened = take::open(self.dir).and_then(|copied| Ok((copied.totals()?.1, copied)));
        let opened = opened.map_err(|BackupError(error)| {
            BackupError(format!(
                "the catalogue of the backup is damaged ({error}); take another backup"
            ))
        });
        let (total, copied) = opened?;
        self.total = total;
        self.copied = Some(copied);
        Ok(())
    }

    /// Sees that the catalogue is the one that a manifest names.
    fn is_that_of(&self, manifest: &Manifest) -> Result<(), BackupError> {
        let path = self.dir.join(DATABASE);
        let got = hash(&path).map_err(|error| cannot("read", &path, &error))?;
        if got.to_string() == manifest.catalogue {
            return Ok(());
        }
        Err(BackupError(format!(
            "the catalogue of the backup is damaged: it hashes to {got}, and not to {}; take another backup",
            manifest.catalogue
        )))
    }

    fn fault(&mut self, digest: Digest, why: String) -> Result<(), BackupError> {
        if self.wrong.len() == WRONG_MAX {
            return Err(BackupError(format!(
                "more than {WRONG_MAX} blobs of the backup are missing or damaged; take another one"
            )));
        }
        self.wrong.push((digest, why));
        Ok(())
    }

    /// Sees whether all has come that the catalogue names.
    fn judge(&self, keep_going: bool) -> Result<Restored, BackupError> {
        let (Some(manifest), Some(copied)) = (&self.manifest, &self.copied) else {
            return Err(BackupError(
                "the backup is not whole; take another one".to_owned(),
            ));
        };
        self.is_that_of(manifest)?;
        let known: HashSet<&str> = manifest.lost.iter().map(String::as_str).collect();
        let mut wrong = HashMap::new();
        for (digest, why) in &self.wrong {
            if !known.contains(&*digest.to_string()) {
                wrong.insert(*digest, why.clone());
            }
        }
        let unnamed = self.missing(copied, &known, &mut wrong)?;
        let all = wrong.len() as u64 + unnamed;
        if all > 0 && !keep_going {
            let named = wrong.iter().take(NAMED_MAX);
            let named: Vec<String> = named.map(|(of, why)| format!("{of}: {why}")).collect();
            return Err(BackupError(format!(
                "{all} blob{} of the backup missing or damaged, and whole when it was made{}{}; take another backup, or restore the rest with --keep-going",
                if all == 1 { "" } else { "s" },
                if named.is_empty() { "" } else { ": " },
                named.join("; "),
            )));
        }
        let before = "it was missing or damaged when the backup was made";
        let before = manifest
            .lost
            .iter()
            .map(|it| (it.clone(), before.to_owned()));
        let since = wrong.into_iter().map(|(of, why)| (of.to_string(), why));
        let mut lost = Vec::new();
        for (digest, why) in before.chain(since) {
            let parsed = Digest::parse(&digest).ok();
            let repositories = parsed.map(|it| copied.holders(&it)).transpose()?;
            lost.push(Lost {
                digest,
                why,
                repositories: repositories.unwrap_or_default(),
            });
        }
        Ok(Restored {
            created: manifest.created,
            blobs: self.verified,
            bytes: self.bytes,
            lost,
            tags: Vec::new(),
            aside: None,
        })
    }

    /// Adds blobs that the catalogue names and that have not come. Number of those whose names are not known: without a store
    /// it is not kept which have come.
    fn missing(
        &self,
        copied: &Copied,
        known: &HashSet<&str>,
        wrong: &mut HashMap<Digest, String>,
    ) -> Result<u64, BackupError> {
        let Some(store) = &self.store else {
            let expected = copied.totals()?.0.saturating_sub(known.len() as u64);
            let told = self.verified + wrong.len() as u64;
            return Ok(expected.saturating_sub(told));
        };
        let mut after = None;
        loop {
            let page = copied.blobs_after(after.as_ref(), PAGE)?;
            let Some((last, _)) = page.last() else {
                return Ok(0);
            };
            after = Some(*last);
            for (digest, size) in &page {
                let has_come =
                    store.contains(digest) == Some(*size) || known.contains(&*digest.to_string());
                if !has_come && wrong.len() < WRONG_MAX {
                    wrong
                        .entry(*digest)
                        .or_insert_with(|| "it did not come".to_owned());
                }
            }
        }
    }
}
