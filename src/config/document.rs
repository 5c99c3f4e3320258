//! Policies of Alibaba Cloud's RAM in `[[access.policy]]`.

use std::io::{self, Read as _};
use std::path::Path;

use serde_json::{Value as Json, json};
use toml::de::DeValue;

use super::access::PolicyKey;
use super::table::{Context, Scalar, Values as _};
use crate::access::Statement;
use crate::access::ram::{self, DOCUMENT_BYTES_MAX};
use crate::oci::UpstreamName;

/// The name of an upstream.
pub(super) enum UpstreamText {}

impl Scalar for UpstreamText {
    type Value = String;

    fn parse(written: &DeValue<'_>) -> Result<String, String> {
        let text = written.as_str().ok_or("must be text")?;
        let name = UpstreamName::parse(text).map_err(|why| why.to_string())?;
        Ok(name.as_str().to_owned())
    }
    fn schema() -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
}

/// The statements of a policy's document. Its lines and columns are told from its own beginning.
pub(super) fn statements(keys: &PolicyKey, context: &Context<'_>) -> Vec<Statement> {
    let upstreams = keys.document_upstream.value_or(Vec::new());
    let (place, file, text) = match (&keys.document, &keys.document_file) {
        (Some(given), _) => (&given.place, None, Ok(given.value.clone())),
        (None, Some(given)) => (&given.place, Some(&given.value), read(&given.value)),
        // It was reported that it makes no sense.
        (None, None) => return Vec::new(),
    };
    let read = text.and_then(|text| ram::parse(&text, &upstreams));
    read.unwrap_or_else(|why| {
        let why = match file {
            Some(file) => format!("{}: {why}", file.display()),
            None => why,
        };
        context.wrong(place, why);
        Vec::new()
    })
}

fn read(file: &Path) -> Result<String, String> {
    let read = || {
        // Opening a pipe would wait for somebody at its other end.
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        let mut text = String::new();
        let limit = u64::try_from(DOCUMENT_BYTES_MAX + 1).unwrap_or(u64::MAX);
        std::fs::File::open(file)?
            .take(limit)
            .read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|error| format!("cannot be read: {error}"))
}
