//! Descriptors of a manifest (image-spec manifest.md, image-index.md; Docker's schema 2; schema 1).

mod json;
mod schema1;

use super::{Digest, media_type};
use json::{Descriptor, Document};
use std::collections::HashSet;

/// A manifest above this size is refused: a little more than containerd takes
/// (`4*1048*1048`, containerd core/remotes/docker/resolver.go).
pub const MANIFEST_BYTES_MAX: usize = 4_500_000;

/// The media types of manifests.
pub mod media {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI artifact manifest (withdrawn, still stored in places).
    pub const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
    /// Docker image manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker schema 1, signed.
    pub const DOCKER_SCHEMA1_SIGNED: &str =
        "application/vnd.docker.distribution.manifest.v1+prettyjws";
    /// Docker schema 1.
    pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
}

/// The path from which a child is fetched: `/manifests/` or `/blobs/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChildKind {
    /// An entry of an index.
    Manifest,
    /// A config, a layer, an artifact's blob.
    Blob,
}

/// A descriptor in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// The path from which it is fetched.
    pub kind: ChildKind,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes; `None` in schema 1, which does not say.
    pub size: Option<u64>,
    /// Its media type, if said.
    pub media_type: Option<String>,
    /// True if it is a foreign layer (`urls` present): the repository may not have it.
    pub foreign: bool,
}

/// Facts that could be read from a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The media type to serve it with: its own `mediaType`; else what its structure shows; and only where
    /// neither says anything the `Content-Type` it came with, without parameters.
    pub media_type: String,
    /// True if the `Content-Type` decided: another registry may say something else of the same bytes.
    pub by_header: bool,
    /// The digests it names that the same repository must have (not the `subject`), descriptors with
    /// unknown algorithms left out, each digest once.
    pub children: Vec<Child>,
    /// The digest by which the registry knows a *signed* schema 1 manifest: that of its payload.
    /// `None` for everything else.
    pub schema1_payload: Option<Digest>,
}

/// Reason why bytes are no manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not a JSON object.
    #[error("not a JSON object")]
    NotJson,
    /// Neither its content type nor its structure says what it is.
    #[error("not a manifest of a known kind")]
    UnknownKind,
    /// Its `mediaType` or `artifactType` is too long for one, or has other characters (RFC 6838, section 4.2).
    #[error("it has a media type that is none by RFC 6838")]
    ImpossibleType,
    /// It is an index and an image at once, or of two types.
    #[error("ambiguous: it can be read as an index and as an image, or has two media types")]
    Ambiguous,
}

/// Reads a manifest. An object with an unknown media type is passed with the descriptors found
/// in the usual places (`config`, `layers`, `blobs`, `manifests`). Members of an unexpected type are
/// passed over: the client judges them, and the bytes are served as they came.
///
/// The caller bounds `bytes` by [`MANIFEST_BYTES_MAX`], which bounds the number of children.
///
/// # Errors
/// [`ManifestError`]: for example an HTML login page under status 200.
pub fn inspect(content_type: Option<&str>, bytes: &[u8]) -> Result<Inspection, ManifestError> {
    let document = Document::parse(bytes).ok_or(ManifestError::NotJson)?;
    if document.has_impossible_type {
        return Err(ManifestError::ImpossibleType);
    }
    let own = document.media_type.as_deref().filter(|t| names_manifest(t));
    // Whose kind no client knows, none can mistake for another.
    let is_known = own.is_none_or(|own| Format::of(own) != Format::Other);
    if document.has_two_types() || is_known && document.has_two_kinds() {
        return Err(ManifestError::Ambiguous);
    }
    let shown = document.structure();
    // Registries and their proxies have sent these under status 200.
    if document.has_errors && shown.is_none() {
        return Err(ManifestError::UnknownKind);
    }
    // The bytes decide: what is kept under a digest is served to every repository, and another upstream's
    // header must not change how clients read it.
    let by_bytes = own.or(shown);
    let said = || {
        let said = media_type::essence(content_type?)?;
        Some(said).filter(|said| names_manifest(said) && !is_error(said))
    };
    let decided = by_bytes.or_else(said).ok_or(ManifestError::UnknownKind)?;
    let media_type = decided.to_owned();
    let by_header = by_bytes.is_none();
    let format = Format::of(&media_type);
    let is_schema1 = matches!(format, Format::Schema1)
        || matches!(format, Format::Other) && document.is_schema1();
    Ok(Inspection {
        media_type,
        by_header,
        children: children(format, &document),
        schema1_payload: document
            .signature
            .as_deref()
            .filter(|_| is_schema1)
            .and_then(|protected| schema1::payload_digest(protected, bytes)),
    })
}

