//! The fields that a manifest must have (image-spec, "manifest.md" and "image-index.md"). A mirror passes on what its upstream
//! has; what is pushed here is refused if no client could pull it.

use serde_json::Value;

use crate::oci::Digest;
use crate::oci::manifest::media;

/// Sees that a manifest of a known kind has what its kind has.
///
/// # Errors
/// The field, and why it will not do.
pub(super) fn check(media_type: &str, bytes: &[u8]) -> Result<(), String> {
    let kind = media_type.to_ascii_lowercase();
    let is_image = [media::OCI_MANIFEST, media::DOCKER_MANIFEST].contains(&kind.as_str());
    let is_index = [media::OCI_INDEX, media::DOCKER_LIST].contains(&kind.as_str());
    if !is_image && !is_index {
        return Ok(());
    }
    let document: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if document.get("schemaVersion").and_then(Value::as_u64) != Some(2) {
        return Err("schemaVersion must be 2".to_owned());
    }
    if let Some(subject) = document.get("subject").filter(|it| !it.is_null()) {
        descriptor("subject", subject)?;
    }
    if is_index {
        return list("manifests", &document);
    }
    match document.get("config") {
        Some(config) => descriptor("config", config)?,
        None => return Err("config is missing".to_owned()),
    }
    list("layers", &document)
}

/// Go writes an empty list as `null`.
fn list(name: &str, document: &Value) -> Result<(), String> {
    let entries = match document.get(name) {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err(format!("{name} is no list")),
    };
    for (place, entry) in entries.iter().enumerate() {
        descriptor(&format!("{name}[{place}]"), entry)?;
    }
    Ok(())
}

fn descriptor(name: &str, entry: &Value) -> Result<(), String> {
    let Some(digest) = entry.get("digest").and_then(Value::as_str) else {
        return Err(format!("{name}.digest is missing"));
    };
    if Digest::parse(digest).is_err() {
        return Err(format!(
            "{name}.digest is {digest:?}, and neither sha256: nor sha512: with as many lower-case hexadecimal digits as it has"
        ));
    }
    match entry.get("size") {
        None | Some(Value::Null) => Ok(()),
        Some(size) if size.is_u64() => Ok(()),
        Some(size) => Err(format!("{name}.size is {size}, and no number of bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_that_is_wrong_is_named() {
        let config = format!(
            r#""config":{{"digest":"sha256:{}","size":2}}"#,
            "ab".repeat(32)
        );
        for (document, wrong) in [
            (r#"{"schemaVersion":1}"#.to_owned(), "schemaVersion"),
            ("{}".to_owned(), "schemaVersion"),
            (r#"{"schemaVersion":"2"}"#.to_owned(), "schemaVersion"),
            (r#"{"schemaVersion":2}"#.to_owned(), "config"),
            (
                format!(r#"{{"schemaVersion":2,{}}}"#, config.replace(":2}", ":-2}")),
                "config.size is -2",
            ),
            (
                r#"{"schemaVersion":2,"config":{"digest":"sha256:AB","size":2}}"#.to_owned(),
                r#"config.digest is "sha256:AB""#,
            ),
            (
                format!(
                    r#"{{"schemaVersion":2,{config},"layers":[{{"size":1.5,"digest":"sha256:{}"}}]}}"#,
                    "cd".repeat(32)
                ),
                "layers[0].size",
            ),
            (
                format!(r#"{{"schemaVersion":2,{config},"layers":[{{"size":1}}]}}"#),
                "layers[0].digest",
            ),
            (
                format!(r#"{{"schemaVersion":2,{config},"layers":{{}}}}"#),
                "layers is no list",
            ),
            (
                format!(r#"{{"schemaVersion":2,{config},"subject":{{"size":1}}}}"#),
                "subject.digest",
            ),
        ] {
            let error = check(media::OCI_MANIFEST, document.as_bytes()).unwrap_err();
            assert!(error.contains(wrong), "{document}: {error}");
        }
        let fine = format!(r#"{{"schemaVersion":2,{config},"layers":null,"subject":null}}"#);
        check(media::DOCKER_MANIFEST, fine.as_bytes()).unwrap();
        check(media::OCI_INDEX, br#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
        check(media::OCI_INDEX, br#"{"schemaVersion":2,"manifests":[{}]}"#).unwrap_err();
        check("application/vnd.example", b"{}").unwrap();
    }
}
