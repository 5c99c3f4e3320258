//! Hosted images for an operator. `inspect` and the removal of an image are asked for by the paths that mirrored ones
//! have, with the same answers; lists are their own.

use super::{Answer, OPERATOR, json};
use crate::hosted::{Hosted, HostedError, ImagesWanted};
use crate::mirror::inspect::{
    ConfigFacts, Inspected, Kept, Node, NodeKind, Presence, Removed, When, platforms,
};
use crate::oci::manifest::{Child, ChildKind, inspect, media};
use crate::oci::{Digest, ImageName, Reference, Repository};
use crate::server::admin::error::AdminError;
use crate::server::admin::query::Query;
use crate::telemetry::metrics::HOSTED;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The list of images.
pub(super) const IMAGES: &str = "/api/v1/hosted/images";
/// The space that they take.
pub(super) const USAGE: &str = "/api/v1/hosted/usage";

/// The paths of mirrored images, which hosted ones have as well.
const INSPECT: &str = "/api/v1/inspect";
const REMOVE: &str = "/api/v1/images";

/// Images on a page, unless something else is asked for.
const IMAGES_DEFAULT: usize = 100;

/// Parts of an image that are shown, and indexes in indexes.
const PARTS_MAX: usize = 10_000;
const DEPTH_MAX: usize = 4;

/// A config above this size is not looked into.
const CONFIG_BYTES_MAX: usize = 1024 * 1024;

/// A part of the list of hosted images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostedPage {
    /// The images: the tags of each repository, sorted.
    pub images: Vec<HostedImage>,
    /// The `after` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A hosted image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostedImage {
    /// Its name, as clients of this server write it.
    pub image: String,
    /// `hosted`.
    pub place: String,
    /// The repository.
    pub repository: String,
    /// Its tag.
    pub tag: String,
    /// The digest of its manifest.
    pub digest: String,
    /// The media type of that.
    pub media_type: String,
    /// Its bytes, all platforms together, each digest once.
    pub size_bytes: u64,
    /// When the tag was given this manifest.
    pub pushed_at: When,
    /// The account or address that did it.
    pub pushed_by: String,
}

/// The space that hosted images take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostedUsage {
    /// Bytes of all blobs and manifests, each once, also of what is deleted and can be restored.
    pub bytes: u64,
    /// Number of them.
    pub blobs: u64,
    /// Repositories, sorted by name.
    pub repositories: Vec<HostedRepositoryUsage>,
}

/// The space that a hosted repository takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostedRepositoryUsage {
    /// Its name.
    pub repository: String,
    /// Bytes of its blobs and manifests.
    pub bytes: u64,
    /// Those that no other repository has.
    pub exclusive_bytes: u64,
    /// Number of its blobs and manifests.
    pub blobs: u64,
}

/// An image that an operator names.
struct Meant {
    repository: Repository,
    reference: Reference,
}

/// True if a request is about a hosted image.
pub(in crate::server::admin) fn is_of_hosted(
    hosted: &Hosted,
    method: &Method,
    path: &str,
    query: &str,
) -> bool {
    let may_be = match path {
        INSPECT => matches!(*method, Method::GET | Method::HEAD),
        REMOVE => *method == Method::DELETE,
        _ => false,
    };
    let mut query = Query::parse(query);
    may_be
        && query
            .take("image")
            .is_ok_and(|name| name.is_some_and(|name| meant(hosted, &name).is_some()))
}

pub(super) async fn answer(hosted: &Hosted, method: &Method, path: &str, query: Query) -> Answer {
    match path {
        IMAGES => images(hosted, method, query).await,
        USAGE => usage(hosted, method, query).await,
        INSPECT => inspected(hosted, query).await,
        _ => remove(hosted, query).await,
    }
}

