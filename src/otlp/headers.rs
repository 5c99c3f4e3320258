//! Headers of exports. Their values are secrets.

use std::fmt;
use std::io::Read as _;
use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue};

/// A file of some tokens; what is larger is the wrong file.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Headers that the exporter sets itself, or that belong to the connection.
const OWN: [&str; 8] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Names and secret values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(HeaderName, HeaderValue)>);

impl Headers {
    /// Adds one.
    ///
    /// # Errors
    /// The reason that it cannot be sent, without the value.
    pub fn add(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "is no name of a header")?;
        if OWN.contains(&name.as_str()) {
            return Err("cannot be set here: roadstead sets this header itself");
        }
        if self.0.iter().any(|(other, _)| *other == name) {
            return Err("is given twice");
        }
        let mut value =
            HeaderValue::from_str(value).map_err(|_| "a header cannot have this value")?;
        value.set_sensitive(true);
        self.0.push((name, value));
        Ok(())
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Writes them into a request. A name that is there already gets this value.
    pub(super) fn write_to(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            headers.insert(name.clone(), value.clone());
        }
    }

    /// Reads a file of them: `Name: value` in each line; empty lines and those that begin with `#` say nothing. Blocks.
    ///
    /// # Errors
    /// The reason, which holds nothing of the file.
    pub fn read(file: &Path) -> Result<Self, String> {
        let found = std::fs::metadata(file).map_err(|why| why.to_string())?;
        if !found.is_file() {
            return Err("it is no regular file".to_owned());
        }
        let mut text = String::new();
        let opened = std::fs::File::open(file).map_err(|why| why.to_string())?;
        let read = opened.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
        if read.map_err(|why| why.to_string())? as u64 > FILE_BYTES_MAX {
            return Err(format!("it is larger than {FILE_BYTES_MAX} bytes"));
        }
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut headers = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at = |why: &str| format!("line {}: {why}", number + 1);
            let parts = line.split_once(':');
            let (name, value) = parts.ok_or_else(|| at("must be like `Name: value`"))?;
            headers.add(name.trim_end(), value.trim()).map_err(at)?;
        }
        Ok(headers)
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_header_in_each_line() {
        let text = "# of the collector\nAuthorization: Bearer a:b\n\n  X-Tenant :7\n";
        let headers = Headers::parse(text).unwrap();
        let mut written = HeaderMap::new();
        headers.write_to(&mut written);
        assert_eq!(written["authorization"], "Bearer a:b");
        assert_eq!(written["x-tenant"], "7");
        assert_eq!(format!("{headers:?}"), r#"["authorization", "x-tenant"]"#);
    }

    #[test]
    fn what_cannot_be_sent_is_named_and_not_told() {
        for (text, why) in [
            ("secret", "line 1: must be like `Name: value`"),
            ("\nsecret token: x", "line 2: is no name of a header"),
            ("x: secret\u{7f}", "line 1: a header cannot have this value"),
            ("x: secret\nX: secret", "line 2: is given twice"),
            (
                "Host: secret",
                "line 1: cannot be set here: roadstead sets this header itself",
            ),
        ] {
            assert_eq!(Headers::parse(text).unwrap_err(), why, "{text:?}");
        }
    }
}
