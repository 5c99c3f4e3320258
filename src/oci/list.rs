//! Lists as an upstream gives them: what of them may be passed on.
//!
//! A list cannot be checked by a digest. It is served only if it is what was asked for, and always with the
//! type that the specification gives it: whatever else an upstream sends (a login page, a picture) stays there.

use super::manifest::media;
use super::{Digest, Tag, span};
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, SeqAccess, Visitor};
use std::fmt;

/// The type of a list of tags (dist-spec, "Listing tags").
pub const TAGS: &str = "application/json";
/// The type of a list of referrers (dist-spec, "Listing referrers").
pub const REFERRERS: &str = media::OCI_INDEX;

/// Reason why bytes are no list.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// They are not the JSON that they should be. The text tells where, and quotes nothing.
    #[error("no list: {0}")]
    Json(#[from] serde_json::Error),
    /// An object that is something else.
    #[error("no list: {0}")]
    Other(&'static str),
}

/// Findings in a list of tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagList {
    /// Number of entries that can be tags.
    pub count: usize,
    /// Number of entries that cannot.
    pub unfit: usize,
}

/// Reads a list of tags, and keeps nothing of it. `null` is an empty list, as distribution writes it.
///
/// The caller bounds `bytes`.
///
/// # Errors
/// [`ListError`].
pub fn tags(bytes: &[u8]) -> Result<TagList, ListError> {
    #[derive(Deserialize)]
    struct List {
        name: Option<Skipped>,
        #[serde(default)]
        tags: Option<TagList>,
    }
    let list: List = serde_json::from_slice(bytes)?;
    match (list.tags, list.name) {
        (
            Some(TagList {
                count: 0,
                unfit: 1..,
            }),
            _,
        ) => Err(ListError::Other("its tags are none")),
        (Some(found), _) => Ok(found),
        (None, Some(Skipped)) => Ok(TagList { count: 0, unfit: 0 }),
        (None, None) => Err(ListError::Other("it has neither a name nor tags")),
    }
}

/// The tags of a list that [`tags`] has read, those left out that can be none.
#[must_use]
pub fn fit_tags(bytes: &[u8]) -> Vec<String> {
    let is_tags =
        |name: &[u8]| serde_json::from_slice::<String>(name).is_ok_and(|name| name == "tags");
    let list = span::member(bytes, is_tags);
    let entries = list.and_then(|list| span::elements(bytes, &list));
    let entries = entries.unwrap_or_default().into_iter();
    let entries = entries.filter_map(|entry| bytes.get(entry));
    let tags = entries.filter_map(|entry| serde_json::from_slice::<String>(entry).ok());
    tags.filter(|tag| Tag::parse(tag).is_ok()).collect()
}

/// A list of tags as it is served.
#[must_use]
pub fn tags_body(repository: &str, tags: &[String]) -> Vec<u8> {
    serde_json::json!({ "name": repository, "tags": tags })
        .to_string()
        .into_bytes()
}

/// Reads a list of referrers, which is an image index, and takes out of it those of another `artifact_type`, if
/// one is wanted. What it returns is JSON of the same meaning; `None`: the very bytes.
///
/// The caller bounds `bytes`.
///
/// # Errors
/// [`ListError`].
pub fn referrers(bytes: &[u8], artifact_type: Option<&str>) -> Result<Referrers, ListError> {
    let seen: Index<Referrer> = serde_json::from_slice(bytes)?;
    if !seen.is_index() {
        return Err(ListError::Other("it is no image index"));
    }
    let Some(wanted) = artifact_type else {
        let count = seen.manifests.map_or(0, |manifests| manifests.len());
        return Ok(Referrers {
            count,
            filtered: None,
        });
    };
    let (filtered, count) = only(bytes, wanted).ok_or(ListError::Other("it is no image index"))?;
    Ok(Referrers {
        count,
        filtered: Some(filtered),
    })
}

/// The index with those entries alone that are of one artifact type, and how many these are. Nothing of the others is
/// read into memory.
fn only(index: &[u8], wanted: &str) -> Option<(Vec<u8>, usize)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        artifact_type: Option<String>,
    }
    // A name may be written with escapes.
    let is_manifests =
        |name: &[u8]| serde_json::from_slice::<String>(name).is_ok_and(|name| name == "manifests");
    let Some(list) = span::member(index, is_manifests) else {
        return Some((index.to_vec(), 0));
    };
    if index.get(list.clone())? == b"null" {
        return Some((index.to_vec(), 0));
    }
    let is_wanted = |entry: &&[u8]| {
        let typed: Option<Typed> = serde_json::from_slice(entry).ok();
        typed.and_then(|typed| typed.artifact_type).as_deref() == Some(wanted)
    };
    let entries = span::elements(index, &list)?;
    let entries = entries.into_iter().filter_map(|entry| index.get(entry));
    let kept: Vec<&[u8]> = entries.filter(is_wanted).collect();
    let mut filtered = index.get(..list.start)?.to_vec();
    filtered.push(b'[');
    filtered.extend_from_slice(&kept.join(&b','));
    filtered.push(b']');
    filtered.extend_from_slice(index.get(list.end..)?);
    Some((filtered, kept.len()))
}

/// Findings in a list of referrers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrers {
    /// Number of entries of the wanted type.
    pub count: usize,
    /// The list without the others.
    pub filtered: Option<Vec<u8>>,
}

