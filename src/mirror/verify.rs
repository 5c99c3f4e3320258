//! Looking at everything that is stored, or at what some images need: is it what its name says?

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use super::Source;
use super::core::{Core, Tasks};
use super::inspect::{Contents, LEVELS_MAX};
use super::repair::{Repairs, SOURCES_MAX};
use crate::oci::manifest::{Child, ChildKind};
use crate::oci::{Digest, ImageName};
use crate::store::{Checked, LookedAt, Pace, Store, SurveyError};

/// Images that one run looks at: what fits into a request's head.
pub const VERIFY_IMAGES_MAX: usize = 1000;

/// Things that are looked at for the sake of images: far more than a thousand images have. Each takes some 100
/// bytes of memory.
const THINGS_MAX: usize = 1_000_000;

/// Digests that are asked of the index at once.
const PAGE: usize = 256;

/// Lines that wait for whoever reads them; then the work waits.
const EVENTS_AHEAD: usize = 16;

/// Time between two messages of how far the work has come.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Events of a run, in this order: any number of the first two, then one of the last two. A run that ends
/// without one of those was cut short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyEvent {
    /// Its progress.
    Progress(VerifyProgress),
    /// Something that is not as it should be.
    Finding(Finding),
    /// All has been looked at.
    Summary(VerifySummary),
    /// It cannot go on: why.
    Failed(String),
}

/// The progress of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyProgress {
    /// Blobs looked at.
    pub blobs: u64,
    /// Of so many, as far as is known.
    pub of_blobs: u64,
    /// Bytes hashed.
    pub bytes: u64,
    /// Of so many, as far as is known.
    pub of_bytes: u64,
}

/// The fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The content is not what the digest says, or the disk cannot read it.
    Damaged,
    /// The file is longer or shorter than it was.
    WrongSize,
    /// An image needs it, or the store should have it, and it is not there.
    Missing,
    /// Nothing is known of an image of this name.
    Unknown,
    /// A file of hosted content that no repository has.
    Stray,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The fault.
    pub fault: Fault,
    /// With what; absent where an image is unknown.
    pub digest: Option<String>,
    /// In words.
    pub why: String,
    /// The images that need it, as far as is known, or the repositories that have it.
    pub images: Vec<String>,
    /// True if it is right again; absent where that was not asked for.
    pub repaired: Option<bool>,
    /// The reason why it is not.
    pub unrepaired: Option<String>,
}

/// The outcome of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VerifySummary {
    /// Blobs looked at.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Number of findings.
    pub findings: u64,
    /// Number of those that are right again.
    pub repaired: u64,
    /// Number of blobs that could not be read for reasons that are not their own, and were passed over.
    pub unreadable: u64,
    /// Time that it took.
    pub seconds: f64,
}

/// The reason why no run begins: another one is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store is being verified already")]
pub struct VerifyBusy;

/// Looks at what is stored: one run at a time.
#[derive(Debug)]
pub struct Audit {
    store: Store,
    tasks: Tasks,
    contents: Contents,
    repairs: Arc<Repairs>,
    /// A permit for the one run.
    running: Arc<Semaphore>,
}

impl Audit {
    pub(super) fn new(core: &Core, contents: &Contents, repairs: &Arc<Repairs>) -> Self {
        Self {
            store: core.store.clone(),
            tasks: core.tasks.clone(),
            contents: contents.clone(),
            repairs: Arc::clone(repairs),
            running: Arc::new(Semaphore::new(1)),
        }
    }

    /// Hashes all that is stored, or what `images` need. What is found is reported; with `repair` it is also set
    /// aside and fetched again, else nothing is changed. Dropping the receiver ends the run.
    ///
    /// # Errors
    /// [`VerifyBusy`].
    pub fn begin(
        self: &Arc<Self>,
        images: Vec<ImageName>,
        repair: bool,
    ) -> Result<mpsc::Receiver<VerifyEvent>, VerifyBusy> {
        let permit = Arc::clone(&self.running);
        let permit = permit.try_acquire_owned().map_err(|_| VerifyBusy)?;
        let (events, receiver) = mpsc::channel(EVENTS_AHEAD);
        let mut run = Run {
            audit: Arc::clone(self),
            repair,
            events: events.clone(),
            begin: Instant::now(),
            told: Instant::now(),
            bytes: AtomicU64::new(0),
            progress: VerifyProgress::default(),
            summary: VerifySummary::default(),
            _permit: permit,
        };
        let stop = self.tasks.stopping().clone();
        self.tasks.spawn(async move {
            let work = async {
                run.look_through().await?;
                if images.is_empty() {
                    run.everything().await
                } else {
                    run.images(&images).await
                }
            };
            let ended = tokio::select! {
                ended = work => ended,
                () = events.closed() => return,
                () = stop.cancelled() => Err("the server is stopping".to_owned()),
            };
            let last = match ended {
                Ok(()) => VerifyEvent::Summary(run.summarise()),
                Err(why) => VerifyEvent::Failed(why),
            };
            // Nobody to tell is no reason to do anything else.
            events.send(last).await.ok();
        });
        Ok(receiver)
    }
}

