//! The names in an operator's question.

use std::fmt;

use super::{InspectError, Source};
use crate::oci::image::ImageNameError;
use crate::oci::{ImageName, Reference, Repository, UpstreamName};

/// The images that a list is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// All of them.
    All,
    /// Those of an upstream.
    Upstream(UpstreamName),
    /// Those of a repository, and of those below this path.
    Path {
        /// The upstream.
        upstream: UpstreamName,
        /// A repository's name, or the first components of some.
        path: Repository,
    },
    /// One image.
    Image(ImageName),
    /// Those whose name has this text in it, as people search.
    Like {
        /// A part of the upstream's and repository's name; before a colon, its end.
        name: String,
        /// The beginning of a tag or digest, if there is a colon.
        reference: Option<String>,
    },
}

/// The reason why a text names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: {why}")]
pub struct NameError {
    text: String,
    why: ImageNameError,
}

impl Filter {
    /// Reads `UPSTREAM[/REPO[:TAG]]`, or a familiar name (`nginx` is Docker Hub's).
    ///
    /// # Errors
    /// [`NameError`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let text = text.trim_end_matches('/');
        if text.is_empty() {
            return Ok(Self::All);
        }
        let is_host = |text: &str| text == "localhost" || text.contains(['.', ':']);
        let has_tag = text
            .rsplit_once('/')
            .map_or(text, |(_, last)| last)
            .contains([':', '@']);
        if !text.contains(['/', '@'])
            && is_host(text)
            && let Ok(upstream) = UpstreamName::parse(text)
            // `nginx:1.27` is an image, `localhost:5000` a registry.
            && (!has_tag || text.rsplit_once(':').is_some_and(|(host, _)| is_host(host)))
        {
            return Ok(Self::Upstream(upstream));
        }
        let name = ImageName::parse(text).map_err(|why| NameError {
            text: text.to_owned(),
            why,
        })?;
        if has_tag {
            return Ok(Self::Image(name));
        }
        Ok(Self::Path {
            upstream: name.upstream,
            path: name.repository,
        })
    }

    /// Reads what a person types into a search: any part of a name, with or without the beginning of a tag behind a
    /// colon. Letters count alike in upper and lower case.
    #[must_use]
    pub fn like(text: &str) -> Self {
        let text = text.trim().to_lowercase();
        if text.is_empty() {
            return Self::All;
        }
        if text.starts_with("sha256:") || text.starts_with("sha512:") {
            return Self::Like {
                name: String::new(),
                reference: Some(text),
            };
        }
        // Neither the port of a registry (`localhost:5000/app`), nor the algorithm of a digest.
        let split = text.split_once('@').or_else(|| {
            let split = text.rsplit_once(':');
            split.filter(|(_, tag)| !tag.contains('/'))
        });
        let (name, reference) = match split {
            Some((name, reference)) => (name.to_owned(), Some(reference.to_owned())),
            None => (text, None),
        };
        Self::Like { name, reference }
    }

    /// The upstream that it is about, if about one.
    pub(super) fn upstream(&self) -> Option<&UpstreamName> {
        match self {
            Self::All | Self::Like { .. } => None,
            Self::Upstream(upstream) | Self::Path { upstream, .. } => Some(upstream),
            Self::Image(name) => Some(&name.upstream),
        }
    }

    /// True if it may mean images of this repository.
    pub(super) fn means(&self, source: &Source) -> bool {
        match self {
            Self::All => true,
            Self::Upstream(upstream) => *upstream == source.upstream,
            Self::Path { upstream, path } => {
                *upstream == source.upstream && is_below(source.repository.as_str(), path.as_str())
            }
            Self::Image(name) => {
                name.repository == source.repository && name.upstream == source.upstream
            }
            Self::Like { name, reference } => {
                let full = format!("{}/{}", source.upstream, source.repository).to_lowercase();
                if reference.is_some() {
                    full.ends_with(name.as_str())
                } else {
                    full.contains(name.as_str())
                }
            }
        }
    }

    /// True if it means this image of a repository that it may mean.
    pub(super) fn means_reference(&self, reference: &Reference) -> bool {
        match self {
            Self::All | Self::Upstream(_) | Self::Path { .. } => true,
            Self::Image(name) => name.reference == *reference,
            Self::Like {
                reference: wanted, ..
            } => wanted.as_ref().is_none_or(|wanted| {
                let text = match reference {
                    Reference::Tag(tag) => tag.as_str().to_lowercase(),
                    Reference::Digest(digest) => digest.to_string(),
                };
                text.starts_with(wanted.as_str())
            }),
        }
    }
}

