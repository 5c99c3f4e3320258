//! The images of an import: blobs first, then manifests from the leaves to the root, then the name. The server
//! hashes what it is given, and gives the name when all is there.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use url::Url;

use super::AirgapError;
use super::layout::{Descriptor, blob_path};
use super::progress::Reporter;
use super::pull::Asked;
use super::push::{Admin, Named};
use super::push_hosted::Hosted;
use super::reading::{Layout, Part};
use crate::commands::output::Output;
use crate::commands::target::AdminServer;
use crate::format::plural;
use crate::oci::manifest::{ChildKind, MANIFEST_BYTES_MAX, inspect};
use crate::oci::{Digest, ImageName, Reference};

/// Manifests of one image: as many as the server takes.
const MANIFESTS_MAX: usize = 1000;

/// Attempts at an image whose parts are evicted while others are brought.
const ATTEMPTS_MAX: usize = 2;

/// A run of `import`.
#[derive(Clone, Debug)]
pub struct ImportJob {
    /// The layout: a directory, an archive, or `-` for standard input.
    pub layout: PathBuf,
    /// The images of it that are wanted, and their names; all, under their own, when there are none.
    pub images: Vec<Naming>,
    /// True if they are pinned as well.
    pub pin: bool,
    /// The server whose hosted repositories they are pushed to, and certificates to check its by; `None`: they come into the
    /// cache, by the admin listener.
    pub push: Option<(Url, Option<PathBuf>)>,
    /// The server's admin listener.
    pub admin: AdminServer,
    /// The form of the answer.
    pub output: Output,
}

/// An image and its name from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    /// The name.
    pub name: ImageName,
    /// Its name in the layout; `None`: by the name, or it has but one.
    pub reference: Option<String>,
}

/// The result for one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Its name.
    pub name: ImageName,
    /// Its digest.
    pub digest: String,
    /// Number of blobs and manifests that were brought; the others were there.
    pub brought: usize,
    /// The reason that it cannot be pulled; `None`: it can.
    pub failed: Option<AirgapError>,
}

/// Imports images into a running mirror, and shows it. One that cannot be imported does not keep the others from
/// it.
///
/// # Errors
/// [`AirgapError`]: the layout is none, or names do not fit; then nothing was imported.
pub async fn import(job: &ImportJob) -> Result<Vec<Put>, AirgapError> {
    let path = job.layout.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let layout = Layout::open(&path)?;
        let index = layout.index()?;
        Ok((layout, index))
    });
    let (layout, index) = opened
        .await
        .unwrap_or_else(|error| Err(AirgapError::of(job.layout.display(), error)))?;
    let reporter = Arc::new(Reporter::new(job.output, false));
    let chosen = choose(job, &index.manifests, &reporter)?;
    let target = match &job.push {
        Some((server, ca_file)) => {
            let hosted = Hosted::new(server, ca_file.clone()).map_err(AirgapError)?;
            hosted.ping().await?;
            Target::Hosted(Box::new(hosted))
        }
        None => Target::Cache(Admin::new(&job.admin)?),
    };
    let run = Run {
        layout,
        target,
        pin: job.pin,
        reporter,
    };
    let mut puts = Vec::new();
    for (name, image) in chosen {
        run.reporter.progress.doing(&name.to_string());
        let put = Box::pin(run.image(&name, image)).await;
        run.tell(&put);
        puts.push(put);
    }
    Ok(puts)
}