async fn images(hosted: &Hosted, method: &Method, mut query: Query) -> Answer {
    reads(method)?;
    let limit = query.number("limit")?.unwrap_or(IMAGES_DEFAULT);
    let after = query.take("after")?;
    let text = query.take("match")?.unwrap_or_default();
    query.end()?;
    let after = after.map(|after| {
        let split = after.rsplit_once(':');
        let split = split.map(|(path, tag)| (path.to_owned(), tag.to_owned()));
        split.ok_or_else(|| AdminError::bad("after is none of a page before"))
    });
    let Some(mut wanted) = wanted(hosted, text.trim_end_matches('/')) else {
        // Another registry's: there are none of it here.
        let (images, next) = (Vec::new(), None);
        return json(StatusCode::OK, &HostedPage { images, next });
    };
    wanted.after = after.transpose()?;
    let (rows, more) = hosted.images(wanted, limit).await?;
    let last = rows.last().filter(|_| more);
    let next = last.map(|it| format!("{}:{}", it.repository, it.tag));
    let images = rows.into_iter().filter_map(|row| {
        let repository = Repository::parse(&row.repository).ok()?;
        let reference = Reference::parse(&row.tag).ok()?;
        Some(HostedImage {
            image: hosted.name_of(&repository, &reference),
            place: HOSTED.to_owned(),
            repository: row.repository,
            tag: row.tag,
            digest: row.digest.to_string(),
            media_type: row.media_type,
            size_bytes: row.bytes,
            pushed_at: When(row.moved),
            pushed_by: row.by,
        })
    });
    let images = images.collect();
    json(StatusCode::OK, &HostedPage { images, next })
}

/// The images that a text means: all, those of a namespace, of a repository, or one.
fn wanted(hosted: &Hosted, text: &str) -> Option<ImagesWanted> {
    if text.is_empty() || text == HOSTED || hosted.names().is_host(text) {
        return Some(ImagesWanted::default());
    }
    if hosted.names().namespace(text).is_some() {
        let path = Repository::parse(text).ok();
        return Some(ImagesWanted {
            path,
            ..ImagesWanted::default()
        });
    }
    let (name, reference) = split(text);
    let path = Some(hosted.meant(name)?);
    let tag = match reference.map(Reference::parse) {
        None => None,
        Some(Ok(Reference::Tag(tag))) => Some(tag),
        Some(Ok(Reference::Digest(_)) | Err(_)) => return None,
    };
    Some(ImagesWanted {
        path,
        tag,
        after: None,
    })
}

async fn usage(hosted: &Hosted, method: &Method, query: Query) -> Answer {
    reads(method)?;
    query.end()?;
    let space = hosted.space().await?;
    let repositories = space.repositories.into_iter();
    let repositories = repositories.map(|it| HostedRepositoryUsage {
        repository: it.repository,
        bytes: it.bytes,
        exclusive_bytes: it.alone,
        blobs: it.count,
    });
    let usage = HostedUsage {
        bytes: space.bytes,
        blobs: space.count,
        repositories: repositories.collect(),
    };
    json(StatusCode::OK, &usage)
}

async fn remove(hosted: &Hosted, mut query: Query) -> Answer {
    let text = query.need("image")?;
    let (all, dry_run) = (query.flag("all")?, query.flag("dry_run")?);
    query.end()?;
    let Meant {
        repository,
        reference,
    } = need(hosted, &text)?;
    if all {
        let why = format!(
            "{repository} is hosted: `roadstead repo rm {repository}` deletes the whole of it"
        );
        return Err(AdminError::new(StatusCode::CONFLICT, why));
    }
    let served = hosted.manifest(&repository, &reference).await?;
    let forgotten_tags = match &reference {
        Reference::Tag(tag) => vec![tag.to_string()],
        Reference::Digest(_) => tags_of(hosted, &repository, &served.digest).await?,
    };
    if !dry_run {
        let deleted = hosted.delete_manifest(&repository, &reference, OPERATOR);
        deleted.await?;
    }
    let removed = Removed {
        image: hosted.name_of(&repository, &reference),
        dry_run,
        forgotten_tags,
        removed_blobs: 0,
        freed_bytes: 0,
        kept: Kept::default(),
        restorable_seconds: Some(hosted.config().undelete.as_secs()),
    };
    json(StatusCode::OK, &removed)
}

/// Tags that name a manifest, as many as one look at the repository shows.
async fn tags_of(
    hosted: &Hosted,
    repository: &Repository,
    digest: &Digest,
) -> Result<Vec<String>, HostedError> {
    let wanted = ImagesWanted {
        path: Some(repository.clone()),
        ..ImagesWanted::default()
    };
    let (rows, _) = hosted.images(wanted, usize::MAX).await?;
    let own = rows.into_iter();
    let own = own.filter(|it| it.repository == repository.as_str() && it.digest == *digest);
    Ok(own.map(|it| it.tag).collect())
}

