//! Images to pull. Digests are computed here with `sha2` directly, so that the
//! tests have an opinion of their own about them.

use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha512};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// Which media types an image speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Oci,
    Docker,
}

/// Bytes and their digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    pub digest: String,
    pub bytes: Bytes,
}

/// A manifest or index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub digest: String,
    pub media_type: String,
    pub bytes: Bytes,
}

/// A manifest with everything it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub manifest: Manifest,
    pub config: Blob,
    pub layers: Vec<Blob>,
}

impl Image {
    /// Config and layers, in this order.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// `sha256:…` of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// `sha512:…` of some bytes.
pub fn sha512(bytes: &[u8]) -> String {
    format!("sha512:{}", hex(&Sha512::digest(bytes)))
}

/// Noise of `length` bytes; the same for the same seed (splitmix64).
pub fn noise(seed: u64, length: usize) -> Bytes {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    Bytes::from(bytes)
}

impl Blob {
    /// A blob of these bytes.
    pub fn of(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            digest: sha256(&bytes),
            bytes,
        }
    }

    /// A blob of `length` bytes of noise.
    pub fn noise(seed: u64, length: usize) -> Self {
        Self::of(noise(seed, length))
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

impl Manifest {
    /// A manifest of this JSON; the spacing makes re-serialisation visible.
    pub fn of(media_type: &str, value: &Value) -> Self {
        Self::raw(media_type, serde_json::to_vec_pretty(value).unwrap())
    }

    /// A manifest of these bytes.
    pub fn raw(media_type: &str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            digest: sha256(&bytes),
            media_type: media_type.to_owned(),
            bytes,
        }
    }
}

/// An image with layers of these sizes.
pub fn image(seed: u64, layer_sizes: &[usize], dialect: Dialect) -> Image {
    let layers = layer_sizes
        .iter()
        .zip(1_u64..)
        .map(|(&size, number)| Blob::noise(seed.wrapping_mul(1000).wrapping_add(number), size))
        .collect();
    image_of(seed, layers, dialect)
}

/// An image with these layers.
pub fn image_of(seed: u64, layers: Vec<Blob>, dialect: Dialect) -> Image {
    let config = Blob::of(
        json!({"architecture": "amd64", "os": "linux", "config": {}, "seed": seed,
               "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| &l.digest).collect::<Vec<_>>()}})
        .to_string(),
    );
    let (manifest_type, config_type, layer_type) = match dialect {
        Dialect::Oci => (
            OCI_MANIFEST,
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.oci.image.layer.v1.tar",
        ),
        Dialect::Docker => (
            DOCKER_MANIFEST,
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
    };
    let manifest = Manifest::of(
        manifest_type,
        &json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config.descriptor(config_type),
                "layers": layers.iter().map(|l| l.descriptor(layer_type)).collect::<Vec<_>>()}),
    );
    Image {
        manifest,
        config,
        layers,
    }
}

/// An index over images of several architectures.
pub fn index(platforms: &[(&Image, &str)], dialect: Dialect) -> Manifest {
    let media_type = match dialect {
        Dialect::Oci => OCI_INDEX,
        Dialect::Docker => DOCKER_LIST,
    };
    let entries: Vec<Value> = platforms
        .iter()
        .map(|(image, architecture)| {
            json!({"mediaType": image.manifest.media_type, "digest": image.manifest.digest,
                   "size": image.manifest.bytes.len(),
                   "platform": {"architecture": architecture, "os": "linux"}})
        })
        .collect();
    Manifest::of(
        media_type,
        &json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}),
    )
}

/// An artifact (a signature, an SBOM) that refers to `subject`.
pub fn artifact(subject: &Manifest, artifact_type: &str, payload: &Blob) -> Image {
    let config = Blob::of("{}");
    let manifest = Manifest::of(
        OCI_MANIFEST,
        &json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": artifact_type,
                "config": config.descriptor("application/vnd.oci.empty.v1+json"),
                "layers": [payload.descriptor(artifact_type)],
                "subject": {"mediaType": subject.media_type, "digest": subject.digest,
                            "size": subject.bytes.len()}}),
    );
    Image {
        manifest,
        config,
        layers: vec![payload.clone()],
    }
}

/// The index that a registry answers, and a tag-schema tag holds, for these referrers.
pub fn referrers_index(artifacts: &[(&Image, &str)]) -> Manifest {
    let entries: Vec<Value> = artifacts
        .iter()
        .map(|(image, artifact_type)| {
            json!({"mediaType": image.manifest.media_type, "digest": image.manifest.digest,
                   "size": image.manifest.bytes.len(), "artifactType": artifact_type})
        })
        .collect();
    Manifest::of(
        OCI_INDEX,
        &json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}),
    )
}

/// A signed manifest of schema 1, under the digest of its payload, as its registry knows it; and that digest.
pub fn signed_schema1() -> (Manifest, String) {
    let base64 = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
    };
    let (head, tail) = (
        "{\n   \"schemaVersion\": 1,\n   \"name\": \"team/app\",\n   \"tag\": \"v1\",\n   \"fsLayers\": []",
        "\n}",
    );
    let payload = sha256(format!("{head}{tail}").as_bytes());
    let protected = json!({"formatLength": head.len(), "formatTail": base64(tail)}).to_string();
    let signatures = json!([{"protected": base64(&protected), "signature": "x"}]);
    let signed = Manifest {
        digest: payload.clone(),
        media_type: SCHEMA1_SIGNED.to_owned(),
        bytes: format!("{head},\n   \"signatures\": {signatures}{tail}").into(),
    };
    (signed, payload)
}