/// The images that are meant, and their names.
fn choose<'a>(
    job: &ImportJob,
    images: &'a [Descriptor],
    reporter: &Reporter,
) -> Result<Vec<(ImageName, &'a Descriptor)>, AirgapError> {
    let failed = |why: String| AirgapError::of(job.layout.display(), why);
    let known = || {
        let labels: Vec<String> = images
            .iter()
            .take(NAMED_MAX)
            .map(Descriptor::label)
            .collect();
        labels.join(", ")
    };
    if images.is_empty() {
        return Err(failed("it has no images".to_owned()));
    }
    if job.images.is_empty() {
        let mut chosen = Vec::new();
        for image in images {
            let bare = || image.bare_name().filter(|_| job.push.is_some());
            match image.full_name().or_else(bare) {
                Some(name) => chosen.push((name, image)),
                None => reporter.note(&format!(
                    "note: {} has no full name in the layout and is left out; IMAGE={} names it",
                    image.label(),
                    image.ref_name().unwrap_or(&image.digest),
                )),
            }
        }
        if chosen.is_empty() {
            let why = format!(
                "no image has a full name in it: write IMAGE=REF; it has {}",
                known()
            );
            return Err(failed(why));
        }
        return Ok(chosen);
    }
    let mut chosen = Vec::new();
    for Naming { name, reference } in &job.images {
        let found = match (reference, images) {
            (Some(reference), _) => images.iter().find(|it| it.is_called(reference)),
            (None, [only]) => Some(only),
            (None, _) => images
                .iter()
                .find(|it| it.full_name().as_ref() == Some(name)),
        };
        let found = found.ok_or_else(|| {
            let what = reference.clone().unwrap_or_else(|| name.to_string());
            failed(format!("it has no image called {what:?}, only {}", known()))
        })?;
        if let Reference::Digest(digest) = &name.reference
            && digest.to_string() != found.digest
        {
            let why = format!(
                "{name} is the name of another image: the digest of this one is {}",
                found.digest
            );
            return Err(failed(why));
        }
        chosen.push((name.clone(), found));
    }
    Ok(chosen)
}

struct Run {
    layout: Layout,
    target: Target,
    pin: bool,
    reporter: Arc<Reporter>,
}

/// The place that images come to.
enum Target {
    Cache(Admin),
    Hosted(Box<Hosted>),
}

/// The parts of an image in the layout.
#[derive(Default)]
struct Contents {
    /// From the root to the leaves.
    manifests: Vec<(Digest, String, Vec<u8>)>,
    blobs: Vec<(Digest, Option<Part>)>,
}

impl Run {
    async fn image(&self, name: &ImageName, image: &Descriptor) -> Put {
        let mut put = Put {
            name: name.clone(),
            digest: image.digest.clone(),
            brought: 0,
            failed: None,
        };
        let mut attempts = 0;
        put.failed = loop {
            attempts += 1;
            match self.attempt(name, image, &mut put.brought).await {
                Ok(Named::Done { absent }) => {
                    if absent > 0 {
                        self.reporter.note(&format!(
                            "note: {name}: {} that its index names not in the layout",
                            plural(absent, "manifest")
                        ));
                    }
                    break None;
                }
                Ok(Named::Incomplete(_)) if attempts < ATTEMPTS_MAX => {}
                Ok(Named::Incomplete(why)) => break Some(AirgapError(why)),
                Err(error) => break Some(error),
            }
        };
        put
    }

    async fn attempt(
        &self,
        name: &ImageName,
        image: &Descriptor,
        brought: &mut usize,
    ) -> Result<Named, AirgapError> {
        let root = Digest::parse(&image.digest)
            .map_err(|error| AirgapError::of(format!("{name}: {:?}", image.digest), error))?;
        let contents = self.contents(root, image)?;
        let admin = match &self.target {
            Target::Cache(admin) => admin,
            Target::Hosted(hosted) => return self.push(hosted, name, contents, brought).await,
        };
        let bytes = contents.blobs.iter().filter_map(|(_, part)| part.as_ref());
        self.reporter
            .progress
            .expect(bytes.map(|part| part.size).sum());
        for (digest, part) in contents.blobs {
            let there = admin.has(&digest).await?;
            match part {
                Some(part) if there => self.reporter.progress.advance(part.size),
                Some(part) => {
                    let sent = admin.blob(&digest, part, &self.reporter).await;
                    sent.map_err(|error| self.layout.fault(&blob_path(&digest), error))?;
                    *brought += 1;
                }
                None if there => {}
                None => return Err(self.layout.fault(&blob_path(&digest), "is missing")),
            }
        }
        for (digest, media_type, bytes) in contents.manifests.into_iter().rev() {
            if !admin.has(&digest).await? {
                *brought += 1;
            }
            // Sent in any case: the server may know it as a mere blob.
            let sent = admin.manifest(&digest, &media_type, bytes).await;
            sent.map_err(|error| self.layout.fault(&blob_path(&digest), error))?;
        }
        admin.image(name, &root, self.pin).await
    }

