//! The contents of a manifest: the images of an index for the wanted platforms, the blobs of an image.

use serde::Deserialize;

use super::platform::{Platform, RawPlatform, Wanted};
use crate::oci::Digest;
use crate::oci::manifest::{Child, ChildKind, Inspection, ManifestError, inspect};

/// An index, and the images in it, are two; an index of indexes is the most that anybody publishes.
pub(crate) const LEVELS_MAX: usize = 4;

/// The parts, besides the manifest itself, that an image needs to be pulled.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Further manifests, with their platforms.
    pub(crate) manifests: Vec<(Digest, Option<Platform>)>,
    /// Config and layers.
    pub(crate) blobs: Vec<Child>,
    /// Platforms that are wanted and not there.
    pub(crate) unmet: Vec<Platform>,
    /// The platforms that are there, where any is unmet.
    offered: Vec<Platform>,
}

/// The members of an index that say which entries are for whom.
#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
    #[serde(default)]
    platform: Option<RawPlatform>,
    #[serde(default)]
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(default, rename = "vnd.docker.reference.type")]
    reference_type: Option<String>,
}

impl Contents {
    /// Reads a manifest. Attestations are left out: clients that pull an image do not fetch them.
    ///
    /// # Errors
    /// It is no manifest.
    pub(crate) fn of(
        content_type: Option<&str>,
        bytes: &[u8],
        wanted: &Wanted,
    ) -> Result<Self, ManifestError> {
        inspect(content_type, bytes).map(|inspection| Self::of_inspected(inspection, bytes, wanted))
    }

    /// The contents of a manifest that has been read.
    pub(crate) fn of_inspected(inspection: Inspection, bytes: &[u8], wanted: &Wanted) -> Self {
        let (manifests, blobs): (Vec<Child>, Vec<Child>) = inspection
            .children
            .into_iter()
            .partition(|child| child.kind == ChildKind::Manifest);
        let mut contents = Self {
            blobs,
            ..Self::default()
        };
        if manifests.is_empty() {
            return contents;
        }
        // An index whose platforms cannot be read has none: all of its images are taken.
        let entries =
            serde_json::from_slice(bytes).map_or_else(|_| Vec::new(), |it: Index| it.manifests);
        let said = |child: &Child| {
            let digest = child.digest.to_string();
            entries.iter().find(|entry| entry.digest == digest)
        };
        let images: Vec<(Digest, Option<Platform>)> = manifests
            .iter()
            .filter(|child| !said(child).is_some_and(Entry::is_attestation))
            .map(|child| {
                let platform = said(child).and_then(|entry| entry.platform.as_ref()?.resolve());
                (child.digest, platform)
            })
            .collect();
        let offered: Vec<Option<Platform>> = images.iter().map(|(_, it)| it.clone()).collect();
        let (taken, unmet) = wanted.choose(&offered);
        // Where no entry says its platform, there is nothing to be chosen, and nothing amiss.
        if offered.iter().any(Option::is_some) && !unmet.is_empty() {
            contents.unmet = unmet;
            contents.offered = offered.into_iter().flatten().collect();
        }
        let chosen = images.into_iter().enumerate();
        contents.manifests = chosen
            .filter(|(at, _)| taken.contains(at))
            .map(|(_, image)| image)
            .collect();
        contents
    }

    /// The platforms that are there, for people.
    pub(crate) fn offered(&self) -> String {
        let names: Vec<String> = self.offered.iter().map(Platform::to_string).collect();
        names.join(", ")
    }
}

impl Entry {
    /// As `BuildKit` marks them (its docs/attestations/attestation-storage.md).
    fn is_attestation(&self) -> bool {
        let annotations = self.annotations.as_ref();
        annotations.is_some_and(|it| it.reference_type.as_deref() == Some("attestation-manifest"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;
    use crate::oci::manifest::media;

    fn digest(of: &str) -> Digest {
        Digest::of(Algorithm::Sha256, of.as_bytes())
    }

    fn index() -> String {
        let entry = |of: &str, more: &str| {
            let (digest, media_type) = (digest(of), media::OCI_MANIFEST);
            format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":1{more}}}"#)
        };
        let entries = [
            entry(
                "amd",
                r#","platform":{"os":"linux","architecture":"amd64"}"#,
            ),
            entry(
                "arm",
                r#","platform":{"os":"linux","architecture":"arm64","variant":"v8"}"#,
            ),
            entry(
                "proof",
                r#","platform":{"os":"unknown","architecture":"unknown"},"annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#,
            ),
        ];
        format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            entries.join(",")
        )
    }

    fn of(wanted: &str) -> Contents {
        let wanted = Wanted::parse(&[wanted.to_owned()]).unwrap();
        Contents::of(Some(media::OCI_INDEX), index().as_bytes(), &wanted).unwrap()
    }

    #[test]
    fn an_index_leads_to_the_wanted_images_and_to_no_attestation() {
        let digests = |contents: Contents| -> Vec<Digest> {
            contents.manifests.into_iter().map(|(it, _)| it).collect()
        };
        assert_eq!(digests(of("linux/arm64")), [digest("arm")]);
        assert_eq!(digests(of("all")), [digest("amd"), digest("arm")]);
        let none = of("linux/s390x");
        assert_eq!(none.unmet, ["linux/s390x".parse().unwrap()]);
        assert_eq!(none.offered.len(), 2);
        assert_eq!(none.manifests, []);
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let wanted = Wanted::All;
        assert!(Contents::of(Some("text/html"), b"<html>", &wanted).is_err());
    }
}