/// One run.
struct Run {
    audit: Arc<Audit>,
    repair: bool,
    events: mpsc::Sender<VerifyEvent>,
    begin: Instant,
    /// When progress was last told.
    told: Instant,
    /// Bytes hashed so far.
    bytes: AtomicU64,
    progress: VerifyProgress,
    summary: VerifySummary,
    _permit: OwnedSemaphorePermit,
}

/// Something that is wrong, and in which file.
struct Trouble {
    fault: Fault,
    why: String,
    looked_at: LookedAt,
}

/// Something that an image needs.
struct Needed {
    digest: Digest,
    /// Its position in the list of images.
    image: usize,
    depth: usize,
    /// True if it must be there: an index names platforms that nobody has pulled.
    required: bool,
}

impl Run {
    /// Has all files looked through first, if the start is not through with them: what the index does not know
    /// yet is verified too, wherever it stands in the order.
    async fn look_through(&self) -> Result<(), String> {
        let store = self.audit.store.clone();
        let looked = tokio::task::spawn_blocking(move || store.scan().all()).await;
        looked.map_err(|error| format!("the files were not looked through: {error}"))
    }

    async fn everything(&mut self) -> Result<(), String> {
        let (blobs, bytes) = self.audit.store.contents().totals();
        self.progress.of_blobs = blobs;
        self.progress.of_bytes = bytes;
        let mut after = None;
        loop {
            let page = self.audit.store.pages().stored_after(after, PAGE).await;
            let page = page.map_err(|error: SurveyError| error.to_string())?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(*last);
            for digest in page {
                // What is not there any more was evicted a moment ago.
                let Some(trouble) = self.look_at(&digest).await else {
                    continue;
                };
                let sources = self
                    .audit
                    .store
                    .pages()
                    .sources_of(&[digest], SOURCES_MAX)
                    .await;
                let sources = sources.into_values().next().unwrap_or_default();
                let images = self.audit.contents.users(&digest, &sources).await;
                self.found(trouble, digest, images, &sources).await;
            }
        }
    }

    async fn images(&mut self, images: &[ImageName]) -> Result<(), String> {
        let mut blobs: Vec<(Child, usize)> = Vec::new();
        // An index may name a thing a thousand times, and so may the indexes in it.
        let mut seen = Seen::default();
        let mut queue = VecDeque::new();
        for (image, name) in images.iter().enumerate() {
            let source = Source {
                upstream: name.upstream.clone(),
                repository: name.repository.clone(),
            };
            let roots = self.audit.contents.roots(&source, &name.reference).await;
            if roots.is_empty() {
                self.unknown(name).await;
            }
            for digest in roots {
                if seen.is_new(digest)? {
                    queue.push_back(Needed {
                        digest,
                        image,
                        depth: 0,
                        required: true,
                    });
                }
            }
        }
        while let Some(needed) = queue.pop_front() {
            let Some(name) = images.get(needed.image) else {
                continue;
            };
            self.progress.of_blobs += 1;
            self.manifest(&needed, name).await;
            for child in self.audit.contents.children(&needed.digest).await {
                let wanted = match child.kind {
                    ChildKind::Manifest => needed.depth < LEVELS_MAX,
                    ChildKind::Blob => !child.foreign,
                };
                if !wanted || !seen.is_new(child.digest)? {
                    continue;
                }
                match child.kind {
                    ChildKind::Manifest => queue.push_back(Needed {
                        digest: child.digest,
                        image: needed.image,
                        depth: needed.depth + 1,
                        required: false,
                    }),
                    ChildKind::Blob => blobs.push((child, needed.image)),
                }
            }
        }
        self.progress.of_blobs += blobs.len() as u64;
        self.progress.of_bytes += blobs.iter().filter_map(|(blob, _)| blob.size).sum::<u64>();
        for (blob, image) in blobs {
            if let Some(name) = images.get(image) {
                self.needed(&blob.digest, name, true).await;
            }
        }
        Ok(())
    }

    async fn manifest(&mut self, needed: &Needed, name: &ImageName) {
        self.needed(&needed.digest, name, needed.required).await;
    }

