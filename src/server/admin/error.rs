//! Errors of the admin API on their way out: `{"error": "…"}`.

use super::answer::{AdminBody, full, with_type};
use crate::format;
use crate::mirror::ImportError;
use crate::mirror::inspect::InspectError;
use crate::oci::Digest;
use crate::server::http::JSON;
use crate::server::http::whole::WholeError;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

/// Reason why a request is refused.
#[derive(Debug)]
pub(super) struct AdminError {
    pub(super) status: StatusCode,
    message: String,
    /// The methods that the path takes.
    allow: Option<HeaderValue>,
    /// The client is asked who it is.
    asks: bool,
    /// Content that an import lacks.
    missing: Vec<String>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    missing: &'a [String],
}

impl AdminError {
    /// With this status, and why.
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            allow: None,
            asks: false,
            missing: Vec::new(),
        }
    }

    /// 401: who is it?
    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Self {
            asks: true,
            ..Self::new(StatusCode::UNAUTHORIZED, message)
        }
    }

    /// 400.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 405: the path takes `allow`.
    pub(super) fn method(allow: &'static str) -> Self {
        Self {
            allow: Some(HeaderValue::from_static(allow)),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("only {allow}"))
        }
    }

    /// The message, for the log.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// The question who it is, if that is asked.
    pub(super) fn challenge(&self) -> Option<HeaderValue> {
        let challenge = HeaderValue::from_static("Basic realm=\"roadstead\"");
        self.asks.then_some(challenge)
    }

    /// The body.
    pub(super) fn body(&self) -> Bytes {
        let envelope = Envelope {
            error: &self.message,
            missing: &self.missing,
        };
        // Text and lists of text can be written.
        let body = serde_json::to_string(&envelope).unwrap_or_default();
        format::escaped(&body).into_owned().into()
    }

    /// The response.
    pub(super) fn into_response(self) -> Response<AdminBody> {
        let mut response = full(with_type(self.status, JSON, self.body()));
        if let Some(challenge) = self.challenge() {
            let headers = response.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(allow) = self.allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        response
    }
}

impl From<WholeError> for AdminError {
    fn from(error: WholeError) -> Self {
        let status = match &error {
            WholeError::Late(_) => StatusCode::REQUEST_TIMEOUT,
            WholeError::TooLong(_) | WholeError::Broken(_) => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

impl From<InspectError> for AdminError {
    fn from(error: InspectError) -> Self {
        let status = match error {
            InspectError::Bad(_) => StatusCode::BAD_REQUEST,
            InspectError::NotFound(_) => StatusCode::NOT_FOUND,
            InspectError::Conflict(_) => StatusCode::CONFLICT,
            InspectError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            InspectError::Upstream(_) => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, error.to_string())
    }
}

impl From<ImportError> for AdminError {
    fn from(error: ImportError) -> Self {
        let status = match &error {
            ImportError::Busy | ImportError::NotRecorded(_) => StatusCode::SERVICE_UNAVAILABLE,
            ImportError::Upstream(_) => StatusCode::NOT_FOUND,
            ImportError::Wrong { .. } | ImportError::Broken { .. } | ImportError::TooMany => {
                StatusCode::BAD_REQUEST
            }
            ImportError::Incomplete(_) | ImportError::NotPinned(_) => StatusCode::CONFLICT,
            ImportError::NotStored { room: true, .. } => StatusCode::INSUFFICIENT_STORAGE,
            ImportError::NotStored { room: false, .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let missing = if let ImportError::Incomplete(missing) = &error {
            missing.iter().map(Digest::to_string).collect()
        } else {
            Vec::new()
        };
        Self {
            missing,
            ..Self::new(status, error.to_string())
        }
    }
}