/// Place of the descriptors, as the media type says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Image,
    Index,
    Artifact,
    Schema1,
    Other,
}

impl Format {
    fn of(media_type: &str) -> Self {
        match media_type.to_ascii_lowercase().as_str() {
            media::OCI_MANIFEST | media::DOCKER_MANIFEST => Self::Image,
            media::OCI_INDEX | media::DOCKER_LIST => Self::Index,
            media::OCI_ARTIFACT => Self::Artifact,
            media::DOCKER_SCHEMA1 | media::DOCKER_SCHEMA1_SIGNED => Self::Schema1,
            _ => Self::Other,
        }
    }
}

/// True if a media type is one that a manifest may have: of what clients read, and of nothing that a browser
/// would show or run.
fn names_manifest(media_type: &str) -> bool {
    let media_type = media_type.to_ascii_lowercase();
    let Some(name) = media_type.strip_prefix("application/") else {
        return false;
    };
    let shown = ["xml", "html", "javascript", "ecmascript"];
    (name.starts_with("vnd.") || name.ends_with("+json"))
        && !shown.iter().any(|shown| name.contains(shown))
}

/// True if it is the type of an error (RFC 9457).
fn is_error(content_type: &str) -> bool {
    content_type.eq_ignore_ascii_case("application/problem+json")
}

/// The descriptors that the format has, each digest once, in the order of the document. A known
/// format's other members do not count: a client would not follow them (CVE-2021-41190).
fn children(format: Format, document: &Document) -> Vec<Child> {
    let (image, index, artifact, schema1) = match format {
        Format::Image => (true, false, false, false),
        Format::Index => (false, true, false, false),
        Format::Artifact => (false, false, true, false),
        Format::Schema1 => (false, false, false, true),
        Format::Other => (true, true, true, true),
    };
    let manifests = document.manifests.iter().flatten().filter(|_| index);
    let layers = document.layers.iter().flatten();
    let blobs = document.config.iter().chain(layers).filter(|_| image);
    let blobs = blobs.chain(document.blobs.iter().flatten().filter(|_| artifact));
    let blobs = blobs.chain(document.fs_layers.iter().flatten().filter(|_| schema1));
    let mut seen = HashSet::new();
    manifests
        .map(|descriptor| (entry_kind(descriptor), descriptor))
        .chain(blobs.map(|descriptor| (ChildKind::Blob, descriptor)))
        .filter(|(_, descriptor)| seen.insert(descriptor.digest))
        .map(|(kind, descriptor)| descriptor.child(kind))
        .collect()
}

/// The path from which an entry of an index is fetched. `BuildKit`'s cache exports are indexes of layers, and
/// clients go by the media type (containerd, core/remotes/docker/fetcher.go).
fn entry_kind(entry: &Descriptor) -> ChildKind {
    const BLOBS: [&str; 5] = [
        "application/vnd.oci.image.layer.",
        "application/vnd.oci.image.config.",
        "application/vnd.docker.image.rootfs.",
        "application/vnd.docker.container.image.",
        "application/vnd.buildkit.",
    ];
    let media_type = entry.media_type.as_deref().unwrap_or_default();
    if BLOBS.iter().any(|prefix| media_type.starts_with(prefix)) {
        return ChildKind::Blob;
    }
    ChildKind::Manifest
}

impl Descriptor {
    fn child(&self, kind: ChildKind) -> Child {
        Child {
            kind,
            digest: self.digest,
            size: self.size,
            media_type: self.media_type.clone(),
            foreign: self.foreign,
        }
    }
}

#[cfg(test)]
mod tests;
