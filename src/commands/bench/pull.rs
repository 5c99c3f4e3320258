//! One pull, as a container engine does it: tag, index, the platform's manifest, then configuration and layers,
//! several at once. All that came is hashed; nothing of a blob is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::failure::{Cause, Failure, Stage};
use crate::commands::warm::server::accept_class;
use crate::commands::warm::{Contents, LEVELS_MAX, Wanted};
use crate::oci::digest::Hasher;
use crate::oci::manifest::Child;
use crate::oci::{Algorithm, Digest, ImageName, Reference};
use crate::upstream::Puller;

/// The work of each pull of a run.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) image: ImageName,
    pub(super) wanted: Wanted,
    pub(super) parallel: usize,
    pub(super) timeout: Duration,
}

/// The result of one pull.
#[derive(Debug)]
pub(super) struct Pulled {
    /// From the begin of the round to its end.
    pub(super) took: Duration,
    /// From the begin of the round to the first byte of a blob.
    pub(super) first_byte: Option<Duration>,
    /// Those of manifests and blobs.
    pub(super) bytes: u64,
    pub(super) failure: Option<Failure>,
}

/// The state that the tasks of one pull share.
#[derive(Debug)]
struct Shared {
    puller: Puller,
    plan: Arc<Plan>,
    begin: Instant,
    bytes: AtomicU64,
    /// Nanoseconds since the begin; [`NEVER`] until then.
    first_byte: AtomicU64,
    /// Bytes of all pulls, for the bar.
    total: Arc<AtomicU64>,
}

/// Pulls the image once. The time counts from `begin`, when all pulls of the round were to begin: that the client
/// was too busy to begin with some of them must not make these look faster.
pub(super) async fn run(
    puller: Puller,
    plan: Arc<Plan>,
    begin: Instant,
    total: Arc<AtomicU64>,
) -> Pulled {
    let timeout = plan.timeout;
    let shared = Arc::new(Shared {
        puller,
        plan,
        begin,
        bytes: AtomicU64::new(0),
        first_byte: AtomicU64::new(NEVER),
        total,
    });
    // Requests that are under way when the time is up are dropped, and their connections with them.
    let outcome = tokio::time::timeout_at(begin + timeout, image(&shared)).await;
    let failure = outcome.unwrap_or_else(|_elapsed| {
        Err(Failure {
            stage: Stage::Pull,
            cause: Cause::Timeout,
            detail: format!("not done within {} s", timeout.as_secs_f64()),
        })
    });
    let first_byte = shared.first_byte.load(Ordering::Relaxed);
    Pulled {
        took: shared.begin.elapsed(),
        first_byte: (first_byte != NEVER).then(|| Duration::from_nanos(first_byte)),
        bytes: shared.bytes.load(Ordering::Relaxed),
        failure: failure.err(),
    }
}

async fn image(shared: &Arc<Shared>) -> Result<(), Failure> {
    let blobs = Box::pin(manifests(shared)).await?;
    // Layers that lie elsewhere are no business of the registry's.
    let mut left = blobs.into_iter().filter(|blob| !blob.foreign);
    // On tasks of their own, so that a pull may use more than one CPU for hashing, as engines do.
    let mut under_way = JoinSet::new();
    for child in left.by_ref().take(shared.plan.parallel) {
        under_way.spawn(blob(Arc::clone(shared), child));
    }
    // The first failure ends the pull, and dropping the set what is under way.
    while let Some(done) = under_way.join_next().await {
        done.map_err(|error| Failure {
            stage: Stage::Blob,
            cause: Cause::Client,
            detail: error.to_string(),
        })??;
        if let Some(child) = left.next() {
            under_way.spawn(blob(Arc::clone(shared), child));
        }
    }
    Ok(())
}

