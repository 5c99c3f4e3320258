//! The error envelope (dist-spec, "Error codes").

/// Number of characters of a client's text that an error message repeats. Enough to recognise it; a request line may
/// be 64 KiB long, and nobody wants that back, or in a log.
pub(super) const QUOTED_CHARS_MAX: usize = 100;

/// The spec's error codes, as far as a mirror needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the spec's")]
pub enum ErrorCode {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    TagInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    TooManyRequests,
    PaginationNumberInvalid,
    RangeInvalid,
    /// Not in the spec's list; what distribution uses for faults of the server (`UNKNOWN`).
    Unknown,
    /// The code that distribution uses for 503 (`UNAVAILABLE`).
    Unavailable,
}

impl ErrorCode {
    /// The code as it stands in the envelope: `BLOB_UNKNOWN`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            // One word in the spec, unlike the others.
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::Unknown => "UNKNOWN",
            Self::Unavailable => "UNAVAILABLE",
        }
    }
}

/// The JSON envelope with one error: `{"errors":[{"code":…,"message":…,"detail":…}]}` (`detail` left out when `None`).
#[must_use]
pub fn envelope(code: ErrorCode, message: &str, detail: Option<serde_json::Value>) -> Vec<u8> {
    let mut error = serde_json::json!({ "code": code.as_str(), "message": message });
    if let (Some(detail), Some(fields)) = (detail, error.as_object_mut()) {
        fields.insert("detail".to_owned(), detail);
    }
    serde_json::json!({ "errors": [error] })
        .to_string()
        .into_bytes()
}

/// A client's text, cut to [`QUOTED_CHARS_MAX`] characters.
pub(super) fn shorten(text: &str) -> String {
    text.chars().take(QUOTED_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_envelope_is_the_specs() {
        let bytes = envelope(
            ErrorCode::TooManyRequests,
            "slow \"down\"",
            Some("later\n".into()),
        );
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"errors": [{
                "code": "TOOMANYREQUESTS", "message": "slow \"down\"", "detail": "later\n",
            }]})
        );
    }

    #[test]
    fn detail_is_left_out_when_there_is_none() {
        let bytes = envelope(ErrorCode::NameUnknown, "no", None);
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            r#"{"errors":[{"code":"NAME_UNKNOWN","message":"no"}]}"#
        );
    }

    #[test]
    fn shortening_counts_characters_not_bytes() {
        assert_eq!(shorten(&"é".repeat(300)), "é".repeat(QUOTED_CHARS_MAX));
        assert_eq!(shorten("short"), "short");
    }
}
