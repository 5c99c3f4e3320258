//! Repository names, tags, references, upstream names (dist-spec, "Pulling manifests").

use super::{Digest, digest::DigestError};
use std::fmt;
use std::sync::Arc;

/// The longest repository name (dist-spec, "Pulling manifests": many clients limit host and name to
/// 255 characters together; distribution limits the name alone, which is what we can see).
pub const REPOSITORY_CHARS_MAX: usize = 255;
/// The longest tag (dist-spec: one character and up to 127 more).
pub const TAG_CHARS_MAX: usize = 128;
/// The longest host name (RFC 1035, section 2.3.4, written without the final dot).
const HOST_CHARS_MAX: usize = 253;

/// A valid repository name: `library/nginx`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(Arc<str>);

/// A valid tag. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

/// The part after `/manifests/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A tag, which may move.
    Tag(Tag),
    /// A digest, which cannot.
    Digest(Digest),
}

/// The public name of a configured upstream: `docker.io`, `localhost:5000`. Cheap to clone.
/// Held lower case; only configuration and `Directory` make one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamName(Arc<str>);

/// Reason why a name is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The repository name breaks the grammar or is over 255 characters.
    #[error("invalid repository name")]
    Repository,
    /// The tag breaks the grammar.
    #[error("invalid tag")]
    Tag,
    /// The reference is a digest, and not a usable one.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// An upstream name is a host name or address with an optional port.
    #[error("invalid upstream name")]
    Upstream,
}