/// An image index without entries: nothing refers to that.
#[must_use]
pub fn no_referrers() -> Vec<u8> {
    format!(r#"{{"schemaVersion":2,"mediaType":"{REFERRERS}","manifests":[]}}"#).into_bytes()
}

/// An image index, as far as it is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index<T> {
    schema_version: Option<u64>,
    media_type: Option<String>,
    /// `null` where Go's encoder met an empty list.
    #[serde(
        default = "Option::default",
        bound(deserialize = "T: Deserialize<'de>")
    )]
    manifests: Option<Vec<T>>,
    #[serde(default)]
    layers: Option<Skipped>,
}

impl<T> Index<T> {
    fn is_index(&self) -> bool {
        let typed = self
            .media_type
            .as_deref()
            .is_none_or(|own| own == REFERRERS);
        let versioned = self.schema_version == Some(2) || self.manifests.is_some();
        typed && versioned && self.layers.is_none()
    }
}

/// A descriptor that can be one. It takes no room.
struct Referrer;

impl<'de> Deserialize<'de> for Referrer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Descriptor {
            digest: String,
            #[serde(default)]
            #[expect(dead_code, reason = "it must be a size, if it is there")]
            size: Option<u64>,
            #[serde(default)]
            #[expect(dead_code, reason = "it must be text, if it is there")]
            media_type: Option<String>,
        }
        let Descriptor { digest, .. } = Descriptor::deserialize(deserializer)?;
        // One of an algorithm that is not known here may be known to the client.
        let named = digest.split_once(':').is_some_and(|(algorithm, hex)| {
            let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"+._-=".contains(&byte);
            !algorithm.is_empty()
                && !hex.is_empty()
                && algorithm.bytes().chain(hex.bytes()).all(sane)
        });
        if named || Digest::parse(&digest).is_ok() {
            Ok(Self)
        } else {
            Err(D::Error::custom("an entry without a digest"))
        }
    }
}

/// Anything but `null`.
struct Skipped;

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl<'de> Deserialize<'de> for TagList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;
        impl<'de> Visitor<'de> for Reading {
            type Value = TagList;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of tags")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<TagList, A::Error> {
                let mut found = TagList { count: 0, unfit: 0 };
                while let Some(text) = list.next_element::<String>()? {
                    if Tag::parse(&text).is_ok() {
                        found.count += 1;
                    } else {
                        found.unfit += 1;
                    }
                }
                Ok(found)
            }
        }
        deserializer.deserialize_seq(Reading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> Option<(String, usize)> {
        let found = tags(text.as_bytes()).ok()?;
        let fit = fit_tags(text.as_bytes());
        assert_eq!(fit.len(), found.count);
        Some((fit.join(" "), found.unfit))
    }

    #[test]
    fn a_list_of_tags_is_one() {
        let none = Some((String::new(), 0));
        assert_eq!(
            read(r#"{"name":"a","tags":["b","c"],"manifest":{}}"#),
            Some(("b c".to_owned(), 0))
        );
        assert_eq!(read(r#"{"name":"a","tags":[]}"#), none);
        assert_eq!(read(r#"{"name":"a","tags":null}"#), none);
        assert_eq!(read(r#"{"name":"a"}"#), none);
        assert_eq!(read(r#"{"tags":["a/b","c"]}"#), Some(("c".to_owned(), 1)));
    }

    #[test]
    fn what_is_no_list_of_tags_is_none() {
        for text in [
            "",
            "{}",
            "[]",
            "null",
            "<svg xmlns='http://www.w3.org/2000/svg'/>",
            r#"{"errors":[{"code":"DENIED"}]}"#,
            r#"{"name":"a","tags":"b"}"#,
            r#"{"name":"a","tags":{"b":1}}"#,
            r#"{"name":"a","tags":[1]}"#,
            r#"{"name":"a","tags":["b"]} {}"#,
            r#"{"name":"a","tags":["<script>alert(1)</script>"]}"#,
            r#"{"name":"a","tags":["b"],"tags":["c"]}"#,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn referrers_are_an_index_of_descriptors() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let entry = |artifact_type: &str| json!({"mediaType": "a/b", "digest": digest, "size": 1, "artifactType": artifact_type});
        let list = json!({"schemaVersion": 2, "mediaType": REFERRERS, "manifests": [entry("x"), entry("y")], "more": 1}).to_string();
        let all = referrers(list.as_bytes(), None).unwrap();
        assert_eq!((all.count, all.filtered), (2, None));
        let some = referrers(list.as_bytes(), Some("y")).unwrap();
        let text = String::from_utf8(some.filtered.unwrap()).unwrap();
        assert!(
            text.contains(r#""y""#) && !text.contains(r#""x""#),
            "{text}"
        );
        assert_eq!(some.count, 1);
        for empty in [
            String::from_utf8(no_referrers()).unwrap(),
            r#"{"schemaVersion":2,"manifests":null}"#.to_owned(),
            r#"{"manifests":[]}"#.to_owned(),
        ] {
            assert_eq!(
                referrers(empty.as_bytes(), None).unwrap().count,
                0,
                "{empty}"
            );
        }
        for text in [
            "{}",
            "<html>",
            r#"{"errors":[]}"#,
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}"#,
            r#"{"schemaVersion":2,"config":{},"layers":[]}"#,
            r#"{"manifests":[{}]}"#,
            r#"{"manifests":[1]}"#,
            r#"{"manifests":[{"digest":"<b>:x"}]}"#,
            r#"{"manifests":"x"}"#,
        ] {
            assert!(referrers(text.as_bytes(), None).is_err(), "{text}");
        }
    }
}
