//! Media types (RFC 6838, section 4.2): what a manifest, a descriptor or a header may say that it is.
//!
//! They are kept and sent on, one for each manifest and tag, so that their length matters.

/// A type and a subtype of [`NAME_BYTES_MAX`], and the slash.
pub const MEDIA_TYPE_BYTES_MAX: usize = 2 * NAME_BYTES_MAX + 1;

/// "type-name", "subtype-name" = "restricted-name".
const NAME_BYTES_MAX: usize = 127;

/// The type and subtype of a media type, without its parameters; `None` where these are not what the RFC allows.
#[must_use]
pub fn essence(text: &str) -> Option<&str> {
    let essence = text.split(';').next()?.trim();
    let (main, sub) = essence.split_once('/')?;
    (is_name(main) && is_name(sub)).then_some(essence)
}

fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::manifest::media;

    #[test]
    fn what_is_in_use_is_one() {
        for text in [
            media::OCI_MANIFEST,
            media::DOCKER_LIST,
            media::DOCKER_SCHEMA1_SIGNED,
            "application/vnd.dev.cosign.simplesigning.v1+json",
            "text/spdx+json",
            "application/vnd.cncf.helm.chart.provenance.v1.prov",
            "a/b",
            "0/1!#$&-^_.+",
        ] {
            assert_eq!(essence(text), Some(text));
        }
        assert_eq!(essence("text/plain; charset=utf-8"), Some("text/plain"));
        let longest = format!("{}/{}", "a".repeat(127), "b".repeat(127));
        assert_eq!(longest.len(), MEDIA_TYPE_BYTES_MAX);
        assert_eq!(essence(&longest), Some(longest.as_str()));
    }

    #[test]
    fn what_is_too_long_or_has_other_characters_is_none() {
        let long = "a".repeat(128);
        for text in [
            "",
            "/",
            "a",
            "a/",
            "/b",
            "a/b/c",
            "a b/c",
            ".a/b",
            "a/-b",
            "a/b\nc",
            "a/\u{1b}[2J",
            "a/ä",
            "a/\u{202e}b",
            "*/*",
            "a/*",
            "a/b,c/d",
            &format!("{long}/b"),
            &format!("a/{long}"),
        ] {
            assert_eq!(essence(text), None, "{text:?}");
        }
    }
}
