//! A client of one registry, whichever it is, as somebody has it who pulls an image: tokens on challenges,
//! redirects, connections of its own. Unlike an [`super::Upstream`] it repeats nothing, waits for no limit and
//! keeps no record of anybody's health, so that what is measured by it is what the registry did.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use url::{Url, form_urlencoded};

use super::auth::Auth;
use super::body::BlobBody;
use super::budget::Budget;
use super::extent::nonsense;
use super::headers::{content_type, digest};
use super::login::{LoginConfig, Source};
use super::rate_limit::Limit;
use super::registry::{
    LIST, LIST_BYTES_MAX, ListFetch, blob_request, encode, list_from, manifest_request,
};
use super::request::{Account, Endpoint, Request, Wanted};
use super::timings::Timings;
use super::{EndpointConfig, EndpointId, FetchError, OwnListeners, ProxyConfig, realm, status};
use crate::net::Deadline;
use crate::net::HttpClient;
use crate::oci::manifest::MANIFEST_BYTES_MAX;
use crate::oci::{AcceptClass, Digest, Reference, Repository, UpstreamName, list};
use crate::telemetry::{Kind, Metrics};

/// A client of one registry. Redirects are followed as for an upstream, and credentials go where those of an
/// upstream would.
pub struct Puller {
    name: UpstreamName,
    config: EndpointConfig,
    /// Shared by all that were made of one: a login is looked up once, and each gets tokens for it.
    source: Source,
    /// For how long an answer, or more of a body, is waited for.
    patience: Duration,
    /// The value of `ns`, the registry's name for those that mirror several (containerd, `docs/hosts.md`).
    ns: Option<String>,
    endpoint: Endpoint,
}

/// A manifest as it came; its digest is for the caller to check.
#[derive(Clone, Debug)]
pub struct PulledManifest {
    /// The body, at most [`MANIFEST_BYTES_MAX`].
    pub bytes: Bytes,
    /// `Content-Type` without parameters.
    pub content_type: Option<String>,
    /// `Docker-Content-Digest`, if it parses.
    pub digest_header: Option<Digest>,
}

impl Puller {
    /// A client of the registry at this endpoint, which counts its requests in `metrics`. Dials nothing.
    ///
    /// # Errors
    /// One line: the URL is none of a registry, or a file or setting cannot be used.
    pub fn new(
        config: EndpointConfig,
        login: Option<&LoginConfig>,
        ns: Option<String>,
        patience: Duration,
        metrics: Metrics,
    ) -> Result<Self, String> {
        let name = check(&config.url)?;
        let source = match login {
            Some(login) => {
                let proxy = ProxyConfig::Direct;
                let api = HttpClient::api(
                    name.clone(),
                    metrics.clone(),
                    &proxy,
                    CONNECT_TIMEOUT,
                    nobody(),
                )?;
                Source::new(login, config.url.authority(), api)?
            }
            None => Source::anonymous(),
        };
        let endpoint = endpoint(&name, &config, &source, metrics)?;
        Ok(Self {
            name,
            config,
            source,
            patience,
            ns,
            endpoint,
        })
    }

    /// Another client of the same registry, with the same login: no connection, token or TLS session is shared.
    ///
    /// # Errors
    /// As for [`Puller::new`].
    pub fn another(&self, metrics: Metrics) -> Result<Self, String> {
        Ok(Self {
            name: self.name.clone(),
            config: self.config.clone(),
            source: self.source.clone(),
            patience: self.patience,
            ns: self.ns.clone(),
            endpoint: endpoint(&self.name, &self.config, &self.source, metrics)?,
        })
    }

