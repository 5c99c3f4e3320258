//! The files of an OCI image layout (image-spec, image-layout.md). Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::oci::manifest::media;
use crate::oci::{Digest, ImageName};

/// The file that says that it is one.
pub(super) const LAYOUT: &str = "oci-layout";
/// The file that names the images.
pub(super) const INDEX: &str = "index.json";
/// A larger index is none that images make: it would name some ten thousand.
pub(super) const INDEX_BYTES_MAX: usize = 4_500_000;
/// The directory of everything else.
pub(super) const BLOBS: &str = "blobs";
/// The content of [`LAYOUT`].
pub(super) const LAYOUT_TEXT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// The name of an image for whoever opens the layout: skopeo's `oci:DIR:NAME`.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The full name, as containerd and `BuildKit` write it.
const IMAGE_NAME: &str = "io.containerd.image.name";

/// [`INDEX`]. Members that are not known here are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    #[serde(default)]
    pub(super) manifests: Vec<Descriptor>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// An image of an [`Index`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<String, Value>>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

impl Index {
    /// One without images.
    pub(super) fn empty() -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media::OCI_INDEX.to_owned()),
            manifests: Vec::new(),
            rest: BTreeMap::new(),
        }
    }

    /// Adds an image, in the place of one of the same name.
    pub(super) fn put(&mut self, image: Descriptor) {
        let name = image.ref_name().map(str::to_owned);
        self.manifests
            .retain(|other| other.ref_name().map(str::to_owned) != name);
        self.manifests.push(image);
        // The same images make the same file, in whichever order they came.
        self.manifests
            .sort_by_key(|it| (it.ref_name().map(str::to_owned), it.digest.clone()));
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Descriptor {
    /// An image under its full name: in the one annotation for containerd, and in the other one too, since
    /// two images with the same tag must not have the same name in one layout.
    pub(super) fn of(name: &str, media_type: &str, digest: &Digest, size: u64) -> Self {
        let full = || Value::String(name.to_owned());
        Self {
            media_type: media_type.to_owned(),
            digest: digest.to_string(),
            size,
            annotations: Some(BTreeMap::from([
                (IMAGE_NAME.to_owned(), full()),
                (REF_NAME.to_owned(), full()),
            ])),
            rest: BTreeMap::new(),
        }
    }

    /// Its name in the layout.
    pub(super) fn ref_name(&self) -> Option<&str> {
        self.annotation(REF_NAME)
    }

    /// Its full name, if the layout says one that can be told from a tag.
    pub(super) fn full_name(&self) -> Option<ImageName> {
        [IMAGE_NAME, REF_NAME].into_iter().find_map(|key| {
            let text = self.annotation(key)?;
            let name = ImageName::parse(text).ok()?;
            // `3.20` and `team/app` would be names of Docker Hub's, too.
            let is_full = text.starts_with(&format!("{}/", name.upstream));
            is_full.then_some(name)
        })
    }

    /// The name of an image that was hosted: without an upstream, in a namespace.
    pub(super) fn bare_name(&self) -> Option<ImageName> {
        let text = self.ref_name().filter(|text| text.contains('/'))?;
        ImageName::parse(text).ok()
    }

    /// True if this is its name in the layout.
    pub(super) fn is_called(&self, reference: &str) -> bool {
        self.digest == reference
            || [IMAGE_NAME, REF_NAME]
                .into_iter()
                .any(|key| self.annotation(key) == Some(reference))
    }

    /// For messages.
    pub(super) fn label(&self) -> String {
        match self.ref_name() {
            Some(name) => format!("{name:?} ({})", self.digest),
            None => self.digest.clone(),
        }
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key)?.as_str()
    }
}

/// The path of a blob.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("{BLOBS}/{}/{}", digest.algorithm().name(), digest.hex())
}

/// Checks the version in [`LAYOUT`].
///
/// # Errors
/// It is none that can be read here.
pub(super) fn check_version(bytes: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layout {
        image_layout_version: String,
    }
    let layout: Layout = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let version = layout.image_layout_version;
    if version.starts_with("1.") {
        return Ok(());
    }
    let shown: String = version.chars().take(20).collect();
    Err(format!("version {shown:?} of the layout is not known here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: Digest = Digest::Sha256([7; 32]);

    fn descriptor(annotations: &[(&str, &str)]) -> Descriptor {
        let annotations = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), Value::String((*value).to_owned())));
        Descriptor {
            annotations: Some(annotations.collect()),
            ..Descriptor::of(
                "docker.io/library/a:latest",
                media::OCI_MANIFEST,
                &DIGEST,
                5,
            )
        }
    }

    #[test]
    fn full_names_are_told_from_tags() {
        let full = |text| {
            let name = descriptor(&[(REF_NAME, text)]).full_name();
            name.map(|name| name.to_string())
        };
        for text in ["3.20", "latest", "team/app:1", "library/nginx", ""] {
            assert_eq!(full(text), None, "{text}");
        }
        assert_eq!(full("ghcr.io/a/b:1").as_deref(), Some("ghcr.io/a/b:1"));
        assert_eq!(
            full("localhost:5000/a").as_deref(),
            Some("localhost:5000/a:latest")
        );
        let both = descriptor(&[(REF_NAME, "1"), (IMAGE_NAME, "docker.io/library/a:1")]);
        assert_eq!(
            both.full_name().unwrap().to_string(),
            "docker.io/library/a:1"
        );
        assert!(both.is_called("1") && both.is_called("docker.io/library/a:1"));
        assert!(both.is_called(&DIGEST.to_string()) && !both.is_called("2"));
    }

    #[test]
    fn an_index_keeps_what_it_does_not_know_and_has_one_image_of_a_name() {
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"m","digest":"{DIGEST}","size":9,
               "annotations":{{"{REF_NAME}":"z"}},"platform":{{"os":"linux"}}}}],"x":1}}"#
        );
        let mut index: Index = serde_json::from_str(&text).unwrap();
        for size in [1, 2] {
            index.put(Descriptor::of("docker.io/library/a:1", "m", &DIGEST, size));
        }
        let said: Value = serde_json::from_slice(&index.to_bytes()).unwrap();
        assert_eq!(said["x"], 1);
        assert_eq!(said["manifests"].as_array().unwrap().len(), 2);
        assert_eq!(said["manifests"][0]["size"], 2);
        assert_eq!(said["manifests"][1]["platform"]["os"], "linux");
    }

    #[test]
    fn other_versions_are_refused() {
        assert_eq!(check_version(LAYOUT_TEXT), Ok(()));
        assert!(check_version(br#"{"imageLayoutVersion":"2.0.0"}"#).is_err());
        assert!(check_version(b"{}").is_err());
    }
}
