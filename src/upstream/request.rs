//! One request to one endpoint: one repeat, the challenge, the redirects. Which endpoint is asked, as
//! whom, and how often, is the business of `rounds`.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use url::Url;

use super::auth::{Auth, Authorization};
use super::body::BlobBody;
use super::budget::Share;
use super::extent::{Extent, extent, nonsense};
use super::headers::CONTENT_DIGEST;
use super::observer::EndpointObserver;
use super::rate_limit::{Cost, Limit, RateLimitHeaders};
use super::refused_heads::Heads;
use super::timings::Timings;
use super::turns::Turns;
use super::{Challenges, EndpointId, FetchError, Parallel, Patience, coding, redirect, status};
use crate::net::Deadline;
use crate::net::{HttpClient, Named, Way};
use crate::oci::{Digest, Repository, UpstreamName};
use crate::telemetry::Kind;

/// All that is known of an upstream.
pub(super) struct Inner {
    pub(super) name: UpstreamName,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) header_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) parallel: Parallel,
    pub(super) retry_delay: Duration,
    pub(super) timings: Timings,
    /// The health of the endpoints, and who hears of it.
    pub(super) observer: Arc<EndpointObserver>,
    /// `max_connections`.
    pub(super) turns: Arc<Turns>,
    /// Repositories where HEAD is refused.
    pub(super) heads: Heads,
    /// Memory that bodies which are being read whole may take, in KiB.
    pub(super) memory: Arc<Semaphore>,
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
    /// The accounts at it; at least one, be it an anonymous one.
    pub(super) accounts: Vec<Account>,
    /// Credentials of clients are shown to it: there is no login of this mirror's for it, and its upstream's visibility is
    /// `upstream`.
    pub(super) passes: bool,
}

/// One login at one endpoint.
pub(super) struct Account {
    pub(super) auth: Auth,
    pub(super) limit: Limit,
}

/// A request, as every endpoint can be asked it.
pub(super) struct Request<'a> {
    pub(super) kind: Kind,
    /// GET or HEAD: asking twice does no harm.
    pub(super) method: Method,
    pub(super) repository: &'a Repository,
    /// The path after the repository: `blobs/sha256:…`.
    pub(super) rest: String,
    /// True if it is of the registry, and the repository is no part of its path.
    pub(super) is_of_registry: bool,
    /// Encoded, without `?`.
    pub(super) query: Option<String>,
    pub(super) accept: HeaderValue,
    /// The first byte, and the one after the last, where not all are wanted.
    pub(super) range: Option<(u64, Option<u64>)>,
    /// Behaviour while the upstream limits us.
    pub(super) patience: Patience,
    /// The digest of the content, where that is known.
    pub(super) digest: Option<&'a Digest>,
    /// The endpoints to ask, in this order; empty: all, in the upstream's own order.
    pub(super) endpoints: &'a [EndpointId],
    pub(super) connection: Connection,
    /// The use of the body.
    pub(super) body: Wanted,
}

/// The connection that a request may have.
#[derive(Clone, Copy, Default)]
pub(super) struct Connection {
    /// Requests in different lanes do not share one.
    pub(super) lane: usize,
    /// True if the request is only worth one that is free now.
    pub(super) extra: bool,
}

/// The use of the body of a success.
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
    /// Host and port of who gave it, after redirects.
    pub(super) host: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

/// The body of a success, as it was wanted.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for each answer, and it is soon taken apart"
)]
pub(super) enum Body {
    Nothing,
    Whole(Bytes),
    Stream(BlobBody, Extent),
}

