//! A client's request, read once.

use super::conditions::Conditions;
use super::error::ApiError;
use super::host;
use crate::mirror::{ClientId, Windows};
use crate::oci::UpstreamName;
use crate::oci::route::{Action, Route, Target};
use http::{HeaderMap, HeaderName, Version, header, request};
use std::borrow::Cow;

/// The upstream that a request is for (dist-spec, "Registry proxying").
pub(crate) const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// A request: its target, its client, and the ways to answer it.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// As it was read.
    pub(crate) head: &'a request::Parts,
    /// The client and its connection.
    pub(crate) client: ClientId,
    /// The path as the client wrote it, for links back to it.
    pub(crate) path: &'a str,
    /// The target.
    pub(crate) route: Route,
    /// The operation on it.
    pub(crate) action: Action,
    /// The upstream that the request names, as written.
    ns: Option<Cow<'a, str>>,
    /// All headers; conditions and ranges are in `conditions`.
    headers: &'a HeaderMap,
    /// The host that the request was sent to.
    pub(crate) host: Option<&'a str>,
    /// The upstream of which that is a name, in transparent mode.
    pub(crate) stands_in_for: Option<UpstreamName>,
    /// Under which conditions, and which bytes.
    pub(crate) conditions: Conditions<'a>,
    /// The way out of the answer.
    pub(crate) transport: Transport,
}

/// The way out of a connection's answers.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    version: Version,
    windows: Option<Windows>,
}

impl Transport {
    /// Of a request of this version. `windows`: those of the connection, if it has no TLS.
    pub(crate) fn new(version: Version, windows: Option<Windows>) -> Self {
        Self {
            version,
            // HTTP/2 cuts bodies into frames, which it may copy.
            windows: windows.filter(|_| version < Version::HTTP_2),
        }
    }

    /// The place for windows of files, if nobody but the kernel looks into the body's bytes on their way out.
    pub(crate) fn windows(&self) -> Option<Windows> {
        self.windows.clone()
    }

    /// True if bodies are cut into frames (RFC 9113 section 4.1).
    pub(crate) fn is_framed(&self) -> bool {
        self.version == Version::HTTP_2
    }
}

impl<'a> Request<'a> {
    /// Reads the head of a request.
    ///
    /// # Errors
    /// It names no host or several, or its path is nothing of the API's.
    pub(crate) fn read(
        head: &'a request::Parts,
        client: ClientId,
        transport: Transport,
    ) -> Result<Self, ApiError> {
        let Target { route, ns } = Target::parse(head.uri.path(), head.uri.query())?;
        // Where the header contradicts `ns`, which clients have sent for longer, that counts (dist-spec, "Registry
        // proxying").
        let named = head.headers.get(OCI_NAMESPACE);
        let named = named.and_then(|name| name.to_str().ok()).map(str::trim);
        let named = named.filter(|name| !name.is_empty()).map(Cow::Borrowed);
        Ok(Self {
            head,
            client,
            path: head.uri.path(),
            route,
            action: Action::of(&head.method),
            ns: ns.map(Cow::Owned).or(named),
            headers: &head.headers,
            host: host::of(head),
            stands_in_for: None,
            conditions: Conditions::of(&head.headers),
            transport,
        })
    }

    /// The upstream that the request names, as written.
    pub(crate) fn ns(&self) -> Option<&str> {
        self.ns.as_deref()
    }

    /// The types that the client takes.
    pub(crate) fn accepted(&self) -> impl Iterator<Item = &'a str> {
        texts(self.headers, &header::ACCEPT)
    }

    /// The proxies that the request came through (RFC 9110 section 7.6.3).
    pub(crate) fn via(&self) -> impl Iterator<Item = &'a str> {
        texts(self.headers, &header::VIA)
    }
}

/// The values of a header that are text.
fn texts<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter();
    values.filter_map(|value| value.to_str().ok())
}