async fn inspected(hosted: &Hosted, mut query: Query) -> Answer {
    let text = query.need("image")?;
    query.end()?;
    let Meant {
        repository,
        reference,
    } = need(hosted, &text)?;
    let mut tree = Tree {
        hosted,
        repository: &repository,
        left: PARTS_MAX,
    };
    let root = tree.manifest(&reference, 0).await?;
    let inspected = Inspected {
        image: hosted.name_of(&repository, &reference),
        pinned: false,
        tags: Vec::new(),
        manifests: vec![root],
        place: Some(HOSTED.to_owned()),
    };
    json(StatusCode::OK, &inspected)
}

/// The parts of one image.
struct Tree<'a> {
    hosted: &'a Hosted,
    repository: &'a Repository,
    left: usize,
}

impl Tree<'_> {
    async fn manifest(&mut self, reference: &Reference, depth: usize) -> Result<Node, HostedError> {
        let served = self.hosted.manifest(self.repository, reference).await?;
        let bytes = &served.bytes;
        let size = bytes.len() as u64;
        let is_index = matches!(&*served.media_type, media::OCI_INDEX | media::DOCKER_LIST);
        let mut node = Node {
            kind: if is_index {
                NodeKind::Index
            } else {
                NodeKind::Manifest
            },
            media_type: Some(served.media_type.to_string()),
            size_bytes: Some(size),
            stored_bytes: size,
            ..empty(&served.digest)
        };
        // It was read when it was pushed.
        let children = inspect(Some(&served.media_type), bytes).map(|it| it.children);
        let children = children.unwrap_or_default();
        let named = if is_index {
            platforms(bytes)
        } else {
            HashMap::new()
        };
        for (at, child) in children.into_iter().enumerate() {
            self.left = self.left.saturating_sub(1);
            if self.left == 0 {
                break;
            }
            let mut part = match child.kind {
                ChildKind::Manifest if depth < DEPTH_MAX => {
                    let digest = Reference::Digest(child.digest);
                    let below = Box::pin(self.manifest(&digest, depth + 1)).await;
                    below.unwrap_or_else(|_absent| absent(&child, NodeKind::Manifest))
                }
                ChildKind::Manifest => absent(&child, NodeKind::Manifest),
                ChildKind::Blob => self.blob(&child, at == 0).await,
            };
            part.platform = named.get(&child.digest).cloned().flatten();
            node.parts.push(part);
        }
        Ok(node)
    }

    async fn blob(&self, child: &Child, is_first: bool) -> Node {
        let is_config = is_first
            && child
                .media_type
                .as_deref()
                .is_some_and(|it| it.contains("config"));
        let kind = if is_config {
            NodeKind::Config
        } else {
            NodeKind::Layer
        };
        if child.foreign {
            return absent(child, kind);
        }
        // What a manifest names, its repository has.
        let mut node = Node {
            presence: Presence::Stored,
            stored_bytes: child.size.unwrap_or_default(),
            ..absent(child, kind)
        };
        if is_config && let Ok(blob) = self.hosted.blob(self.repository, &child.digest).await {
            let bytes = blob.read_all(CONFIG_BYTES_MAX).await;
            node.config = bytes.and_then(|bytes| ConfigFacts::parse(&bytes));
        }
        node
    }
}

fn empty(digest: &Digest) -> Node {
    Node {
        kind: NodeKind::Layer,
        digest: digest.to_string(),
        media_type: None,
        platform: None,
        size_bytes: None,
        presence: Presence::Stored,
        stored_bytes: 0,
        used_at: None,
        foreign: false,
        config: None,
        parts: Vec::new(),
    }
}

fn absent(child: &Child, kind: NodeKind) -> Node {
    Node {
        kind,
        media_type: child.media_type.clone(),
        size_bytes: child.size,
        presence: Presence::Absent,
        foreign: child.foreign,
        ..empty(&child.digest)
    }
}

/// Name and reference of an image, as written.
fn split(text: &str) -> (&str, Option<&str>) {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, digest.or(Some(tag))),
        Some(_) | None => (rest, digest),
    }
}

fn meant(hosted: &Hosted, text: &str) -> Option<Meant> {
    // The tag, or `latest`, is found by the rules of all other names.
    let reference = ImageName::parse(text).ok()?.reference;
    let repository = hosted.meant(split(text).0)?;
    Some(Meant {
        repository,
        reference,
    })
}

fn need(hosted: &Hosted, text: &str) -> Result<Meant, AdminError> {
    meant(hosted, text).ok_or_else(|| AdminError::bad(format!("{text:?} is no hosted image")))
}

fn reads(method: &Method) -> Result<(), AdminError> {
    match *method {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(AdminError::method("GET, HEAD")),
    }
}