    /// Looks at something that an image needs.
    async fn needed(&mut self, digest: &Digest, name: &ImageName, required: bool) {
        let found = if self.audit.store.contains(digest).is_some() {
            self.look_at(digest).await
        } else if required {
            self.progress.blobs += 1;
            Some(Trouble {
                fault: Fault::Missing,
                why: "it is not in the cache".to_owned(),
                looked_at: LookedAt::default(),
            })
        } else {
            self.progress.blobs += 1;
            None
        };
        if let Some(trouble) = found {
            let own = Source {
                upstream: name.upstream.clone(),
                repository: name.repository.clone(),
            };
            let images = vec![name.to_string()];
            self.found(trouble, *digest, images, &[own]).await;
        }
    }

    /// Hashes something, and says what is wrong with it.
    async fn look_at(&mut self, digest: &Digest) -> Option<Trouble> {
        let (checked, looked_at) = {
            let (bytes, store) = (&self.bytes, &self.audit.store);
            let read = |more| {
                bytes.fetch_add(more, Ordering::Relaxed);
            };
            let check = store.audit().check(digest, Pace::Full, &read);
            tokio::pin!(check);
            loop {
                tokio::select! {
                    checked = &mut check => break checked,
                    () = tokio::time::sleep(PROGRESS_EVERY) => {}
                }
                let progress = VerifyProgress {
                    bytes: bytes.load(Ordering::Relaxed),
                    ..self.progress
                };
                // Who does not listen is noticed elsewhere.
                self.events.try_send(VerifyEvent::Progress(progress)).ok();
            }
        };
        self.progress.blobs += 1;
        self.progress.bytes = self.bytes.load(Ordering::Relaxed);
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            self.tell(VerifyEvent::Progress(self.progress)).await;
        }
        let fault = match &checked {
            Checked::Sound(_) | Checked::Absent => return None,
            Checked::Unreadable(why) => {
                tracing::warn!(%digest, why, "a stored blob cannot be read now, and was not verified");
                self.summary.unreadable += 1;
                return None;
            }
            Checked::Missing => Fault::Missing,
            Checked::WrongSize { .. } => Fault::WrongSize,
            Checked::Damaged(_) => Fault::Damaged,
        };
        Some(Trouble {
            fault,
            why: checked.fault().unwrap_or_default(),
            looked_at,
        })
    }

    /// Tells of something, after it was repaired if that is wanted.
    async fn found(
        &mut self,
        trouble: Trouble,
        digest: Digest,
        images: Vec<String>,
        sources: &[Source],
    ) {
        let mut finding = Finding {
            fault: trouble.fault,
            digest: Some(digest.to_string()),
            why: trouble.why,
            images,
            repaired: None,
            unrepaired: None,
        };
        if self.repair {
            if self.audit.store.contains(&digest).is_some() {
                let store = &self.audit.store;
                store
                    .quarantine()
                    .damaged(&digest, &finding.why, trouble.looked_at)
                    .await;
            }
            let repaired = self.audit.repairs.repair(&digest, sources).await;
            finding.repaired = Some(repaired.is_ok());
            finding.unrepaired = repaired.err();
        }
        self.summary.findings += 1;
        self.summary.repaired += u64::from(finding.repaired == Some(true));
        self.tell(VerifyEvent::Finding(finding)).await;
    }

    async fn unknown(&mut self, name: &ImageName) {
        self.summary.findings += 1;
        let finding = Finding {
            fault: Fault::Unknown,
            digest: None,
            why: "no such image is in the cache".to_owned(),
            images: vec![name.to_string()],
            repaired: self.repair.then_some(false),
            unrepaired: self.repair.then(|| "warm fetches it".to_owned()),
        };
        self.tell(VerifyEvent::Finding(finding)).await;
    }

    async fn tell(&self, event: VerifyEvent) {
        // When nobody listens any more the run is ended from outside.
        self.events.send(event).await.ok();
    }

    fn summarise(&self) -> VerifySummary {
        VerifySummary {
            blobs: self.progress.blobs,
            bytes: self.bytes.load(Ordering::Relaxed),
            seconds: self.begin.elapsed().as_secs_f64(),
            ..self.summary
        }
    }
}

/// Digests that were met.
#[derive(Default)]
struct Seen(HashSet<Digest>);

impl Seen {
    /// True if it was not met before; an error when there are too many.
    fn is_new(&mut self, digest: Digest) -> Result<bool, String> {
        let is_new = self.0.insert(digest);
        if self.0.len() > THINGS_MAX {
            return Err(format!(
                "these images need more than {THINGS_MAX} things; name fewer"
            ));
        }
        Ok(is_new)
    }
}
