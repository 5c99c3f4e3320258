//! One question to an upstream: its endpoints in order, one repeat, the challenge, the redirects.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use url::Url;

use super::auth::{Auth, Authorization};
use super::body::BlobBody;
use super::client::HttpClient;
use super::deadline::Deadline;
use super::health::Health;
use super::{EndpointId, FetchError, Parallel, Patience, redirect, status};
use crate::oci::{Digest, Repository, UpstreamName};
use crate::telemetry::Kind;

/// All that is known of an upstream.
pub(super) struct Inner {
    pub(super) name: UpstreamName,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) header_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) health: Health,
    pub(super) parallel: Parallel,
    pub(super) retry_delay: Duration,
}

/// One base URL of an upstream, and the client for it and for where it redirects to.
pub(super) struct Endpoint {
    /// Its place in the configuration.
    pub(super) id: EndpointId,
    /// Scheme, host, port and path prefix.
    pub(super) base: Url,
    pub(super) client: HttpClient,
    /// Sent with every request to the endpoint itself.
    pub(super) headers: HeaderMap,
    pub(super) auth: Auth,
}

/// A question, as every endpoint can be asked it.
pub(super) struct Ask<'a> {
    pub(super) kind: Kind,
    /// GET or HEAD: asking twice does no harm.
    pub(super) method: Method,
    pub(super) repository: &'a Repository,
    /// What follows the repository in the path: `blobs/sha256:…`.
    pub(super) rest: String,
    /// Encoded, without `?`.
    pub(super) query: Option<String>,
    pub(super) accept: HeaderValue,
    /// The first byte, and the one after the last, where not all are wanted.
    pub(super) range: Option<(u64, Option<u64>)>,
    /// What to do while the upstream limits us.
    pub(super) patience: Patience,
    /// What the content must hash to, where that is known.
    pub(super) digest: Option<&'a Digest>,
    /// The endpoints to ask, in this order; empty: all, in the upstream's own order.
    pub(super) endpoints: &'a [EndpointId],
    /// Requests in different lanes do not share a connection.
    pub(super) lane: usize,
    /// Whether this is only worth a connection that is free now.
    pub(super) extra: bool,
    /// What is done with the body.
    pub(super) body: Wanted,
}

/// What is done with the body of a success.
#[derive(Clone, Copy)]
pub(super) enum Wanted {
    /// There is none (HEAD).
    Nothing,
    /// Read before the answer is given, at most so many bytes of what is named.
    Whole(&'static str, usize),
    /// Handed on as it arrives.
    Stream,
}

/// A success.
pub(super) struct Answer {
    pub(super) endpoint: EndpointId,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

/// The body of a success, as it was wanted.
pub(super) enum Body {
    Nothing,
    Whole(Bytes),
    Stream(BlobBody),
}

impl Inner {
    /// Asks the endpoints in order, within `header_timeout` in all.
    ///
    /// # Errors
    /// The most telling error of all endpoints: a "no such content" of one is an answer, and counts more
    /// than the silence of another.
    pub(super) async fn ask(&self, ask: &Ask<'_>) -> Result<Answer, FetchError> {
        let deadline = Deadline::after(self.header_timeout);
        let mut telling: Option<FetchError> = None;
        let order = if ask.endpoints.is_empty() {
            self.health.order(self.endpoints.len(), ask.digest)
        } else {
            ask.endpoints.to_vec()
        };
        let mut left = order.len();
        for endpoint in order.iter().filter_map(|id| self.endpoints.get(id.0)) {
            let share = deadline.share(left);
            left = left.saturating_sub(1);
            match self.ask_endpoint(endpoint, ask, share).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    tracing::debug!(upstream = %self.name, endpoint = endpoint.id.0, %error, "no answer");
                    let elsewhere = another_may_answer(&error);
                    if telling
                        .as_ref()
                        .is_none_or(|kept| rank(&error) < rank(kept))
                    {
                        telling = Some(error);
                    }
                    if !elsewhere || deadline.passed() {
                        break;
                    }
                }
            }
        }
        Err(telling.unwrap_or_else(|| FetchError::Connect("no endpoint".to_owned())))
    }

    /// Asks one endpoint; once more, when the connection broke before an answer was there. Servers
    /// close idle connections at any time, which is no sign that they are ill.
    async fn ask_endpoint(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        deadline: Deadline,
    ) -> Result<Answer, FetchError> {
        match self.authorized(endpoint, ask, deadline).await {
            Err(FetchError::Broken(_)) => self.authorized(endpoint, ask, deadline).await,
            result => result,
        }
    }

    /// Asks with what the endpoint wanted last time; once more, when it wants something else.
    async fn authorized(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        deadline: Deadline,
    ) -> Result<Answer, FetchError> {
        let auth = &endpoint.auth;
        let known = auth.known(endpoint, ask.repository, deadline).await?;
        let landed = endpoint.follow(ask, known.as_ref(), deadline).await?;
        if !landed.wants_authorization() {
            return self.finish(endpoint, ask, landed, deadline).await;
        }
        if let Some(known) = &known {
            auth.refused(known, deadline).await;
        }
        let headers = landed.response.headers().clone();
        status::drain(&endpoint.client, landed.response, deadline).await;
        let fresh = auth
            .challenged(endpoint, ask.repository, &headers, deadline)
            .await?;
        let landed = endpoint.follow(ask, Some(&fresh), deadline).await?;
        if landed.wants_authorization() {
            auth.refused(&fresh, deadline).await;
        }
        self.finish(endpoint, ask, landed, deadline).await
    }

