//! Looks at everything that is hosted: is each blob what its digest says, has each row its file and each file its row, and
//! has each manifest what it names? Nothing is written, unless files without a row are to be removed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Hosted, HostedError};
use crate::catalogue::hosted::BadManifest;
use crate::oci::Digest;
use crate::oci::manifest::inspect;
use crate::store::{Checked, Pace, Removal};

/// Digests that are asked of the catalogue or the index at once.
const PAGE: usize = 256;

/// Time between two messages of how far the work has come.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// The advice where content is not what it should be.
const ADVICE: &str = "take its file from a backup, or restore one";

/// What is heard of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verifying {
    /// So much is to be looked at: blobs, and bytes.
    All(u64, u64),
    /// So many blobs and bytes were looked at.
    Done(u64, u64),
    /// Something is not as it should be.
    Flaw(Flaw),
    /// A blob could not be read, for reasons that are not its own.
    Unreadable,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// The kind.
    pub kind: FlawKind,
    /// Of what.
    pub digest: Digest,
    /// In words.
    pub why: String,
    /// Some of the repositories that have it.
    pub repositories: Vec<String>,
    /// It was put right, or why not; `None`: that was not asked for.
    pub repaired: Option<Result<(), String>>,
}

/// The kind of a flaw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlawKind {
    /// The content is not what its digest says, or cannot be read.
    Damaged,
    /// The file is longer or shorter than it was.
    WrongSize,
    /// It has no file, or a manifest names it and its repository does not have it.
    Missing,
    /// It has a file, and no repository has it.
    Stray,
}

impl Hosted {
    /// Looks at everything, and tells of it. With `repair` files that no repository has are removed; nothing else can be
    /// put right.
    ///
    /// # Errors
    /// [`HostedError`]: not everything was looked at.
    pub async fn verify(
        &self,
        repair: bool,
        events: &mpsc::Sender<Verifying>,
    ) -> Result<(), HostedError> {
        let store = self.inner.store.clone();
        // Also what the index does not know yet.
        let looked = tokio::task::spawn_blocking(move || store.scan().all()).await;
        looked.map_err(|error| HostedError::Held(error.to_string()))?;
        let run = Run {
            hosted: self,
            repair,
            events,
            bytes: AtomicU64::new(0),
            blobs: AtomicU64::new(0),
        };
        let (blobs, bytes) = self.inner.store.contents().totals();
        run.tell(Verifying::All(blobs, bytes)).await;
        run.rows().await?;
        run.files().await?;
        run.manifests().await
    }

    /// Has the store do what it does by itself, until `stop`: for who serves nobody.
    pub async fn keep_store(self, stop: tokio_util::sync::CancellationToken) {
        self.inner.store.clone().run(stop).await;
    }
}

struct Run<'a> {
    hosted: &'a Hosted,
    repair: bool,
    events: &'a mpsc::Sender<Verifying>,
    bytes: AtomicU64,
    blobs: AtomicU64,
}

