//! The part of a manifest that lists of referrers show (dist-spec, "Listing referrers"), and such lists.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::Digest;
use super::manifest::media;

/// The part of a manifest that lists of referrers show.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The manifest that it refers to.
    pub subject: Option<Digest>,
    /// The type of artifact: its own, or else its config's.
    pub artifact_type: Option<String>,
    /// Its annotations.
    pub annotations: Option<Map<String, Value>>,
}

/// An entry of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The manifest's digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
    /// The type of artifact.
    pub artifact_type: Option<String>,
    /// Its annotations.
    pub annotations: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default, rename = "artifactType", deserialize_with = "lenient")]
    artifact_type: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    config: Option<Config>,
    #[serde(default)]
    subject: Option<Subject>,
    #[serde(default, deserialize_with = "lenient")]
    annotations: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
}

#[derive(Deserialize)]
struct Subject {
    digest: String,
}

/// A value of another type counts as none.
fn lenient<'de, D: Deserializer<'de>, T: serde::de::DeserializeOwned>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}

/// Reads a manifest, which the caller has bounded.
///
/// # Errors
/// It has a subject that makes no sense.
pub fn facts(bytes: &[u8]) -> Result<Facts, &'static str> {
    let why = "its subject has no digest that makes sense";
    let document: Document = serde_json::from_slice(bytes).map_err(|_| why)?;
    let subject = document.subject.map(|it| Digest::parse(&it.digest));
    let own = document.artifact_type.filter(|it| !it.is_empty());
    Ok(Facts {
        subject: subject.transpose().map_err(|_| why)?,
        artifact_type: own.or_else(|| document.config.and_then(|it| it.media_type)),
        annotations: document.annotations.filter(|it| !it.is_empty()),
    })
}

/// The entries of an index that somebody has pushed as a list of referrers. What makes no sense is left out.
#[must_use]
pub fn entries(bytes: &[u8]) -> Vec<Entry> {
    #[derive(Deserialize)]
    struct Index {
        #[serde(default)]
        manifests: Vec<Value>,
    }
    let index: Option<Index> = serde_json::from_slice(bytes).ok();
    let manifests = index.map(|it| it.manifests).unwrap_or_default();
    manifests.iter().filter_map(entry).collect()
}

fn entry(value: &Value) -> Option<Entry> {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    Some(Entry {
        digest: Digest::parse(text("digest")?).ok()?,
        media_type: text("mediaType")?.to_owned(),
        size: value.get("size")?.as_u64()?,
        artifact_type: text("artifactType").map(str::to_owned),
        annotations: value.get("annotations").and_then(Value::as_object).cloned(),
    })
}

/// A list of referrers.
#[must_use]
pub fn list(entries: &[Entry]) -> Vec<u8> {
    let manifests: Vec<Value> = entries.iter().map(Entry::value).collect();
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_INDEX,
        "manifests": manifests,
    })
    .to_string()
    .into_bytes()
}

impl Entry {
    fn value(&self) -> Value {
        let mut value = serde_json::json!({
            "mediaType": self.media_type,
            "size": self.size,
            "digest": self.digest.to_string(),
        });
        if let Some(fields) = value.as_object_mut() {
            if let Some(artifact_type) = &self.artifact_type {
                fields.insert("artifactType".to_owned(), artifact_type.as_str().into());
            }
            if let Some(annotations) = &self.annotations {
                fields.insert("annotations".to_owned(), annotations.clone().into());
            }
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_of_a_manifest_are_read() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let read = |text: &str| facts(text.replace('D', &digest).as_bytes());
        let found = read(
            r#"{"config":{"mediaType":"c"},"subject":{"digest":"D"},"annotations":{"a":"b"}}"#,
        );
        let found = found.unwrap();
        assert_eq!(found.subject, Some(Digest::Sha256([0; 32])));
        assert_eq!(found.artifact_type.as_deref(), Some("c"));
        assert!(found.annotations.is_some());
        let found = read(r#"{"artifactType":"t","config":{"mediaType":"c"}}"#).unwrap();
        assert_eq!(found.artifact_type.as_deref(), Some("t"));
        assert_eq!(
            read(r#"{"config":3,"annotations":[]}"#),
            Ok(Facts::default())
        );
        assert!(read(r#"{"subject":{"digest":"x"}}"#).is_err());
        assert!(read(r#"{"subject":3}"#).is_err());
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let all = vec![Entry {
            digest: Digest::Sha256([1; 32]),
            media_type: media::OCI_MANIFEST.to_owned(),
            size: 7,
            artifact_type: Some("t".to_owned()),
            annotations: None,
        }];
        assert_eq!(entries(&list(&all)), all);
        assert_eq!(entries(b"{}"), Vec::new());
        assert_eq!(
            entries(br#"{"manifests":[{},{"digest":"x"},1]}"#),
            Vec::new()
        );
    }
}