    /// Pushes an image to a hosted repository.
    async fn push(
        &self,
        hosted: &Hosted,
        name: &ImageName,
        contents: Contents,
        brought: &mut usize,
    ) -> Result<Named, AirgapError> {
        let repository = &name.repository;
        hosted.check(repository).await.map_err(AirgapError)?;
        for (digest, part) in contents.blobs {
            let fault = |why: String| self.layout.fault(&blob_path(&digest), why);
            let sent = hosted.blob(repository, &digest, part, &self.reporter).await;
            *brought += usize::from(sent.map_err(fault)?);
        }
        let root = contents.manifests.first().map(|(digest, ..)| *digest);
        for (digest, media_type, bytes) in contents.manifests.into_iter().rev() {
            let fault = |why: String| self.layout.fault(&blob_path(&digest), why);
            // The root comes last, and the name with it.
            let tag = match &name.reference {
                Reference::Tag(tag) if Some(digest) == root => Some(tag),
                Reference::Tag(_) | Reference::Digest(_) => None,
            };
            let sent = hosted.manifest(repository, &digest, (&media_type, bytes), tag);
            *brought += usize::from(sent.await.map_err(fault)?);
        }
        Ok(Named::Done { absent: 0 })
    }

    /// The parts of an image. Manifests are checked here, because they are followed; blobs by the server.
    fn contents(&self, root: Digest, image: &Descriptor) -> Result<Contents, AirgapError> {
        let mut contents = Contents::default();
        let mut seen = HashSet::from([root]);
        let mut left = vec![(root, Some(image.media_type.clone()), Some(image.size))];
        while let Some((digest, media_type, size)) = left.pop() {
            let path = blob_path(&digest);
            let fault = |why: &dyn std::fmt::Display| self.layout.fault(&path, why);
            let Some(part) = self.part(&digest, size)? else {
                // An index need not be complete; its root must be there.
                if digest == root {
                    return Err(fault(&"is missing"));
                }
                continue;
            };
            if contents.manifests.len() >= MANIFESTS_MAX {
                return Err(fault(&"is one manifest too many for an image"));
            }
            let bytes = part.read_all(MANIFEST_BYTES_MAX);
            let bytes = bytes.map_err(|error| fault(&error))?;
            let found = Digest::of(digest.algorithm(), &bytes);
            if found != digest {
                return Err(fault(&format!("the bytes have the digest {found}")));
            }
            let inspection = inspect(media_type.as_deref(), &bytes);
            let inspection = inspection.map_err(|error| fault(&error))?;
            for child in inspection.children {
                if !seen.insert(child.digest) {
                    continue;
                }
                if child.kind == ChildKind::Manifest {
                    left.push((child.digest, child.media_type, child.size));
                    continue;
                }
                let part = self.part(&child.digest, child.size)?;
                if part.is_some() || !child.foreign {
                    contents.blobs.push((child.digest, part));
                }
            }
            let media_type = inspection.media_type;
            contents.manifests.push((digest, media_type, bytes));
        }
        Ok(contents)
    }

    fn part(&self, digest: &Digest, size: Option<u64>) -> Result<Option<Part>, AirgapError> {
        let part = self.layout.blob(digest)?;
        if let (Some(part), Some(size)) = (&part, size)
            && part.size != size
        {
            let why = format!("has {} bytes, and should have {size}", part.size);
            return Err(self.layout.fault(&blob_path(digest), why));
        }
        Ok(part)
    }

    fn tell(&self, put: &Put) {
        let Put {
            name,
            digest,
            brought,
            failed,
        } = put;
        let name = match &self.target {
            Target::Cache(_) => name.to_string(),
            Target::Hosted(_) => bare(name),
        };
        match failed {
            None => {
                let pinned = if self.pin { ", pinned" } else { "" };
                self.reporter.line(&format!(
                    "ok  {name} {digest}: {} brought{pinned}",
                    plural(*brought as u64, "file")
                ));
            }
            Some(error) => self.reporter.failed(&format!("FAILED  {name}: {error}")),
        }
        self.reporter.json(&serde_json::json!({
            "image": name,
            "digest": digest,
            "brought": brought,
            "pinned": self.pin && failed.is_none(),
            "failed": failed.as_ref().map(ToString::to_string),
        }));
    }
}

/// The name of an image that is pushed: without an upstream.
fn bare(name: &ImageName) -> String {
    let asked = Asked {
        image: name.clone(),
        is_hosted: true,
    };
    asked.to_string()
}

/// Images that are named in a message.
const NAMED_MAX: usize = 10;
