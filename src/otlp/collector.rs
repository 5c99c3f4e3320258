//! One export: the request, and what its answer means.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use prost::Message as _;
use url::Url;

use super::Config;
use super::headers::Headers;
use super::message;
use crate::net::{Deadline, HttpClient, OwnListeners, Peer, Way};
use crate::oci::UpstreamName;
use crate::telemetry::{Kind, Metrics};

/// The path behind the endpoint's (OTLP specification, "OTLP/HTTP Request").
pub(super) const PATH: &str = "/v1/traces";
/// A collector's answer is a few bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// So much of a collector's reason is logged.
const REASON_CHARS_MAX: usize = 200;
/// A collector that says to come back later is asked again after this time at most.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);

/// A collector, and the connections to it.
#[derive(Debug)]
pub(super) struct Collector {
    config: Config,
    http: HttpClient,
    url: Url,
}

/// The reason that spans were not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// For the log; without a secret.
    pub(super) why: String,
    /// If it may take the same later.
    pub(super) again: Again,
}

/// If the same spans are worth sending again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    Never,
    /// After a while; the collector may say after which.
    Later(Option<Duration>),
}

impl Collector {
    /// Reads the certificates that are configured. Nothing is dialled.
    ///
    /// # Errors
    /// One line.
    pub(super) fn new(config: &Config) -> Result<Self, String> {
        let wrong = |why: String| format!("telemetry.otlp: {why}");
        let peer = Peer {
            url: &config.endpoint,
            ca_file: config.ca_file.as_deref(),
            client_certificate: None,
            insecure_skip_verify: false,
            proxy: &config.proxy,
            resolve: &[],
            redirect_networks: &[],
        };
        let name = UpstreamName::parse("otlp").map_err(|why| wrong(why.to_string()))?;
        // It is no upstream, and does not count as one.
        let metrics = Metrics::new(std::iter::empty());
        let own = OwnListeners::default();
        let http = HttpClient::new(name, metrics, &peer, config.timeout, 1, own);
        let mut url = config.endpoint.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}{PATH}"));
        Ok(Self {
            http: http.map_err(wrong)?,
            config: config.clone(),
            url,
        })
    }

    /// The configuration that it was made of.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Sends spans; gives the number of those that the collector has rejected, and why.
    ///
    /// # Errors
    /// It has taken none.
    pub(super) async fn export(&self, body: Bytes) -> Result<(usize, String), Refused> {
        let deadline = Deadline::after(self.config.timeout);
        let request = self.request(body).await?;
        let way = Way::Lane(0);
        let sent = self.http.send(Kind::Other, request, deadline, way).await;
        let response = sent.map_err(|error| Refused::for_now(error.to_string(), None))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect();
        let body = deadline.run("the collector's answer", body).await;
        // What it says besides its status is wanted, and not needed.
        let body = body.ok().and_then(Result::ok);
        let body = body.map(http_body_util::Collected::to_bytes);
        let body = body.unwrap_or_default();
        if head.status.is_success() {
            return Ok(rejected(&body));
        }
        Err(refusal(head.status, &head.headers))
    }

    async fn request(&self, body: Bytes) -> Result<Request<Full<Bytes>>, Refused> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        let uri = self.url.as_str().parse();
        *request.uri_mut() = uri.map_err(|_| Refused::for_ever("no URL".to_owned()))?;
        let headers = request.headers_mut();
        let protobuf = HeaderValue::from_static("application/x-protobuf");
        headers.insert(CONTENT_TYPE, protobuf);
        self.config.headers.write_to(headers);
        if let Some(file) = self.config.headers_file.clone() {
            let file = Arc::new(file);
            let name = Arc::clone(&file);
            let read = tokio::task::spawn_blocking(move || Headers::read(&file)).await;
            let read = read.unwrap_or_else(|error| Err(error.to_string()));
            let wrong = |why| format!("headers_file {}: {why}", name.display());
            let more = read.map_err(|why| Refused::for_now(wrong(why), None))?;
            more.write_to(headers);
        }
        Ok(request)
    }
}

impl Refused {
    fn for_now(why: String, retry_after: Option<Duration>) -> Self {
        let again = Again::Later(retry_after);
        Self { why, again }
    }

    fn for_ever(why: String) -> Self {
        let again = Again::Never;
        Self { why, again }
    }
}

/// The number of spans that were rejected, and why (OTLP specification, "Partial Success").
fn rejected(body: &[u8]) -> (usize, String) {
    // Some answer with JSON, or nothing: then all is well.
    let response = message::Response::decode(body).unwrap_or_default();
    let partial = response.partial_success.unwrap_or_default();
    let rejected = usize::try_from(partial.rejected_spans).unwrap_or_default();
    let why = partial.error_message.chars().take(REASON_CHARS_MAX);
    (rejected, why.collect())
}

/// The meaning of a status (OTLP specification, "Retryable Response Codes").
fn refusal(status: StatusCode, headers: &HeaderMap) -> Refused {
    let why = format!("it answers status {}", status.as_u16());
    match status.as_u16() {
        429 | 502 | 503 | 504 => {
            let after = headers.get(RETRY_AFTER).and_then(|it| it.to_str().ok());
            // A date would need the collector's clock: the usual wait does then.
            let after = after.and_then(|text| text.trim().parse().ok());
            let after = after.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
            Refused::for_now(why, after)
        }
        401 | 403 => Refused::for_ever(format!(
            "{why}: it wants other credentials, which are telemetry.otlp.headers"
        )),
        404 | 405 | 415 => Refused::for_ever(format!(
            "{why}: it takes no OTLP over HTTP there, for which collectors have port 4318"
        )),
        _ => Refused::for_ever(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_if_it_is_worth_trying_again() {
        let refused = |status: u16, after: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(after) = after {
                headers.insert(RETRY_AFTER, HeaderValue::from_static(after));
            }
            refusal(StatusCode::from_u16(status).unwrap(), &headers).again
        };
        for status in [429, 502, 503, 504] {
            assert_eq!(refused(status, None), Again::Later(None), "{status}");
        }
        assert_eq!(
            refused(429, Some(" 7 ")),
            Again::Later(Some(Duration::from_secs(7)))
        );
        assert_eq!(
            refused(503, Some("86400")),
            Again::Later(Some(RETRY_AFTER_MAX))
        );
        assert_eq!(refused(503, Some("soon")), Again::Later(None));
        for status in [301, 400, 401, 403, 404, 413, 415, 500, 501] {
            assert_eq!(refused(status, Some("7")), Again::Never, "{status}");
        }
    }

    #[test]
    fn a_partial_success_counts_what_was_rejected() {
        let partial = |rejected_spans, why: &str| {
            let response = message::Response {
                partial_success: Some(message::PartialSuccess {
                    rejected_spans,
                    error_message: why.to_owned(),
                }),
            };
            rejected(&response.encode_to_vec())
        };
        assert_eq!(partial(3, "too old"), (3, "too old".to_owned()));
        assert_eq!(partial(-1, ""), (0, String::new()));
        assert_eq!(partial(0, &"x".repeat(1000)).1.len(), REASON_CHARS_MAX);
        for nothing in [&b""[..], b"{}", b"<html>"] {
            assert_eq!(rejected(nothing), (0, String::new()));
        }
    }
}