impl Run<'_> {
    async fn tell(&self, event: Verifying) {
        // When nobody listens any more the run is ended from outside.
        self.events.send(event).await.ok();
    }

    fn progress(&self) -> Verifying {
        let of = |it: &AtomicU64| it.load(Ordering::Relaxed);
        Verifying::Done(of(&self.blobs), of(&self.bytes))
    }

    /// Each row has its file, and that is what its digest says.
    async fn rows(&self) -> Result<(), HostedError> {
        let mut after = None;
        loop {
            let catalogue = &self.hosted.inner.catalogue;
            let page = catalogue.hosted_blobs_after(after, PAGE).await?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(*last);
            for (digest, size) in page {
                self.blob(&digest, size).await?;
            }
            self.tell(self.progress()).await;
        }
    }

    async fn blob(&self, digest: &Digest, size: u64) -> Result<(), HostedError> {
        let checked = self.check(digest).await;
        self.blobs.fetch_add(1, Ordering::Relaxed);
        let (kind, why) = match checked {
            Checked::Sound(found) if found == size => return Ok(()),
            Checked::Sound(found) => (
                FlawKind::WrongSize,
                format!("its file has {found} bytes, and the catalogue says {size}"),
            ),
            Checked::Absent | Checked::Missing => {
                (FlawKind::Missing, "its file is gone".to_owned())
            }
            Checked::WrongSize { found, expected } => (
                FlawKind::WrongSize,
                format!("the file has {found} bytes instead of {expected}"),
            ),
            Checked::Damaged(why) => (FlawKind::Damaged, why),
            Checked::Unreadable(why) => {
                tracing::warn!(%digest, why, "a hosted blob cannot be read now, and was not verified");
                self.tell(Verifying::Unreadable).await;
                return Ok(());
            }
        };
        let inner = &self.hosted.inner;
        {
            // It may have been collected meanwhile, and pushed again.
            let _locked = self.hosted.lock(digest).await;
            if !inner.catalogue.hosts(digest).await? {
                return Ok(());
            }
            if kind == FlawKind::Missing && self.check(digest).await == Checked::Sound(size) {
                return Ok(());
            }
        }
        if kind == FlawKind::Damaged {
            inner.store.quarantine().note_rotten(digest);
        }
        let flaw = Flaw {
            kind,
            digest: *digest,
            why,
            repositories: inner.catalogue.hosted_names(digest).await?,
            repaired: self.repair.then(|| Err(ADVICE.to_owned())),
        };
        self.tell(Verifying::Flaw(flaw)).await;
        Ok(())
    }

    async fn check(&self, digest: &Digest) -> Checked {
        let read = |more| {
            self.bytes.fetch_add(more, Ordering::Relaxed);
        };
        let audit = self.hosted.inner.store.audit();
        let check = audit.check(digest, Pace::Full, &read);
        tokio::pin!(check);
        loop {
            tokio::select! {
                (checked, _) = &mut check => return checked,
                () = tokio::time::sleep(PROGRESS_EVERY) => {}
            }
            // Who does not listen is noticed elsewhere.
            self.events.try_send(self.progress()).ok();
        }
    }

    /// Each file has its row.
    async fn files(&self) -> Result<(), HostedError> {
        let inner = &self.hosted.inner;
        let mut after = None;
        loop {
            let page = inner.store.pages().stored_after(after, PAGE).await;
            let page = page.map_err(|error| HostedError::Held(error.to_string()))?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(*last);
            for digest in inner.catalogue.hosted_strays(page).await? {
                self.stray(&digest).await?;
            }
        }
    }

    /// A file that seems to have no row. A push has its digest's lock from before its file gets its name until the row is
    /// committed, so that what is seen under the lock is what a kill has left.
    async fn stray(&self, digest: &Digest) -> Result<(), HostedError> {
        let inner = &self.hosted.inner;
        let _locked = self.hosted.lock(digest).await;
        let is_stray = !inner
            .catalogue
            .hosted_strays(vec![*digest])
            .await?
            .is_empty();
        let Some(held) = inner.store.contents().held(digest).filter(|_| is_stray) else {
            return Ok(());
        };
        let repaired = if self.repair {
            Some(self.remove(digest, held.used).await)
        } else {
            None
        };
        let flaw = Flaw {
            kind: FlawKind::Stray,
            digest: *digest,
            why: format!(
                "its file ({} bytes) is of no repository: a push was cut short before its end",
                held.size
            ),
            repositories: Vec::new(),
            repaired,
        };
        self.tell(Verifying::Flaw(flaw)).await;
        Ok(())
    }

    /// Removes a file without a row. Its digest's lock is held.
    async fn remove(&self, digest: &Digest, used: crate::clock::Timestamp) -> Result<(), String> {
        let inner = &self.hosted.inner;
        // A process that hands over to this one may be at its end of a push.
        let grace = self.hosted.config().gc_grace;
        if used.plus(grace) > inner.clock.now() {
            return Err("it is younger than hosted.gc_grace; a push again takes it up".to_owned());
        }
        let _may = self
            .hosted
            .may_remove()
            .await
            .map_err(|error| error.to_string())?;
        match inner.store.contents().remove(digest).await {
            Removal::Removed(_) | Removal::Absent => Ok(()),
            Removal::Open | Removal::Pinned => Err("somebody reads it; try again".to_owned()),
        }
    }

    /// Each manifest is what its digest says, and its repository has what it names.
    async fn manifests(&self) -> Result<(), HostedError> {
        let mut after = 0;
        loop {
            let catalogue = &self.hosted.inner.catalogue;
            let page = catalogue.hosted_manifests_after(after).await?;
            self.blobs.fetch_add(page.all, Ordering::Relaxed);
            self.bytes.fetch_add(page.bytes, Ordering::Relaxed);
            for bad in page.bad {
                self.manifest(bad).await;
            }
            let Some(next) = page.next else {
                self.tell(self.progress()).await;
                return Ok(());
            };
            after = next;
        }
    }

    async fn manifest(&self, bad: BadManifest) {
        let flaw = |kind, digest, why| Flaw {
            kind,
            digest,
            why,
            repositories: vec![format!("{}@{}", bad.repository, bad.digest)],
            repaired: self
                .repair
                .then(|| Err("push the image again, or restore a backup".to_owned())),
        };
        if let Some(why) = &bad.damage {
            let flaw = flaw(FlawKind::Damaged, bad.digest, why.clone());
            self.tell(Verifying::Flaw(flaw)).await;
        }
        let foreign = foreign(&bad.bytes);
        let blobs = bad.blobs.iter().filter(|it| !foreign.contains(it));
        for digest in blobs.chain(&bad.manifests) {
            let why = "a manifest names it, and its repository does not have it".to_owned();
            let flaw = flaw(FlawKind::Missing, *digest, why);
            self.tell(Verifying::Flaw(flaw)).await;
        }
    }
}

/// Layers of a manifest that are fetched from elsewhere.
fn foreign(manifest: &[u8]) -> Vec<Digest> {
    let Ok(inspection) = inspect(None, manifest) else {
        return Vec::new();
    };
    let foreign = inspection.children.into_iter().filter(|it| it.foreign);
    foreign.map(|it| it.digest).collect()
}
