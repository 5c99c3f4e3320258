//! A client of one server, without the rounds, logins and limits that an upstream has: for commands
//! that pull from the client listener of a roadstead which runs. Its admin listener has a client of its own
//! (`commands::client`): uploads need bodies that are read as they are sent, and a connection that nobody has let go
//! of meanwhile, for they cannot be sent twice.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use url::Url;

use super::token::authorization;
use crate::net::{Deadline, HttpClient, OwnListeners, Way};
use crate::oci::UpstreamName;
use crate::telemetry::{Kind, Metrics};
use crate::upstream::{EndpointConfig, FetchError};

/// A client of one server. It follows no redirect, sends the operator's token alone, and goes through no proxy.
pub(super) struct PlainClient {
    http: HttpClient,
    base: Url,
    token: Option<HeaderValue>,
}

impl PlainClient {
    /// A client of the server at this URL. Certificates are checked against the system's roots and those
    /// in `ca_file`. Dials nothing.
    ///
    /// # Errors
    /// One line: the URL is not of HTTP, or the file cannot be used.
    pub(super) fn new(base: &Url, ca_file: Option<PathBuf>) -> Result<Self, String> {
        let authority = match (base.scheme(), base.host_str(), base.port()) {
            ("http" | "https", Some(host), Some(port)) => format!("{host}:{port}"),
            ("http" | "https", Some(host), None) => host.to_owned(),
            _ => return Err(format!("{base} is not an http or https URL")),
        };
        let name = UpstreamName::parse(&authority).map_err(|error| error.to_string())?;
        let mut endpoint = EndpointConfig::at(base.clone());
        endpoint.ca_file = ca_file;
        // Its counts are read by nobody.
        let metrics = Metrics::new(std::iter::empty());
        let nobody = OwnListeners::default();
        let http = HttpClient::new(name, metrics, &endpoint.peer(), CONNECT_TIMEOUT, 1, nobody)?;
        Ok(Self {
            http,
            base: base.clone(),
            token: authorization(base)?,
        })
    }

    /// GET of a path and query below the server's URL; the answer's head must come within `patience`.
    ///
    /// # Errors
    /// No answer came; an answer of any status is none of them.
    pub(super) async fn get(
        &self,
        target: &str,
        accept: Option<&str>,
        patience: Duration,
    ) -> Result<Response<Incoming>, FetchError> {
        let mut headers = HeaderMap::new();
        if let Some(accept) = accept {
            let accept = HeaderValue::from_str(accept).map_err(|error| nonsense(&error))?;
            headers.insert(ACCEPT, accept);
        }
        self.send(Method::GET, target, headers, Bytes::new(), patience)
            .await
    }

    /// A request for a path and query below the server's URL; the answer's head must come within `patience`. It may be
    /// sent twice, where a connection turns out to be gone.
    ///
    /// # Errors
    /// No answer came; an answer of any status is none of them.
    pub(super) async fn send(
        &self,
        method: Method,
        target: &str,
        headers: HeaderMap,
        body: Bytes,
        patience: Duration,
    ) -> Result<Response<Incoming>, FetchError> {
        let base = self.base.as_str().trim_end_matches('/');
        let uri: Uri = format!("{base}{target}")
            .parse()
            .map_err(|error| nonsense(&error))?;
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .body(Full::new(body))
            .map_err(|error| nonsense(&error))?;
        *request.headers_mut() = headers;
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        let deadline = Deadline::after(patience);
        let sent = self.http.send(Kind::Other, request, deadline, Way::Lane(0));
        Ok(sent.await?)
    }
}

fn nonsense(error: &dyn fmt::Display) -> FetchError {
    FetchError::Protocol(error.to_string())
}

impl fmt::Debug for PlainClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PlainClient").field(&self.http).finish()
    }
}

/// The server is near; a syn that is lost twice is made up for after 3 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
