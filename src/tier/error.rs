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
    if let Some(said) = said(&text) {
        return said;
    }
    let text = text.split("http://").next().unwrap_or_default();
    let text = text.split("https://").next().unwrap_or_default();
    let plain = text
        .chars()
        .map(|it| if it.is_control() { ' ' } else { it });
    plain.take(ERROR_BYTES_MAX).collect()
}

/// The code and message of a store's XML.
fn said(text: &str) -> Option<String> {
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (value, _) = rest.split_once(&format!("</{name}>"))?;
        let plain = value.chars().filter(|it| !it.is_control());
        Some(plain.take(ERROR_BYTES_MAX).collect::<String>())
    };
    let code = element("Code")?;
    match element("Message").filter(|it| !it.is_empty() && !it.contains("://")) {
        Some(message) => Some(format!("{code}: {message}")),
        None => Some(code),
    }
}

#[cfg(test)]
mod tests {
    use super::said;

    #[test]
    fn a_stores_xml_is_its_code_and_message() {
        let text = "status 403: <?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code><Message>The signature does not match.</Message><StringToSign>AWS4</StringToSign></Error>";
        let expected = "SignatureDoesNotMatch: The signature does not match.";
        assert_eq!(said(text).as_deref(), Some(expected));
        assert_eq!(
            said("<Error><Code>NoSuchBucket</Code>").as_deref(),
            Some("NoSuchBucket")
        );
        assert_eq!(said("a text"), None);
    }
}
