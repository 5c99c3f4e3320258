//! What a manifest points at (image-spec manifest.md, image-index.md; Docker's schema 2; schema 1).

use super::Digest;

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

/// Whether a child is fetched from `/manifests/` or `/blobs/`.
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
    /// What it is fetched as.
    pub kind: ChildKind,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes; `None` in schema 1, which does not say.
    pub size: Option<u64>,
    /// Its media type, if said.
    pub media_type: Option<String>,
    /// Whether it is a foreign layer (`urls` present): the repository may not have it.
    pub foreign: bool,
}

/// What could be read from a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The media type to serve it with: the `Content-Type` it came with, without parameters; else its own
    /// `mediaType`; else what its structure shows.
    pub media_type: String,
    /// The digests it names that the same repository must have (not the `subject`), descriptors with
    /// unknown algorithms left out, each digest once.
    pub children: Vec<Child>,
    /// The digest by which the registry knows a *signed* schema 1 manifest: that of its payload.
    /// `None` for everything else.
    pub schema1_payload: Option<Digest>,
}

/// Why bytes are no manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not a JSON object.
    #[error("not a JSON object")]
    NotJson,
    /// Neither its content type nor its structure says what it is.
    #[error("not a manifest of a known kind")]
    UnknownKind,
}

/// Reads a manifest. An object with an unknown media type is passed with the descriptors found
/// in the usual places (`config`, `layers`, `blobs`, `manifests`).
///
/// # Errors
/// [`ManifestError`]: for example an HTML login page under status 200.
pub fn inspect(content_type: Option<&str>, bytes: &[u8]) -> Result<Inspection, ManifestError> {
    todo!()
}
