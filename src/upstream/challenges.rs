//! The challenge of an upstream as it was sent, for a client that is to answer it itself.

use http::HeaderValue;
use http::header::{HeaderMap, WWW_AUTHENTICATE};
use std::fmt;
use std::sync::Arc;

/// The most values that are passed on. Registries send one or two.
const VALUES_MAX: usize = 4;

/// The longest of them. A challenge names a URL and a repository or a few.
const VALUE_BYTES_MAX: usize = 2 * 1024;

/// The values of `WWW-Authenticate` of one 401: realm, service and scope as the upstream wrote them. Cheap to clone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Challenges(Arc<[HeaderValue]>);

impl Challenges {
    /// Those of an answer.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(WWW_AUTHENTICATE).iter();
        let values = values.filter(|value| value.len() <= VALUE_BYTES_MAX);
        Self(values.take(VALUES_MAX).cloned().collect())
    }

    /// The values, each for a header of its own: clients do not split them (docker reads one challenge of each).
    pub fn values(&self) -> impl Iterator<Item = &HeaderValue> {
        self.0.iter()
    }

    /// Size of the values, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.iter().map(HeaderValue::len).sum()
    }
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_as_they_are_and_bounded() {
        let mut headers = HeaderMap::new();
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull""#;
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(hub));
        let long = HeaderValue::try_from("x".repeat(VALUE_BYTES_MAX + 1)).unwrap();
        headers.append(WWW_AUTHENTICATE, long);
        for _ in 0..9 {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=x"));
        }
        let challenges = Challenges::of(&headers);
        let values: Vec<_> = challenges.values().collect();
        assert_eq!(values.len(), VALUES_MAX);
        assert_eq!(values[0], hub);
        assert_eq!(values[1], "Basic realm=x");
        assert_eq!(challenges.bytes(), hub.len() + 3 * "Basic realm=x".len());
        assert_eq!(Challenges::of(&HeaderMap::new()), Challenges::default());
    }
}
