//! The grammar of pushes: parameters of their requests, and ranges of chunks (dist-spec, "Pushing blobs").

use super::name::NameError;
use super::{Algorithm, Digest, ErrorCode, Tag};

/// Tags that one request may name; more than anybody asks for (dist-spec: at least ten).
const TAGS_MAX: usize = 100;

/// Parameters of a push.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushQuery {
    /// The digest of the content.
    pub digest: Option<Digest>,
    /// A blob that another repository has.
    pub mount: Option<Digest>,
    /// That repository, as written.
    pub from: Option<String>,
    /// The algorithm of the digest to come.
    pub algorithm: Option<Algorithm>,
    /// Tags that a manifest gets.
    pub tags: Vec<Tag>,
}

/// A fault of a push.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// A digest or tag.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An algorithm that cannot be calculated.
    #[error("this digest-algorithm is not known here: sha256 and sha512 are")]
    Algorithm,
    /// Too many tags.
    #[error("more than {TAGS_MAX} tags")]
    Tags,
}

impl PushError {
    /// The error code of the spec.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Name(NameError::Tag) | Self::Tags => ErrorCode::TagInvalid,
            Self::Name(_) | Self::Algorithm => ErrorCode::DigestInvalid,
        }
    }
}

impl PushQuery {
    /// Reads a query.
    ///
    /// # Errors
    /// [`PushError`].
    pub fn parse(query: Option<&str>) -> Result<Self, PushError> {
        let mut push = Self::default();
        let query = query.unwrap_or_default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let digest = || Digest::parse(&value).map_err(NameError::Digest);
            match &*name {
                "digest" => push.digest = Some(digest()?),
                "mount" if !value.is_empty() => push.mount = Some(digest()?),
                "from" if !value.is_empty() => push.from = Some(value.into_owned()),
                "digest-algorithm" => {
                    push.algorithm = Some(match &*value {
                        "sha256" => Algorithm::Sha256,
                        "sha512" => Algorithm::Sha512,
                        _ => return Err(PushError::Algorithm),
                    });
                }
                "tag" if push.tags.len() >= TAGS_MAX => return Err(PushError::Tags),
                "tag" => push.tags.push(Tag::parse(&value)?),
                _ => {}
            }
        }
        Ok(push)
    }
}

/// The place of a chunk: its first byte and its last. Of an empty one, which has none, the last is before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRange {
    /// The first byte.
    pub first: u64,
    /// The last byte.
    pub last: u64,
}

impl ChunkRange {
    /// Reads the `Content-Range` of a chunk: `0-99`, as the specification has it, or `bytes 0-99/*`, as some clients
    /// write it. `None`: it is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix("bytes").map_or(text, str::trim_start);
        let text = text.trim_start_matches('=');
        let text = text.split('/').next().unwrap_or_default();
        let (first, last) = text.split_once('-')?;
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
            is_number.then(|| text.parse().ok()).flatten()
        };
        let (first, last): (u64, u64) = (number(first)?, number(last)?);
        (last >= first || last + 1 == first).then_some(Self { first, last })
    }

    /// Number of bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        (self.last + 1).saturating_sub(self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let query = format!("mount={digest}&from=docker.io%2Flibrary%2Falpine");
        let push = PushQuery::parse(Some(&query)).unwrap();
        assert_eq!(push.mount, Some(Digest::Sha256([0; 32])));
        assert_eq!(push.from.as_deref(), Some("docker.io/library/alpine"));
        let push = PushQuery::parse(Some("digest-algorithm=sha512&tag=a&tag=b&x=y")).unwrap();
        assert_eq!(push.algorithm, Some(Algorithm::Sha512));
        assert_eq!(push.tags.len(), 2);
        assert_eq!(PushQuery::parse(None), Ok(PushQuery::default()));
        for (query, code) in [
            ("digest=sha256:0", ErrorCode::DigestInvalid),
            ("digest=md5:00", ErrorCode::DigestInvalid),
            ("digest-algorithm=md5", ErrorCode::DigestInvalid),
            ("tag=.a", ErrorCode::TagInvalid),
        ] {
            assert_eq!(PushQuery::parse(Some(query)).unwrap_err().code(), code);
        }
        let many = "tag=a&".repeat(TAGS_MAX + 1);
        assert_eq!(PushQuery::parse(Some(&many)), Err(PushError::Tags));
    }

    #[test]
    fn a_range_is_read_as_clients_write_it() {
        let range = |first, last| Some(ChunkRange { first, last });
        for (text, expected) in [
            ("0-99", range(0, 99)),
            ("bytes 5-9/10", range(5, 9)),
            ("bytes=5-9", range(5, 9)),
            (" 7-7 ", range(7, 7)),
            ("0-garbage", None),
            ("-1", None),
            ("5-3", None),
            ("5", None),
            ("+1-2", None),
            ("", None),
            ("1-99999999999999999999999", None),
        ] {
            assert_eq!(ChunkRange::parse(text), expected, "{text}");
        }
        assert_eq!(ChunkRange { first: 0, last: 99 }.length(), 100);
    }
}