impl Inner {
    /// Takes what was landed on as a success or an error.
    pub(super) async fn read(
        &self,
        endpoint: &Endpoint,
        request: &Request<'_>,
        landed: Landed,
        deadline: Deadline,
    ) -> Result<Answer, FetchError> {
        let Landed {
            response,
            home,
            host,
            took,
        } = landed;
        let client = &endpoint.client;
        let status = response.status();
        if status == StatusCode::LOOP_DETECTED {
            // The other side says that it is us who asked (RFC 5842 section 7.2).
            status::drain(client, response, deadline).await;
            return Err(FetchError::Loop(host));
        }
        if status == StatusCode::NOT_IMPLEMENTED
            && (request.method == Method::HEAD || request.kind == Kind::Referrers)
        {
            // What it does not know it will not know in a moment either, and is not ill for it.
            status::drain(client, response, deadline).await;
            return Err(FetchError::Status(405));
        }
        if !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Err(status::refusal(client, response, home, deadline).await);
        }
        if let Some(what) = request.page_instead_of(response.headers()) {
            status::drain(client, response, deadline).await;
            return Err(nonsense(&format!("a web page instead of {what}")));
        }
        let health = &self.observer.health;
        health.head(endpoint.id, took, Instant::now());
        let headers = response.headers().clone();
        let idle = self.idle_timeout;
        let body = match request.body {
            Wanted::Stream => {
                // Who answers a Range with nonsense may still serve the whole.
                let extent = extent(status, &headers, request.range)
                    .inspect_err(|_| health.ignores_range(endpoint.id, Instant::now()))?;
                Body::Stream(BlobBody::new(client, response, idle), extent)
            }
            Wanted::Nothing | Wanted::Whole(..) if status != StatusCode::OK => {
                return Err(nonsense("status 206, though no range was asked for"));
            }
            Wanted::Nothing => Body::Nothing,
            Wanted::Whole(what, limit) => {
                let body = BlobBody::new(client, response, idle).within(&self.memory);
                let bytes = body.whole(what, limit, deadline).await?;
                Body::Whole(coding::plain(what, &headers, bytes, limit).await?)
            }
        };
        Ok(Answer {
            endpoint: endpoint.id,
            host,
            headers,
            body,
        })
    }
}

/// The answer at the end of the redirects.
pub(super) struct Landed {
    pub(super) response: Response<Incoming>,
    /// True if the endpoint itself gave it.
    pub(super) home: bool,
    /// Host and port of who gave it.
    pub(super) host: String,
    /// The time from the first request to its head.
    pub(super) took: Duration,
}

/// A refusal of anonymous clients is a challenge to those who may have credentials.
fn for_client(error: FetchError, first: Option<&Challenges>) -> FetchError {
    match (error, first) {
        (FetchError::Unauthorized | FetchError::Denied, Some(first)) => {
            FetchError::Challenged(first.clone())
        }
        (error, _) => error,
    }
}

impl Endpoint {
    /// Sends a request with what the endpoint wanted last time, goes where the answers point, and begins once more when
    /// the endpoint wants something else.
    pub(super) async fn authorised(
        &self,
        account: &Account,
        request: &Request<'_>,
        share: Share<'_>,
    ) -> Result<Landed, FetchError> {
        let (client, auth, deadline) = (&self.client, &account.auth, share.deadline);
        let is_head = request.method == Method::HEAD;
        let mut authorization = auth.known(self, request.repository, share).await?;
        let mut challenged = false;
        // The first one, which a client is to answer if nobody can.
        let mut first = None;
        let mut began = Instant::now();
        let mut visited = vec![self.url(request)];
        loop {
            let sends = share.registry;
            let header = authorization.as_ref().map(|it| &it.header);
            let (home, response) = self.send_to(&visited, header, request, share).await?;
            if home {
                self.note_rate_limit(account, response.headers());
            }
            // A challenge counts only from the endpoint: another host is never given a token.
            if home && response.status() == StatusCode::UNAUTHORIZED {
                // Who refuses HEAD alone may do so whoever asks: a token is fetched again, and a password not blamed.
                let blamed = |it: &&Authorization| !is_head || (!challenged && it.is_token());
                if let Some(refused) = authorization.as_ref().filter(blamed) {
                    auth.refused(refused, deadline).await;
                }
                if !challenged && !sends.is_spent() {
                    challenged = true;
                    let headers = response.headers().clone();
                    status::drain(client, response, deadline).await;
                    first = self.passes.then(|| Challenges::of(&headers));
                    let answer = auth.challenged(self, request.repository, &headers, share);
                    let answer = answer
                        .await
                        .map_err(|error| for_client(error, first.as_ref()))?;
                    authorization = Some(answer);
                    visited.truncate(1);
                    began = Instant::now();
                    continue;
                }
                if let Some(first) = first {
                    status::drain(client, response, deadline).await;
                    return Err(FetchError::Challenged(first));
                }
            }
            if let Some(landed) = self.land(response, &mut visited, began, deadline).await? {
                return Ok(landed);
            }
        }
    }