/// Gets the manifest, through indexes if there are any, and gives what it names.
async fn manifests(shared: &Shared) -> Result<Vec<Child>, Failure> {
    let mut reference = shared.plan.image.reference.clone();
    for _ in 0..LEVELS_MAX {
        let contents = manifest(shared, &reference).await?;
        let failed = |cause, why: String| Failure {
            stage: Stage::Manifest,
            cause,
            detail: format!("{reference}: {why}"),
        };
        if let Some(platform) = contents.unmet.first() {
            let why = format!("no image for {platform}, only {}", contents.offered());
            return Err(failed(Cause::Platform, why));
        }
        // An entry that says its platform fits; one that is silent may.
        let entries = &contents.manifests;
        let chosen = entries.iter().find(|(_, platform)| platform.is_some());
        match chosen.or_else(|| entries.first()) {
            Some((digest, _)) => reference = Reference::Digest(*digest),
            None if contents.blobs.is_empty() => {
                let why = "it names nothing to pull".to_owned();
                return Err(failed(Cause::NotAManifest, why));
            }
            None => return Ok(contents.blobs),
        }
    }
    Err(Failure {
        stage: Stage::Manifest,
        cause: Cause::Nonsense,
        detail: format!("indexes stand in indexes, more than {LEVELS_MAX} deep"),
    })
}

async fn manifest(shared: &Shared, reference: &Reference) -> Result<Contents, Failure> {
    let Plan { image, wanted, .. } = &*shared.plan;
    let asked = shared
        .puller
        .manifest(&image.repository, reference, accept_class());
    let answer = asked.await;
    let answer = answer.map_err(|error| Failure::of_fetch(Stage::Manifest, reference, &error))?;
    shared.count(answer.bytes.len());
    let named = match reference {
        Reference::Digest(digest) => Some(*digest),
        // A registry need not say it; clients that get it compare.
        Reference::Tag(_) => answer.digest_header,
    };
    let algorithm = named.map_or(Algorithm::Sha256, |digest| digest.algorithm());
    let digest = Digest::of(algorithm, &answer.bytes);
    if named.is_some_and(|named| named != digest) {
        return Err(Failure {
            stage: Stage::Manifest,
            cause: Cause::DigestMismatch,
            detail: format!("{reference}: the bytes have the digest {digest}"),
        });
    }
    let contents = Contents::of(answer.content_type.as_deref(), &answer.bytes, wanted);
    contents.map_err(|error| Failure {
        stage: Stage::Manifest,
        cause: Cause::NotAManifest,
        detail: format!("{reference}: {error}"),
    })
}

/// Gets a blob and hashes it.
async fn blob(shared: Arc<Shared>, child: Child) -> Result<(), Failure> {
    let digest = child.digest;
    let failed = |error| Failure::of_fetch(Stage::Blob, &digest, &error);
    let wrong = |why: String| Failure {
        stage: Stage::Blob,
        cause: Cause::DigestMismatch,
        detail: format!("{digest}: {why}"),
    };
    let repository = &shared.plan.image.repository;
    let asked = Box::pin(shared.puller.blob(repository, &digest));
    let mut body = asked.await.map_err(failed)?;
    let mut hasher = Hasher::new(digest.algorithm());
    let mut received = 0_u64;
    while let Some(bytes) = body.next().await.map_err(failed)? {
        shared.note_first_byte();
        shared.count(bytes.len());
        hasher.update(&bytes);
        received += bytes.len() as u64;
        // A body without an end must not keep a pull busy until its time is up.
        if let Some(size) = child.size.filter(|size| received > *size) {
            return Err(wrong(format!("more than the {size} bytes of the manifest")));
        }
    }
    let found = hasher.finish();
    if found != digest {
        return Err(wrong(format!(
            "the {received} bytes have the digest {found}"
        )));
    }
    Ok(())
}

impl Shared {
    fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.total.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn note_first_byte(&self) {
        // Almost always it has come already.
        if self.first_byte.load(Ordering::Relaxed) == NEVER {
            let since = u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(NEVER);
            self.first_byte.fetch_min(since, Ordering::Relaxed);
        }
    }
}

/// Later than any byte.
const NEVER: u64 = u64::MAX;
