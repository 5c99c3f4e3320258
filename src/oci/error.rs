//! The error envelope (dist-spec, "Error codes").

/// The spec's error codes, as far as a mirror needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the spec's")]
pub enum ErrorCode {
    BlobUnknown,
    DigestInvalid,
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
    /// What distribution uses for 503 (`UNAVAILABLE`).
    Unavailable,
}

impl ErrorCode {
    /// The code as it stands in the envelope: `BLOB_UNKNOWN`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        todo!()
    }
}

/// The JSON envelope with one error: `{"errors":[{"code":…,"message":…,"detail":…}]}` (`detail` left out when `None`).
#[must_use]
pub fn envelope(code: ErrorCode, message: &str, detail: Option<&str>) -> Vec<u8> {
    todo!()
}
