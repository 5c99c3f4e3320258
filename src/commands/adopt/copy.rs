//! One repository: its tags, the manifests below them from the leaves to the root, and their blobs; what is there is
//! neither fetched nor sent. The name comes last, so that a tag names what is there whole.

use std::collections::HashSet;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};

use super::pusher::{Begun, CHUNK_BYTES, Pusher, Refusal, Upload};
use super::source::{Blob, Fault, Manifest, Source};
use crate::commands::airgap::Reporter;
use crate::oci::manifest::{Child, ChildKind, inspect};
use crate::oci::{Digest, Reference, Repository, Tag};

/// Indexes in indexes, and referrers of referrers: more than anybody makes.
const DEPTH_MAX: usize = 16;

/// Blobs of a manifest that are on their way at once; each has a chunk in memory.
const BLOBS_AT_ONCE: usize = 4;

/// Attempts at a blob whose source breaks off.
const ATTEMPTS: usize = 3;

/// The result for one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Copied {
    /// Tags of the source.
    pub tags: u64,
    /// Tags that were set.
    pub tags_set: u64,
    /// Tags that name something else here, and stay.
    pub tags_kept: u64,
    /// Manifests that were sent.
    pub manifests: u64,
    /// Blobs that were sent.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that the server had in another repository, or in its cache.
    pub mounted: u64,
    /// Faults.
    pub faults: u64,
}

/// The copying of one repository.
pub(super) struct Copy<'a> {
    pub(super) source: &'a Source,
    pub(super) pusher: &'a Pusher,
    pub(super) reporter: &'a Reporter,
    pub(super) from: &'a Repository,
    pub(super) to: &'a Repository,
    /// Tags that name something else here stay.
    pub(super) keeps: bool,
    pub(super) copied: Copied,
    /// Manifests that are there.
    pub(super) done: HashSet<Digest>,
}

/// The reason that something was not copied.
enum Failed {
    /// This of it.
    One(String),
    /// Nothing of the repository will be.
    All(String),
}

/// The state of a blob afterwards.
enum Sent {
    There,
    Mounted,
    Bytes(u64),
    /// Its vendor alone has it.
    LeftOut,
}

impl Failed {
    /// The same of something that is part of it.
    fn of(self, what: impl std::fmt::Display) -> Self {
        match self {
            Self::One(why) => Self::One(format!("{what}: {why}")),
            Self::All(why) => Self::All(why),
        }
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        if refusal.is_of_repository() {
            return Self::All(refusal.to_string());
        }
        let advice = if refusal.misses_something() {
            " (the source lacks it, too: a namespace with `sparse` takes such an index)"
        } else {
            ""
        };
        Self::One(format!("{refusal}{advice}"))
    }
}