/// True if a repository is `path`, or lies below it. What is written as `docker.io/grafana` was taken for
/// the official image of that name, and may mean the namespace as well.
fn is_below(repository: &str, path: &str) -> bool {
    let below = |path: &str| {
        repository
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    below(path) || path.strip_prefix("library/").is_some_and(below)
}

/// The upstream that a text names where an image is wanted: `docker.io` is read as Docker Hub's image of that name.
pub(super) fn upstream_named(text: &str) -> Option<UpstreamName> {
    match Filter::parse(text) {
        Ok(Filter::Upstream(upstream)) => Some(upstream),
        Ok(Filter::All | Filter::Path { .. } | Filter::Image(_) | Filter::Like { .. }) | Err(_) => {
            None
        }
    }
}

/// An image's repository and reference.
pub(super) fn parse_image(text: &str) -> Result<(Source, Reference), InspectError> {
    let name = ImageName::parse(text)
        .map_err(|why| InspectError::Bad(format!("image {text:?}: {why}")))?;
    let source = Source {
        upstream: name.upstream,
        repository: name.repository,
    };
    Ok((source, name.reference))
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("the cache"),
            Self::Upstream(upstream) => upstream.fmt(f),
            Self::Path { upstream, path } => write!(f, "{upstream}/{path}"),
            Self::Image(name) => name.fmt(f),
            Self::Like { name, reference } => match reference {
                Some(reference) => write!(f, "{name}:{reference}"),
                None => f.write_str(name),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(upstream: &str, repository: &str) -> Source {
        Source {
            upstream: UpstreamName::parse(upstream).unwrap(),
            repository: Repository::parse(repository).unwrap(),
        }
    }

    #[test]
    fn people_find_images_by_any_part_of_their_names() {
        let (tag, digest) = (
            Reference::Tag(crate::oci::Tag::parse("1.27-Alpine").unwrap()),
            Reference::Digest(crate::oci::Digest::Sha256([0xab; 32])),
        );
        let nginx = source("docker.io", "library/nginx");
        for (text, finds, tagged, by_digest) in [
            ("", true, true, true),
            ("  ngi ", true, true, true),
            ("NGINX", true, true, true),
            ("docker.io/lib", true, true, true),
            ("ghcr", false, true, true),
            ("nginx:1.27", true, true, false),
            ("nginx:1.27-alpine", true, true, false),
            ("nginx:27", true, false, false),
            ("ngi:1.27", false, true, false),
            ("nginx@sha256:abab", true, false, true),
            ("sha256:abab", true, false, true),
            ("sha256:ba", true, false, false),
            ("localhost:5000/nginx", false, true, true),
        ] {
            let filter = Filter::like(text);
            assert_eq!(filter.means(&nginx), finds, "{text}");
            assert_eq!(filter.means_reference(&tag), tagged, "{text}");
            assert_eq!(filter.means_reference(&digest), by_digest, "{text}");
        }
    }

    #[test]
    fn upstreams_paths_and_images_are_told_apart() {
        let upstream = |text: &str| Filter::Upstream(UpstreamName::parse(text).unwrap());
        let path = |host: &str, path: &str| Filter::Path {
            upstream: UpstreamName::parse(host).unwrap(),
            path: Repository::parse(path).unwrap(),
        };
        let image = |text: &str| Filter::Image(ImageName::parse(text).unwrap());
        for (text, expected) in [
            ("", Filter::All),
            ("docker.io", upstream("docker.io")),
            ("docker.io/", upstream("docker.io")),
            ("localhost:5000", upstream("localhost:5000")),
            ("nginx", path("docker.io", "library/nginx")),
            (
                "docker.io/library/nginx",
                path("docker.io", "library/nginx"),
            ),
            ("ghcr.io/org", path("ghcr.io", "org")),
            ("localhost:5000/app", path("localhost:5000", "app")),
            ("nginx:1.27", image("nginx:1.27")),
            ("ghcr.io/org/app:v1", image("ghcr.io/org/app:v1")),
        ] {
            assert_eq!(Filter::parse(text), Ok(expected), "{text}");
        }
        assert!(Filter::parse("UPPER case").is_err());
    }

    #[test]
    fn a_path_means_what_lies_below_it() {
        let filter = |text| Filter::parse(text).unwrap();
        let nginx = source("docker.io", "library/nginx");
        let grafana = source("docker.io", "grafana/grafana");
        assert!(filter("nginx").means(&nginx) && !filter("nginx").means(&grafana));
        assert!(filter("docker.io/grafana").means(&grafana));
        assert!(filter("docker.io/library").means(&nginx));
        assert!(!filter("docker.io/library/ngin").means(&nginx));
        assert!(!filter("ghcr.io/library/nginx").means(&nginx));
        assert!(filter("nginx:1").means(&nginx));
        let tag = |text| Reference::parse(text).unwrap();
        assert!(filter("nginx:1").means_reference(&tag("1")));
        assert!(!filter("nginx:1").means_reference(&tag("2")));
    }
}