    /// Takes what was landed on as a success or an error.
    async fn finish(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        landed: Landed,
        deadline: Deadline,
    ) -> Result<Answer, FetchError> {
        let Landed { response, home } = landed;
        let client = &endpoint.client;
        let status = response.status();
        if !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Err(status::refusal(client, response, home, deadline).await);
        }
        status::check_encoding(response.headers())?;
        let headers = response.headers().clone();
        let idle = self.idle_timeout;
        let body = match ask.body {
            Wanted::Nothing => Body::Nothing,
            Wanted::Stream => Body::Stream(BlobBody::new(client, response, idle)),
            Wanted::Whole(what, limit) => {
                let body = BlobBody::new(client, response, idle);
                Body::Whole(body.whole(what, limit, deadline).await?)
            }
        };
        Ok(Answer {
            endpoint: endpoint.id,
            status,
            headers,
            body,
        })
    }
}

/// The answer at the end of the redirects.
struct Landed {
    response: Response<Incoming>,
    /// Whether the endpoint itself gave it.
    home: bool,
}

impl Landed {
    /// A challenge counts only from the endpoint: another host is never given a token.
    fn wants_authorization(&self) -> bool {
        self.home && self.response.status() == StatusCode::UNAUTHORIZED
    }
}

impl Endpoint {
    /// Sends the question and goes where the answers point.
    async fn follow(
        &self,
        ask: &Ask<'_>,
        authorization: Option<&Authorization>,
        deadline: Deadline,
    ) -> Result<Landed, FetchError> {
        let mut visited = vec![self.url(ask)];
        loop {
            let current = visited.last().unwrap_or(&self.base);
            let home = current.origin() == self.base.origin();
            let authorization = authorization.filter(|_| home);
            let mut request = ask.request(current, authorization)?;
            if home {
                request.headers_mut().extend(self.headers.clone());
            }
            let response = self
                .client
                .send(ask.kind, request, deadline, ask.lane)
                .await?;
            if home {
                self.note_rate_limit(response.headers());
            }
            let (status, headers) = (response.status(), response.headers());
            match redirect::target(status, headers, &visited, &self.base)? {
                None => return Ok(Landed { response, home }),
                Some(next) => {
                    status::drain(&self.client, response, deadline).await;
                    visited.push(next);
                }
            }
        }
    }

    /// `<base>/v2/<repository>/<rest>?<query>`.
    fn url(&self, ask: &Ask<'_>) -> Url {
        let mut url = self.base.clone();
        let prefix = self.base.path().trim_end_matches('/');
        url.set_path(&format!("{prefix}/v2/{}/{}", ask.repository, ask.rest));
        url.set_query(ask.query.as_deref());
        url
    }

    /// `ratelimit-remaining: 100;w=21600` (Docker Hub, "Pull usage and limits").
    fn note_rate_limit(&self, headers: &HeaderMap) {
        let remaining = headers
            .get("ratelimit-remaining")
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.split(';').next()?.trim().parse().ok());
        if let Some(remaining) = remaining {
            let client = &self.client;
            let upstream = client.upstream().as_str();
            client.metrics().ratelimit_remaining(upstream, remaining);
        }
    }
}

impl Ask<'_> {
    fn request(
        &self,
        url: &Url,
        authorization: Option<&Authorization>,
    ) -> Result<Request<Full<Bytes>>, FetchError> {
        let uri = Uri::try_from(url.as_str())
            .map_err(|_| FetchError::Protocol("bad redirect: not a URI".to_owned()))?;
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, self.accept.clone());
        if let Some((start, end)) = self.range {
            // The last byte is named inclusively (RFC 9110 section 14.1.2).
            let last = end.map_or(String::new(), |end| end.saturating_sub(1).to_string());
            if let Ok(range) = HeaderValue::try_from(format!("bytes={start}-{last}")) {
                headers.insert(RANGE, range);
            }
        }
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization.header.clone());
        }
        Ok(request)
    }
}

/// Whether the next endpoint is worth asking after this error.
fn another_may_answer(error: &FetchError) -> bool {
    match error {
        // The content itself does not fit, and it is the same everywhere.
        FetchError::RangeNotSatisfiable | FetchError::TooLarge { .. } => false,
        FetchError::NotFound { .. }
        | FetchError::Unauthorized
        | FetchError::Denied
        | FetchError::RateLimited { .. }
        | FetchError::Status(_)
        | FetchError::Connect(_)
        | FetchError::Timeout(_)
        | FetchError::Broken(_)
        | FetchError::Protocol(_)
        | FetchError::Loop(_)
        | FetchError::Login(_)
        | FetchError::Busy
        | FetchError::Token(_) => true,
    }
}

/// Which of several endpoints' errors is told: the lowest, and the first of equals.
fn rank(error: &FetchError) -> u8 {
    match error {
        FetchError::RangeNotSatisfiable | FetchError::TooLarge { .. } => 0,
        FetchError::NotFound { .. } => 1,
        FetchError::Unauthorized | FetchError::Denied => 2,
        FetchError::RateLimited { .. } => 3,
        FetchError::Status(_)
        | FetchError::Connect(_)
        | FetchError::Timeout(_)
        | FetchError::Broken(_)
        | FetchError::Protocol(_)
        | FetchError::Loop(_)
        | FetchError::Login(_)
        | FetchError::Busy
        | FetchError::Token(_) => 4,
    }
}