impl Copy<'_> {
    /// Copies all tags.
    pub(super) async fn run(&mut self, tags: &[Tag]) {
        if !tags.is_empty()
            && let Err(refusal) = self.pusher.check(self.to).await
        {
            self.copied.tags = tags.len() as u64;
            self.fault(&Fault::of(self.from, self.advise(&refusal.to_string())));
            return;
        }
        for tag in tags {
            self.copied.tags += 1;
            let name = format!("{}:{tag}", self.from);
            self.reporter.progress.doing(&name);
            match Box::pin(self.tag(tag)).await {
                Ok(()) => {}
                Err(Failed::One(why)) => self.fault(&Fault::of(name, why)),
                Err(Failed::All(why)) => {
                    self.fault(&Fault::of(self.from, self.advise(&why)));
                    return;
                }
            }
        }
    }

    fn advise(&self, why: &str) -> String {
        if self.to.as_str().contains('/') {
            return why.to_owned();
        }
        format!(
            "{why} ({} has one component, and only a host name of hosted.hosts takes such names: --into NAMESPACE puts it in a namespace, or --server names that host)",
            self.to
        )
    }

    pub(super) fn fault(&mut self, fault: &Fault) {
        self.copied.faults += 1;
        self.reporter.failed(&format!("FAILED  {fault}"));
        self.reporter.json(&serde_json::json!({
            "fault": { "name": fault.name, "why": fault.why },
        }));
    }

    async fn tag(&mut self, tag: &Tag) -> Result<(), Failed> {
        let reference = Reference::Tag(tag.clone());
        let found = self.source.manifest(self.from, &reference).await;
        let Some(manifest) = found.map_err(Failed::One)? else {
            return Err(Failed::One("the source has no such manifest".to_owned()));
        };
        let here = self.pusher.manifest(self.to, &reference).await?;
        let is_same = here == Some(manifest.digest);
        if is_same && !self.source.lists_referrers() {
            self.done.insert(manifest.digest);
            return Ok(());
        }
        if here.is_some() && !is_same && self.keeps {
            self.copied.tags_kept += 1;
            return Ok(());
        }
        if !is_same {
            self.tell_move(tag, here.as_ref(), &manifest.digest);
        }
        Box::pin(self.tree(manifest, 0, Some(tag).filter(|_| !is_same))).await?;
        self.copied.tags_set += u64::from(!is_same);
        Ok(())
    }

    /// Says that a tag which names something else here moves: somebody may have pushed it since.
    pub(super) fn tell_move(&self, tag: &Tag, here: Option<&Digest>, there: &Digest) {
        if let Some(here) = here {
            self.reporter.note(&format!(
                "moves  {}:{tag}: {here} -> {there} (--keep-existing keeps what is here)",
                self.to
            ));
        }
    }

    /// Copies a manifest, all that it names, and what refers to it; then `tag` names it.
    async fn tree(
        &mut self,
        manifest: Manifest,
        depth: usize,
        tag: Option<&Tag>,
    ) -> Result<(), Failed> {
        let Manifest {
            digest,
            bytes,
            content_type,
        } = manifest;
        let failed = |why: &dyn std::fmt::Display| Failed::One(format!("manifest {digest}: {why}"));
        if depth > DEPTH_MAX {
            return Err(failed(&"manifests stand in manifests too deep"));
        }
        let inspection = inspect(content_type.as_deref(), &bytes);
        let inspection = inspection.map_err(|error| failed(&error))?;
        if inspection.schema1_payload.is_some() {
            return Err(failed(
                &"it is of schema 1, which cannot be pushed any more",
            ));
        }
        let put = (inspection.media_type, Bytes::from(bytes));
        if !self.done.insert(digest) {
            return match tag {
                Some(_) => self.put(&digest, put, tag).await,
                None => Ok(()),
            };
        }
        let (manifests, blobs): (Vec<Child>, Vec<Child>) = inspection
            .children
            .into_iter()
            .partition(|child| child.kind == ChildKind::Manifest);
        let reference = Reference::Digest(digest);
        let is_there = self.pusher.manifest(self.to, &reference).await?.is_some();
        // What is there was taken whole; its children may have got referrers since.
        if !is_there || self.source.lists_referrers() {
            for child in &manifests {
                self.child(&child.digest, depth, true).await?;
            }
        }
        if !is_there {
            self.blobs(&blobs).await.map_err(|error| error.of(digest))?;
            self.copied.manifests += 1;
        }
        if !is_there || tag.is_some() {
            self.put(&digest, put, tag).await?;
        }
        let referrers = self.source.referrers(self.from, &digest).await;
        for referrer in referrers.map_err(|why| failed(&why))? {
            self.child(&referrer, depth, false).await?;
        }
        Ok(())
    }

    async fn put(
        &self,
        digest: &Digest,
        (media_type, bytes): (String, Bytes),
        tag: Option<&Tag>,
    ) -> Result<(), Failed> {
        let put = self
            .pusher
            .put_manifest(self.to, digest, (&media_type, bytes), tag);
        put.await
            .map_err(|refusal| Failed::from(refusal).of(digest))
    }

    /// Copies a manifest that another one names, or that names another one. `is_named`: an index may name what its
    /// repository does not have; the server says whether it takes such a one.
    async fn child(&mut self, digest: &Digest, depth: usize, is_named: bool) -> Result<(), Failed> {
        if self.done.contains(digest) {
            return Ok(());
        }
        let found = self
            .source
            .manifest(self.from, &Reference::Digest(*digest))
            .await;
        match found.map_err(|why| Failed::One(format!("manifest {digest}: {why}")))? {
            Some(manifest) => Box::pin(self.tree(manifest, depth + 1, None)).await,
            None if is_named => Ok(()),
            None => Err(Failed::One(format!("the referrer {digest} is not there"))),
        }
    }

    async fn blobs(&mut self, blobs: &[Child]) -> Result<(), Failed> {
        let sent: Vec<Result<Sent, Failed>> = {
            let this = &*self;
            let all = blobs.iter().map(|child| this.blob(child));
            let all: Vec<_> = all.collect();
            stream::iter(all)
                .buffer_unordered(BLOBS_AT_ONCE)
                .collect()
                .await
        };
        let mut failed = None;
        for sent in sent {
            match sent {
                Ok(Sent::There) => {}
                Ok(Sent::LeftOut) => self.reporter.note(&format!(
                    "note: {}: a layer that only its vendor gives away is left out",
                    self.from
                )),
                Ok(Sent::Mounted) => self.copied.mounted += 1,
                Ok(Sent::Bytes(bytes)) => {
                    self.copied.blobs += 1;
                    self.copied.bytes += bytes;
                }
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn blob(&self, child: &Child) -> Result<Sent, Failed> {
        let digest = child.digest;
        let mut attempt = 0;
        loop {
            attempt += 1;
            match Box::pin(self.blob_once(child)).await {
                Ok(sent) => return Ok(sent),
                Err((Failed::One(_), true)) if attempt < ATTEMPTS => {}
                Err((error, _)) => return Err(error.of(format!("blob {digest}"))),
            }
        }
    }

    /// Copies a blob, if it is not there. An error says whether the source broke off.
    async fn blob_once(&self, child: &Child) -> Result<Sent, (Failed, bool)> {
        let digest = child.digest;
        let refused = |refusal: Refusal| (Failed::from(refusal), false);
        let there = self.pusher.has_blob(self.to, &digest).await;
        if there.map_err(refused)? {
            return Ok(Sent::There);
        }
        let mut upload = match self.pusher.begin(self.to, &digest).await.map_err(refused)? {
            Begun::Mounted => return Ok(Sent::Mounted),
            Begun::At(upload) => upload,
        };
        let blob = self.source.blob(self.from, &digest).await;
        let sent = match blob {
            Ok(Some(blob)) => self.pass(blob, child, &mut upload).await,
            Ok(None) if child.foreign => Ok(Sent::LeftOut),
            Ok(None) => Err((Failed::One("the source does not have it".to_owned()), false)),
            Err(why) => Err((Failed::One(why), false)),
        };
        if !matches!(sent, Ok(Sent::Bytes(_))) {
            self.pusher.cancel(&upload).await;
        }
        sent
    }

    async fn pass(
        &self,
        mut blob: Blob,
        child: &Child,
        upload: &mut Upload,
    ) -> Result<Sent, (Failed, bool)> {
        let progress = &self.reporter.progress;
        progress.expect(child.size.unwrap_or_default());
        let mut total = 0;
        let passed = async {
            let mut chunk = BytesMut::new();
            while let Some(bytes) = blob.next().await.map_err(|why| (Failed::One(why), true))? {
                if chunk.len() + bytes.len() > CHUNK_BYTES {
                    let full = chunk.split().freeze();
                    let sent = self.pusher.send(upload, full).await;
                    sent.map_err(|refusal| (Failed::from(refusal), false))?;
                }
                chunk.extend_from_slice(&bytes);
                total += bytes.len() as u64;
                progress.advance(bytes.len() as u64);
                if child.size.is_some_and(|size| total > size) {
                    let why = "the source gives more bytes than its manifest says";
                    return Err((Failed::One(why.to_owned()), false));
                }
            }
            if child.size.is_some_and(|size| total < size) {
                let why = format!("the source gives {total} bytes, and its manifest says more");
                return Err((Failed::One(why), true));
            }
            let (digest, rest) = (child.digest, chunk.freeze());
            let finished = self.pusher.finish(self.to, upload, &digest, rest).await;
            finished.map_err(|refusal| (Failed::from(refusal), false))
        };
        match passed.await {
            Ok(()) => Ok(Sent::Bytes(total)),
            Err(error) => {
                progress.take_back(total);
                Err(error)
            }
        }
    }
}

impl Copied {
    pub(super) fn add(&mut self, other: &Self) {
        self.tags += other.tags;
        self.tags_set += other.tags_set;
        self.tags_kept += other.tags_kept;
        self.manifests += other.manifests;
        self.blobs += other.blobs;
        self.bytes += other.bytes;
        self.mounted += other.mounted;
        self.faults += other.faults;
    }
}