    /// GET of a manifest.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: AcceptClass,
    ) -> Result<PulledManifest, FetchError> {
        let deadline = Deadline::after(self.patience);
        let wanted = Wanted::Whole("a manifest", MANIFEST_BYTES_MAX);
        let request = manifest_request(repository, reference, &accept.into(), Method::GET, wanted)?;
        let (headers, body) = self.get(request, deadline).await?;
        Ok(PulledManifest {
            bytes: body
                .whole("a manifest", MANIFEST_BYTES_MAX, deadline)
                .await?,
            content_type: content_type(&headers),
            digest_header: digest(&headers),
        })
    }

    /// GET of a blob: its bytes as they come, unchecked.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<BlobBody, FetchError> {
        let deadline = Deadline::after(self.patience);
        let request = blob_request(repository, digest, Method::GET, Wanted::Stream);
        Ok(self.get(request, deadline).await?.1)
    }

    /// One page of a repository's tags.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn tags(
        &self,
        repository: &Repository,
        query: &[(String, String)],
    ) -> Result<ListFetch, FetchError> {
        let accept = HeaderValue::from_static(list::TAGS);
        let rest = "tags/list".to_owned();
        let request = Request::get(Kind::Tags, repository, rest, accept, LIST);
        self.list(request, query).await
    }

    /// One page of the referrers of a digest.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        query: &[(String, String)],
    ) -> Result<ListFetch, FetchError> {
        let accept = HeaderValue::from_static(list::REFERRERS);
        let rest = format!("referrers/{digest}");
        let request = Request::get(Kind::Referrers, repository, rest, accept, LIST);
        self.list(request, query).await
    }

    /// One page of the registry's repositories.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn catalog(&self, query: &[(String, String)]) -> Result<ListFetch, FetchError> {
        let accept = HeaderValue::from_static(list::TAGS);
        // Tokens are for a repository; what the registry's challenge says is asked for, too.
        let nobody = Repository::parse(CATALOG_SCOPE).map_err(|_| nonsense("no scope"))?;
        let rest = "_catalog".to_owned();
        let request = Request {
            is_of_registry: true,
            ..Request::get(Kind::Other, &nobody, rest, accept, LIST)
        };
        self.list(request, query).await
    }

    async fn list(
        &self,
        mut request: Request<'_>,
        query: &[(String, String)],
    ) -> Result<ListFetch, FetchError> {
        let deadline = Deadline::after(self.patience);
        request.query = encode(query);
        let (headers, body) = self.get(request, deadline).await?;
        let bytes = body.whole("a list", LIST_BYTES_MAX, deadline).await?;
        Ok(list_from(&headers, bytes))
    }

    async fn get(
        &self,
        mut request: Request<'_>,
        deadline: Deadline,
    ) -> Result<(HeaderMap, BlobBody), FetchError> {
        if let Some(ns) = &self.ns {
            let before = request.query.take().unwrap_or_default();
            let mut query = form_urlencoded::Serializer::new(before);
            request.query = Some(query.append_pair("ns", ns).finish());
        }
        let account = self.endpoint.accounts.first();
        let account = account.ok_or(FetchError::Unauthorized)?;
        // Boxed: a login and its tokens would make everything that waits for this large.
        let budget = Budget::new(deadline.left(), [1]);
        let share = budget.share(self.endpoint.id, 1).ok_or(FetchError::Busy)?;
        let landed = Box::pin(self.endpoint.authorised(account, &request, share)).await?;
        let client = &self.endpoint.client;
        let response = landed.response;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::PARTIAL_CONTENT => {
                return Err(nonsense("status 206, though no range was asked for"));
            }
            _ => return Err(status::refusal(client, response, landed.home, deadline).await),
        }
        status::check_encoding(response.headers())?;
        let headers = response.headers().clone();
        Ok((headers, BlobBody::new(client, response, self.patience)))
    }
}

impl fmt::Debug for Puller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Puller").field(&self.name).finish()
    }
}

/// The name that a registry goes by here: its host and port.
fn check(url: &Url) -> Result<UpstreamName, String> {
    // What is wrong with it may be that it holds a password.
    if realm::has_user_info(url) {
        return Err("a user name or password does not belong into the URL".to_owned());
    }
    let authority = match (url.scheme(), url.host_str(), url.port()) {
        ("http" | "https", Some(host), Some(port)) => format!("{host}:{port}"),
        ("http" | "https", Some(host), None) => host.to_owned(),
        _ => return Err(format!("{url} is not an http or https URL")),
    };
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("{url} has more than a host and a path"));
    }
    UpstreamName::parse(&authority).map_err(|error| error.to_string())
}

fn endpoint(
    name: &UpstreamName,
    config: &EndpointConfig,
    source: &Source,
    metrics: Metrics,
) -> Result<Endpoint, String> {
    let client = HttpClient::new(
        name.clone(),
        metrics,
        &config.peer(),
        CONNECT_TIMEOUT,
        1,
        nobody(),
    )?;
    let account = Account {
        auth: Auth::new(source.clone()),
        limit: Limit::new(Timings::default()),
    };
    Ok(Endpoint {
        passes: false,
        id: EndpointId::of(0),
        base: config.url.clone(),
        client,
        headers: config.headers.iter().cloned().collect(),
        accounts: vec![account],
    })
}

/// A command listens nowhere.
fn nobody() -> OwnListeners {
    OwnListeners::default()
}

/// That of Go's HTTP transport, which clients of registries have: with hundreds of clients at once a server's
/// queue of connections overflows, and a SYN that is lost several times comes through after 7 or 15 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A name for the scope of a token where no repository is asked for; nobody has one of it.
const CATALOG_SCOPE: &str = "catalog";
