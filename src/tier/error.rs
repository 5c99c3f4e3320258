//! Errors between roadstead and an object store.

/// Bytes of an error's text that are logged: a store's XML.
const ERROR_BYTES_MAX: usize = 400;

/// The reason why something is not had from the bucket, or not written to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BucketError {
    /// There is no such object.
    #[error("there is no such object")]
    Absent,
    /// The store does not let us.
    #[error("the store refuses: {0}")]
    Refused(String),
    /// It is left alone for now.
    #[error("the store is left alone for now")]
    Rests,
    /// Everything else.
    #[error("{0}")]
    Failed(String),
}

impl BucketError {
    pub(super) fn of(error: &object_store::Error) -> Self {
        use object_store::Error;
        if matches!(error, Error::NotFound { .. }) {
            return Self::Absent;
        }
        let is_refusal = matches!(
            error,
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. }
        );
        let why = without_secrets(error);
        if is_refusal {
            Self::Refused(why)
        } else {
            Self::Failed(why)
        }
    }
}

/// The cause of an error, without the URLs that some have: a signed one is a secret.
pub(super) fn without_secrets(error: &object_store::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let text = cause.to_string();
    let text = text.split("http://").next().unwrap_or_default();
    let text = text.split("https://").next().unwrap_or_default();
    let plain = text
        .chars()
        .map(|it| if it.is_control() { ' ' } else { it });
    plain.take(ERROR_BYTES_MAX).collect()
}