    /// Sends a request to the last of the places visited, with the credential and the endpoint's own headers where that is
    /// the endpoint itself: the first value says whether it is.
    pub(super) async fn send_to(
        &self,
        visited: &[Url],
        credential: Option<&HeaderValue>,
        request: &Request<'_>,
        share: Share<'_>,
    ) -> Result<(bool, Response<Incoming>), FetchError> {
        let current = visited.last().unwrap_or(&self.base);
        let home = self.is_home(current);
        let mut message = request.message(current, credential.filter(|_| home))?;
        if home {
            message.headers_mut().extend(self.headers.clone());
            message.extensions_mut().insert(Named::Endpoint);
        }
        let way = request.way(home);
        let (sends, deadline) = (share.registry, share.deadline);
        let sent = self
            .client
            .send_from(sends, request.kind, message, deadline, way);
        Ok((home, sent.await?))
    }

    /// The answer, if it is the end of the redirects; else the next place is among those visited now.
    pub(super) async fn land(
        &self,
        response: Response<Incoming>,
        visited: &mut Vec<Url>,
        began: Instant,
        deadline: Deadline,
    ) -> Result<Option<Landed>, FetchError> {
        let (status, headers) = (response.status(), response.headers());
        let Some(next) = redirect::target(status, headers, visited, &self.base)? else {
            let current = visited.last().unwrap_or(&self.base);
            return Ok(Some(Landed {
                home: self.is_home(current),
                host: current.authority().to_owned(),
                took: began.elapsed(),
                response,
            }));
        };
        status::drain(&self.client, response, deadline).await;
        visited.push(next);
        Ok(None)
    }

    /// `<base>/v2/<repository>/<rest>?<query>`, or without the repository.
    pub(super) fn url(&self, request: &Request<'_>) -> Url {
        let mut url = self.base.clone();
        let prefix = self.base.path().trim_end_matches('/');
        let (repository, rest) = (request.repository, &request.rest);
        url.set_path(&if request.is_of_registry {
            format!("{prefix}/v2/{rest}")
        } else {
            format!("{prefix}/v2/{repository}/{rest}")
        });
        url.set_query(request.query.as_deref());
        url
    }

