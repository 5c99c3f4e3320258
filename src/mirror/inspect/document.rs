//! Facts in manifests and image configs, for people: platforms, labels, commands
//! (image-spec image-index.md, config.md; Docker's image spec v1.2).

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// A config above this size is not looked into: they have some kilobytes, and few above a hundred.
pub(super) const CONFIG_BYTES_MAX: usize = 1024 * 1024;

/// The content of an image's config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigFacts {
    /// The operating system.
    pub os: String,
    /// The processor.
    pub architecture: String,
    /// Variant of the architecture: `v8`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// When the image was made, as its maker wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The program that it runs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The program's arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// The user that runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Directory that it is run in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Labels, sorted.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    created: Option<String>,
    #[serde(default, rename = "config")]
    execution: Option<Execution>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Execution {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

impl ConfigFacts {
    /// Reads a config; `None` for what is none (an artifact's).
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let config: Config = serde_json::from_slice(bytes).ok()?;
        let own = config.execution.unwrap_or_default();
        let said = |text: Option<String>| text.filter(|text| !text.is_empty());
        Some(Self {
            os: said(config.os)?,
            architecture: said(config.architecture)?,
            variant: said(config.variant),
            created: said(config.created),
            entrypoint: own.entrypoint.unwrap_or_default(),
            cmd: own.cmd.unwrap_or_default(),
            user: said(own.user),
            working_dir: said(own.working_dir),
            labels: own.labels.unwrap_or_default(),
        })
    }

    /// `linux/arm/v7`.
    #[must_use]
    pub fn platform(&self) -> String {
        platform(&self.os, &self.architecture, self.variant.as_deref())
    }
}

/// The platforms of an index's entries, as it says; `None` for an attestation, which is no image.
#[must_use]
pub fn platforms(bytes: &[u8]) -> HashMap<Digest, Option<String>> {
    let Ok(index) = serde_json::from_slice::<Index>(bytes) else {
        return HashMap::new();
    };
    let entries = index.manifests.into_iter();
    entries
        .filter_map(|entry| {
            let digest = Digest::parse(&entry.digest).ok()?;
            let named = |text: &str| !text.is_empty() && text != "unknown";
            let annotations = entry.annotations.unwrap_or_default();
            if annotations.contains_key("vnd.docker.reference.type") {
                return Some((digest, None));
            }
            let platform = entry
                .platform
                .filter(|it| named(&it.os) && named(&it.architecture))
                .map(|it| platform(&it.os, &it.architecture, it.variant.as_deref()));
            Some((digest, platform))
        })
        .collect()
}

/// As `docker pull --platform` takes it; arm64 is always v8.
fn platform(os: &str, architecture: &str, variant: Option<&str>) -> String {
    match variant {
        Some("v8") if architecture == "arm64" => format!("{os}/{architecture}"),
        Some(variant) if !variant.is_empty() => format!("{os}/{architecture}/{variant}"),
        Some(_) | None => format!("{os}/{architecture}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_says_what_the_image_is() {
        let facts = ConfigFacts::parse(
            br#"{"os":"linux","architecture":"arm","variant":"v7","created":"2024-01-01T00:00:00Z",
                "config":{"Entrypoint":["/app"],"Cmd":null,"User":"","Labels":{"a":"b"}},"rootfs":{}}"#,
        )
        .unwrap();
        assert_eq!(facts.platform(), "linux/arm/v7");
        assert_eq!(facts.entrypoint, ["/app"]);
        assert_eq!((facts.cmd.len(), facts.user), (0, None));
        assert_eq!(facts.labels["a"], "b");
        for bad in ["{}", "[]", "x", r#"{"os":"linux"}"#] {
            assert_eq!(ConfigFacts::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn attestations_are_no_platforms() {
        let digest = |byte: u8| Digest::Sha256([byte; 32]);
        let index = format!(
            r#"{{"manifests":[
                {{"digest":"{}","platform":{{"os":"linux","architecture":"arm64","variant":"v8"}}}},
                {{"digest":"{}","platform":{{"os":"unknown","architecture":"unknown"}},
                  "annotations":{{"vnd.docker.reference.type":"attestation-manifest"}}}}]}}"#,
            digest(1),
            digest(2)
        );
        let found = platforms(index.as_bytes());
        assert_eq!(found[&digest(1)].as_deref(), Some("linux/arm64"));
        assert_eq!(found[&digest(2)], None);
        assert!(platforms(b"x").is_empty());
    }
}
