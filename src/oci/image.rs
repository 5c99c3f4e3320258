//! Image names as people write them: `alpine`, `ghcr.io/org/app:1`, `nginx@sha256:…`
//! (distribution/reference, normalize.go).

use super::digest::DigestError;
use super::directory::understood;
use super::name::NameError;
use super::{Digest, Reference, Repository, Tag, UpstreamName};
use std::fmt;

/// The upstream of names that name none.
const DOCKER_HUB: &str = "docker.io";
/// Another name of it, from the days of its v1 API, which clients still fold into the first.
const DOCKER_HUB_LEGACY: &str = "index.docker.io";
/// The tag of names that have none.
const TAG_DEFAULT: &str = "latest";

/// An image's name in full: registry, repository, and a tag or digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageName {
    /// The registry's public name.
    pub upstream: UpstreamName,
    /// The repository in it.
    pub repository: Repository,
    /// The tag or digest in the repository.
    pub reference: Reference,
}

/// Reason why a text is no image's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageNameError {
    /// It begins with what looks like a registry, and is none.
    #[error("the registry is not a host name with an optional port")]
    Registry,
    /// The name is not one that a repository can have.
    #[error(
        "the repository's name is not valid (lower-case letters, digits, and . _ - between them)"
    )]
    Repository,
    /// The part after the colon is not a tag.
    #[error("the tag is not valid (letters, digits, and . _ -; at most 128)")]
    Tag,
    /// The part after the `@` is no usable digest.
    #[error("{0}")]
    Digest(DigestError),
}

impl ImageName {
    /// Parses a name by the familiar rules: without a registry it is Docker Hub's, a name of one
    /// component there is in `library`, and without tag and digest it is `latest`. The first
    /// component is a registry if it has a `.`, a `:`, or an upper-case letter, or is `localhost`.
    /// Parses a name. If both a tag and a digest are given, the digest decides, as it does for clients.
    ///
    /// # Errors
    /// [`ImageNameError`].
    pub fn parse(text: &str) -> Result<Self, ImageNameError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = Digest::parse(digest).map_err(ImageNameError::Digest)?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        // A colon before the last slash is that of the registry's port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            Some(_) | None => (rest, None),
        };
        let tag = tag.unwrap_or(TAG_DEFAULT);
        let tag = Tag::parse(tag).map_err(|_| ImageNameError::Tag)?;
        let (upstream, path) = split_registry(name)?;
        let repository = Repository::parse(&understood(upstream.as_str(), path));
        Ok(Self {
            upstream,
            repository: repository.map_err(|_: NameError| ImageNameError::Repository)?,
            reference: digest.map_or(Reference::Tag(tag), Reference::Digest),
        })
    }
}

impl fmt::Display for ImageName {
    /// The name in full, which parses to the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match &self.reference {
            Reference::Tag(_) => ':',
            Reference::Digest(_) => '@',
        };
        let Self {
            upstream,
            repository,
            reference,
        } = self;
        let registry = upstream.as_str();
        if is_registry(registry) {
            write!(f, "{registry}")?;
        } else {
            // A registry of one label, which a capital letter alone tells from a namespace of Docker Hub's.
            write!(f, "{}", registry.to_ascii_uppercase())?;
        }
        write!(f, "/{repository}{separator}{reference}")
    }
}

/// The registry and the path in it.
fn split_registry(name: &str) -> Result<(UpstreamName, &str), ImageNameError> {
    let upstream = |text| UpstreamName::parse(text).map_err(|_| ImageNameError::Registry);
    match name.split_once('/') {
        Some((DOCKER_HUB_LEGACY, rest)) => Ok((upstream(DOCKER_HUB)?, rest)),
        Some((first, rest)) if is_registry(first) => Ok((upstream(first)?, rest)),
        Some(_) | None => Ok((upstream(DOCKER_HUB)?, name)),
    }
}

/// True if the first component of a name is a registry's.
pub(crate) fn is_registry(component: &str) -> bool {
    component == "localhost"
        || component.contains(['.', ':'])
        || component.bytes().any(|b| b.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn familiar_names_become_full_ones() {
        for (text, full) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
            ("grafana/grafana:11", "docker.io/grafana/grafana:11"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("ghcr.io/org/team/app", "ghcr.io/org/team/app:latest"),
            ("GHCR.io/org/app", "ghcr.io/org/app:latest"),
            ("Registry/org/app", "REGISTRY/org/app:latest"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ] {
            assert_eq!(ImageName::parse(text).unwrap().to_string(), full, "{text}");
        }
        for text in [format!("nginx@{DIGEST}"), format!("nginx:1.27@{DIGEST}")] {
            let full = format!("docker.io/library/nginx@{DIGEST}");
            assert_eq!(ImageName::parse(&text).unwrap().to_string(), full);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, error) in [
            ("", ImageNameError::Repository),
            ("Alpine", ImageNameError::Repository),
            ("alpine:", ImageNameError::Tag),
            ("alpine:a b", ImageNameError::Tag),
            ("a b", ImageNameError::Repository),
            ("docker://alpine", ImageNameError::Registry),
            ("https://ghcr.io/org/app", ImageNameError::Registry),
            ("ghcr.io:x/app", ImageNameError::Registry),
            ("ghcr.io/", ImageNameError::Repository),
            ("nginx@", ImageNameError::Digest(DigestError::Malformed)),
            (
                "nginx@sha256:00",
                ImageNameError::Digest(DigestError::Malformed),
            ),
        ] {
            assert_eq!(ImageName::parse(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_full_name_means_the_same(text in "[a-cA./:@_-]{0,16}") {
            if let Ok(name) = ImageName::parse(&text) {
                prop_assert_eq!(ImageName::parse(&name.to_string()), Ok(name));
            }
        }
    }
}