    /// True if a URL is of the endpoint's own scheme, host and port.
    pub(super) fn is_home(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// Time until an account may be used, if none may now.
    pub(super) fn limited(&self, cost: Cost, now: Instant) -> Option<Duration> {
        let until = self.limited_until(cost, now)?;
        Some(until.saturating_duration_since(now))
    }

    /// When the first account is not limited any more, if all are.
    pub(super) fn limited_until(&self, cost: Cost, now: Instant) -> Option<Instant> {
        let accounts = self.accounts.iter();
        let all: Option<Vec<_>> = accounts
            .map(|account| account.limit.until(cost, now))
            .collect();
        all?.into_iter().min()
    }

    /// Time until some account that is limited now is not, if there is one.
    pub(super) fn shortest_limit(&self, cost: Cost, now: Instant) -> Option<Duration> {
        let accounts = self.accounts.iter();
        let until = accounts
            .filter_map(|account| account.limit.until(cost, now))
            .min();
        until.map(|until| until.saturating_duration_since(now))
    }

    /// The accounts that are not limited, in the order in which they should be used: the one with most
    /// left first, and as they are written where nobody has said how much. One that has not been used
    /// has all of its allowance.
    pub(super) fn usable(&self, cost: Cost, now: Instant) -> Vec<&Account> {
        let accounts = self.accounts.iter();
        let mut usable: Vec<_> = accounts
            .filter(|account| account.limit.until(cost, now).is_none())
            .map(|account| (account.limit.remaining(now), account))
            .collect();
        usable.sort_by_key(|(remaining, _)| Reverse(remaining.unwrap_or(u64::MAX)));
        usable.into_iter().map(|(_, account)| account).collect()
    }

    fn note_rate_limit(&self, account: &Account, headers: &HeaderMap) {
        let said = RateLimitHeaders::read(headers);
        account.limit.note(&said, Instant::now());
        let (upstream, metrics) = (self.client.upstream().as_str(), self.client.metrics());
        let signed = |count| i64::try_from(count).unwrap_or(i64::MAX);
        if let Some(limit) = said.limit {
            metrics.upstreams().ratelimit_limit(upstream, signed(limit));
        }
        if let Some(remaining) = said.remaining {
            metrics
                .upstreams()
                .ratelimit_remaining(upstream, signed(remaining));
        }
    }
}

impl<'a> Request<'a> {
    /// GET of what follows a repository in a path, of any endpoint, for which limits are waited for.
    pub(super) fn get(
        kind: Kind,
        repository: &'a Repository,
        rest: String,
        accept: HeaderValue,
        body: Wanted,
    ) -> Self {
        Self {
            kind,
            method: Method::GET,
            repository,
            rest,
            is_of_registry: false,
            query: None,
            accept,
            range: None,
            patience: Patience::Wait,
            digest: None,
            endpoints: &[],
            connection: Connection::default(),
            body,
        }
    }

    /// The cost of an answer to it.
    pub(super) fn cost(&self) -> Cost {
        if self.kind == Kind::Manifest && self.method == Method::GET {
            Cost::Pull
        } else {
            Cost::Nothing
        }
    }

    /// The connection for it. Content that its digest checks may come from anywhere. A head is checked by nothing.
    pub(super) fn way(&self, home: bool) -> Way {
        let checked = self.digest.is_some() && self.method == Method::GET;
        if home || checked {
            Way::Lane(self.connection.lane)
        } else {
            Way::Unchecked
        }
    }

    /// Names what a web page came instead of. Whoever has bought a registry's name, or wants a guest to log in to
    /// the network, answers everything with one, and status 200. A blob may be of any type; and who gives
    /// the digest of a manifest knows what it is, whatever it calls it.
    fn page_instead_of(&self, headers: &HeaderMap) -> Option<&'static str> {
        let what = match self.kind {
            Kind::Manifest => "a manifest",
            Kind::Tags | Kind::Referrers => "a list",
            Kind::Blob | Kind::Upload | Kind::Other => return None,
        };
        let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
        let essence = value.split(';').next()?.trim();
        let page = essence.eq_ignore_ascii_case("text/html");
        (page && !headers.contains_key(CONTENT_DIGEST)).then_some(what)
    }

    pub(super) fn message(
        &self,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<http::Request<Full<Bytes>>, FetchError> {
        let uri = redirect::uri(url)?;
        let mut message = http::Request::new(Full::new(Bytes::new()));
        *message.method_mut() = self.method.clone();
        *message.uri_mut() = uri;
        let headers = message.headers_mut();
        headers.insert(ACCEPT, self.accept.clone());
        if let Some((start, end)) = self.range {
            // The last byte is named inclusively (RFC 9110 section 14.1.2).
            let last = end.map_or(String::new(), |end| end.saturating_sub(1).to_string());
            if let Ok(range) = HeaderValue::try_from(format!("bytes={start}-{last}")) {
                headers.insert(RANGE, range);
            }
        }
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(message)
    }
}
