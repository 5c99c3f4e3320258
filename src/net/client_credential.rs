//! A credential that a client has sent for an upstream, and that is none of this mirror's.
//!
//! It lives as long as the request, and the work that the request has caused. It is never kept, and goes to the upstream
//! that it is for alone.

use crate::oci::UpstreamName;
use http::HeaderValue;
use std::fmt;
use std::sync::Arc;

/// The longest one that is passed on: a token for a few repositories has some 4 KB.
const BYTES_MAX: usize = 16 * 1024;

/// A value of `Authorization`, and the upstream that it is for. Cheap to clone; it cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCredential(Arc<Inner>);

#[derive(PartialEq, Eq)]
struct Inner {
    upstream: UpstreamName,
    header: HeaderValue,
}

impl ClientCredential {
    /// The value that a client has sent; `None` where it is longer than any that makes sense.
    #[must_use]
    pub fn new(upstream: UpstreamName, header: &HeaderValue) -> Option<Self> {
        if header.len() > BYTES_MAX {
            return None;
        }
        let mut header = header.clone();
        header.set_sensitive(true);
        Some(Self(Arc::new(Inner { upstream, header })))
    }

    /// The value, if it is for this upstream.
    #[must_use]
    pub(crate) fn header_for(&self, upstream: &UpstreamName) -> Option<&HeaderValue> {
        (self.0.upstream == *upstream).then_some(&self.0.header)
    }

    /// Its bytes, to be hashed.
    #[must_use]
    pub(crate) fn expose(&self) -> &[u8] {
        self.0.header.as_bytes()
    }

    /// The upstream that it is for.
    #[must_use]
    pub fn upstream(&self) -> &UpstreamName {
        &self.0.upstream
    }
}

impl fmt::Debug for ClientCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientCredential(for {})", self.0.upstream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> UpstreamName {
        UpstreamName::parse(text).unwrap()
    }

    #[test]
    fn it_is_for_one_upstream_and_is_not_printed() {
        let header = HeaderValue::from_static("Bearer secret-text");
        let credential = ClientCredential::new(name("ghcr.io"), &header).unwrap();
        assert_eq!(credential.header_for(&name("ghcr.io")), Some(&header));
        assert_eq!(credential.header_for(&name("quay.io")), None);
        let sent = credential.header_for(&name("ghcr.io")).unwrap();
        assert!(sent.is_sensitive(), "HTTP/2 keeps it out of its tables");
        for printed in [format!("{credential:?}"), format!("{sent:?}")] {
            assert!(!printed.contains("secret-text"), "{printed}");
        }
    }

    #[test]
    fn one_that_is_too_long_is_none() {
        let of = |bytes: usize| HeaderValue::try_from("x".repeat(bytes)).unwrap();
        assert!(ClientCredential::new(name("a.io"), &of(BYTES_MAX)).is_some());
        assert!(ClientCredential::new(name("a.io"), &of(BYTES_MAX + 1)).is_none());
    }
}