impl Repository {
    /// Parses and checks a name.
    ///
    /// # Errors
    /// [`NameError::Repository`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() > REPOSITORY_CHARS_MAX || !text.split('/').all(is_component) {
            return Err(NameError::Repository);
        }
        Ok(Self(text.into()))
    }
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl Tag {
    /// Parses and checks a tag.
    ///
    /// # Errors
    /// [`NameError::Tag`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let starts_well = text.bytes().next().is_some_and(is_word);
        let goes_on_well = text.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'));
        if !starts_well || !goes_on_well || text.len() > TAG_CHARS_MAX {
            return Err(NameError::Tag);
        }
        Ok(Self(text.into()))
    }
    /// The tag as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl Reference {
    /// Parses a tag or a digest (whatever contains a colon is a digest).
    ///
    /// # Errors
    /// [`NameError::Tag`] or [`NameError::Digest`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.contains(':') {
            return Ok(Self::Digest(Digest::parse(text)?));
        }
        Tag::parse(text).map(Self::Tag)
    }
}
impl UpstreamName {
    /// Parses and checks an upstream's name: a host name, an IPv4 address, or an IPv6 address in
    /// brackets, each with an optional port. It is folded to lower case.
    ///
    /// # Errors
    /// [`NameError::Upstream`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let text = text.to_ascii_lowercase();
        let (host, port) = split_port(&text);
        if !is_host(host) || !port.is_none_or(is_port) {
            return Err(NameError::Upstream);
        }
        Ok(Self(text.into()))
    }
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Splits `host[:port]`; the colons of an IPv6 address in brackets do not separate a port.
/// Neither part is checked.
pub(crate) fn split_port(text: &str) -> (&str, Option<&str>) {
    // After the bracket, or from the start when there is none, only a port may have a colon.
    let port_search_start = text.rfind(']').map_or(0, |bracket| bracket + 1);
    let colon = text
        .rfind(':')
        .filter(|colon| *colon >= port_search_start)
        .and_then(|colon| text.split_at_checked(colon));
    match colon {
        Some((host, port)) => (host, Some(port.trim_start_matches(':'))),
        None => (text, None),
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`: runs of letters and digits, joined by one of the separators.
fn is_component(text: &str) -> bool {
    let is_alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends_well = |b: Option<u8>| b.is_some_and(is_alphanumeric);
    ends_well(text.bytes().next())
        && ends_well(text.bytes().next_back())
        && text
            .as_bytes()
            .chunk_by(|a, b| is_alphanumeric(*a) == is_alphanumeric(*b))
            .all(|run| match run {
                b"." | b"_" | b"__" => true,
                run => run.iter().all(|b| *b == b'-') || run.iter().copied().all(is_alphanumeric),
            })
}

/// A host name, an IPv4 address, or an IPv6 address in brackets; lower case.
fn is_host(text: &str) -> bool {
    if let Some(rest) = text.strip_prefix('[') {
        return rest
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    }
    // Underscores are no part of a host name, and stand in the names of compose services.
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    text.len() <= HOST_CHARS_MAX
        && text.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(is_inner)
        })
}

/// A port that can be dialled.
fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port != 0)
}

macro_rules! text {
    ($($name:ident),*) => { $(
        impl fmt::Display for $name { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) } }
        impl fmt::Debug for $name { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) } }
    )* };
}
text!(Repository, Tag, UpstreamName);

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn repository_names_follow_the_grammar() {
        for good in [
            "a",
            "nginx",
            "library/nginx",
            "a/b/c/d/e/f",
            "a.b",
            "a_b",
            "a__b",
            "a-b",
            "a---b",
            "0/1",
            "ghcr.io/x",
            "manifests/blobs/tags",
            "a1.b2_c3__d4--e5",
        ] {
            assert_eq!(Repository::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a/B", "a..b", "a___b", "a._b", "a-.b", "a_-b", ".a",
            "a.", "-a", "a-", "_a", "a_", "a b", "a:b", "a@b", "ä", "a/../b", "a/./b", "a%2fb",
            "a\nb",
        ] {
            assert_eq!(
                Repository::parse(bad),
                Err(NameError::Repository),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn lengths_are_limited() {
        assert!(Repository::parse(&"a".repeat(255)).is_ok());
        assert!(Repository::parse(&"a".repeat(256)).is_err());
        assert!(Tag::parse(&"t".repeat(128)).is_ok());
        assert!(Tag::parse(&"t".repeat(129)).is_err());
    }

    #[test]
    fn tags_follow_the_grammar() {
        for good in [
            "latest",
            "1",
            "_",
            "v1.2.3-rc.1",
            "A_b",
            "sha256-abc.sig",
            "a..b",
            "a-",
        ] {
            assert_eq!(Tag::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", ".a", "-a", "a/b", "a b", "a:b", "é", "a+b", "a\0"] {
            assert_eq!(Tag::parse(bad), Err(NameError::Tag), "{bad:?}");
        }
    }

    #[test]
    fn a_reference_with_a_colon_is_a_digest() {
        let digest = format!("sha256:{}", "0".repeat(64));
        assert_eq!(
            Reference::parse(&digest),
            Ok(Reference::Digest(Digest::Sha256([0; 32])))
        );
        assert!(matches!(Reference::parse("latest"), Ok(Reference::Tag(_))));
        assert_eq!(
            Reference::parse("sha256:00"),
            Err(NameError::Digest(DigestError::Malformed))
        );
        assert_eq!(Reference::parse(""), Err(NameError::Tag));
        assert_eq!(Reference::parse(&digest).unwrap().to_string(), digest);
    }

    #[test]
    fn upstream_names_are_hosts_with_an_optional_port() {
        for (text, expected) in [
            ("docker.io", "docker.io"),
            ("GHCR.io", "ghcr.io"),
            ("localhost:5000", "localhost:5000"),
            ("hub", "hub"),
            ("10.0.0.1:443", "10.0.0.1:443"),
            ("[::1]", "[::1]"),
            ("[FE80::1]:5000", "[fe80::1]:5000"),
            ("my_registry", "my_registry"),
        ] {
            assert_eq!(UpstreamName::parse(text).unwrap().as_str(), expected);
        }
        for bad in [
            "",
            ":5000",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a:b",
            "a/b",
            "a b",
            "-a.io",
            "a-.io",
            "a..io",
            "a.io.",
            ".io",
            "::1",
            "[::1",
            "::1]",
            "[zz]",
            "[::1]5000",
            "[::1]:",
            "é.io",
            "https://a.io",
            "a.io:1:2",
            "u@a.io",
            "[]",
            "a::1",
        ] {
            assert_eq!(
                UpstreamName::parse(bad),
                Err(NameError::Upstream),
                "{bad:?}"
            );
        }
    }

    /// The grammar of dist-spec, as a generator.
    const REPOSITORY: &str = "[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,3}(/[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}){0,4}";

    proptest! {
        #[test]
        fn all_that_the_grammar_generates_is_taken(name in REPOSITORY, tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}") {
            prop_assert!(Repository::parse(&name).is_ok());
            prop_assert!(Tag::parse(&tag).is_ok());
        }

        #[test]
        fn what_is_taken_is_safe_in_paths(text in "[a-c./_:@-]{0,12}") {
            if let Ok(name) = Repository::parse(&text) {
                prop_assert!(name.as_str().split('/').all(|c| !c.is_empty() && !c.starts_with('.')));
                prop_assert!(!name.as_str().contains([':', '@']));
            }
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in any::<String>()) {
            let taken = (Repository::parse(&text).is_ok(), Tag::parse(&text).is_ok(), UpstreamName::parse(&text).is_ok());
            prop_assert!(text.is_ascii() || taken == (false, false, false));
        }
    }
}
