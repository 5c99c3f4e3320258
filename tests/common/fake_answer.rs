//! How the fake registry answers one request.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header, response::Builder};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::super::fake_body::{Body, Sending, Stop, full};
use super::super::fake_log::{Kind, Record};
use super::super::fake_script::{Auth, Fault, LinkForm, Options, instead};
use super::super::images::{Manifest, OCI_INDEX};
use super::{Repository, Shared};

/// Answers a request.
pub async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let record = classify(&request);
    shared.log.record(record.clone());
    let options = shared.options.lock().unwrap().clone();
    let mut response = match refusal(shared, &options, &record) {
        Some(refused) => refused,
        None => scripted(shared, &options, &record).await,
    };
    for (name, value) in &options.extra_headers {
        response.headers_mut().append(*name, value.parse().unwrap());
    }
    response
}

fn classify(request: &Request<Incoming>) -> Record {
    let path = request.uri().path();
    let (kind, repository, reference) = split(path);
    Record {
        method: request.method().clone(),
        kind,
        path: path.to_owned(),
        query: request.uri().query().unwrap_or("").to_owned(),
        repository,
        reference,
        headers: request.headers().clone(),
    }
}

fn split(path: &str) -> (Kind, String, String) {
    let named = |kind, name: &str, reference: &str| (kind, name.to_owned(), reference.to_owned());
    if path == "/v2/" || path == "/v2" {
        return named(Kind::Ping, "", "");
    }
    if path == "/token" {
        return named(Kind::Token, "", "");
    }
    if let Some(digest) = path.strip_prefix("/cdn/") {
        return named(Kind::Cdn, "", digest);
    }
    let Some(rest) = path.strip_prefix("/v2/") else {
        return named(Kind::Other, "", path);
    };
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return named(Kind::Tags, name, "");
    }
    let kinds = [
        ("/manifests/", Kind::Manifest),
        ("/blobs/", Kind::Blob),
        ("/referrers/", Kind::Referrers),
    ];
    for (marker, kind) in kinds {
        if let Some((name, reference)) = rest.rsplit_once(marker) {
            return named(kind, name, reference);
        }
    }
    named(Kind::Other, "", path)
}

/// A query parameter, decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    url::form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

fn error(status: u16, code: &str) -> Response<Body> {
    let body = json!({"errors": [{"code": code, "message": "said by the fake registry"}]});
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .body(full(body.to_string()))
        .unwrap()
}

fn status_error(status: u16, kind: Kind) -> Response<Body> {
    let code = match (status, kind) {
        (401, _) => "UNAUTHORIZED",
        (403, _) => "DENIED",
        (404, Kind::Manifest) => "MANIFEST_UNKNOWN",
        (404, Kind::Blob) => "BLOB_UNKNOWN",
        (404, _) => "NAME_UNKNOWN",
        (405, _) => "UNSUPPORTED",
        (429, _) => "TOOMANYREQUESTS",
        _ => "UNKNOWN",
    };
    error(status, code)
}

/// 401, or the 400 of a signed URL, where one is due.
fn refusal(shared: &Shared, options: &Options, record: &Record) -> Option<Response<Body>> {
    for (name, value) in &options.required_headers {
        let found = record.headers.get(*name);
        let fits = found.is_some_and(|found| value.as_ref().is_none_or(|wanted| found == wanted));
        if !fits {
            return Some(error(400, "HEADER_REQUIRED"));
        }
    }
    let authorization = record.header("authorization");
    if options.refuse_authorization && !authorization.is_empty() {
        return Some(error(400, "InvalidArgument"));
    }
    if matches!(record.kind, Kind::Token | Kind::Cdn) {
        return None;
    }
    if options
        .public
        .iter()
        .any(|public| *public == record.repository)
    {
        return None;
    }
    let challenge = match &options.auth {
        Auth::Open => return None,
        Auth::Basic { username, password } => {
            if authorization == basic(username, password) {
                return None;
            }
            "Basic realm=\"fake\"".to_owned()
        }
        Auth::Token { realm, .. } => {
            let scope = format!("repository:{}:pull", record.repository);
            let trusted = Arc::clone(&shared.tokens.lock().unwrap());
            let tokens = trusted.lock().unwrap();
            let granted = authorization
                .strip_prefix("Bearer ")
                .and_then(|token| tokens.get(token));
            if granted.is_some_and(|granted| *granted == scope || record.kind == Kind::Ping) {
                return None;
            }
            let own = format!("http://{}/token", shared.address);
            let realm = realm.as_deref().unwrap_or(&own);
            format!("Bearer realm=\"{realm}\",service=\"fake\",scope=\"{scope}\"")
        }
    };
    let mut response = error(401, "UNAUTHORIZED");
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, challenge.parse().unwrap());
    Some(response)
}

/// The `Authorization` of HTTP Basic.
fn basic(username: &str, password: &str) -> String {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    format!("Basic {pair}")
}

async fn scripted(shared: &Arc<Shared>, options: &Options, record: &Record) -> Response<Body> {
    let fault = {
        let mut rules = shared.rules.lock().unwrap();
        rules
            .iter_mut()
            .find_map(|(rule, fault)| rule.meets(record).then(|| fault.clone()))
    };
    match &fault {
        Some(Fault::Hang) => std::future::pending::<()>().await,
        Some(Fault::Wait(permit)) => drop(permit.acquire().await.unwrap()),
        Some(Fault::Status(status)) => return status_error(*status, record.kind),
        Some(Fault::RateLimited(seconds)) => {
            let mut response = status_error(429, record.kind);
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.to_string().parse().unwrap());
            return response;
        }
        Some(Fault::Instead { content_type, body }) => {
            return Response::builder()
                .header(header::CONTENT_TYPE, *content_type)
                .body(full(instead(body)))
                .unwrap();
        }
        Some(Fault::Answer {
            status,
            headers,
            body,
        }) => {
            let start = Response::builder().status(*status);
            let builder = headers
                .iter()
                .fold(start, |builder, (name, value)| builder.header(*name, value));
            return builder.body(full(body.clone())).unwrap();
        }
        // These spoil the content: see `content`.
        Some(
            Fault::Cut(_)
            | Fault::Stall(_)
            | Fault::Flip(_)
            | Fault::Short(_)
            | Fault::Long(_)
            | Fault::IgnoreRange
            | Fault::LieRange
            | Fault::OtherRange
            | Fault::RangeLimit(_),
        )
        | None => {}
    }
    match record.kind {
        Kind::Ping => Response::builder()
            .header("Docker-Distribution-Api-Version", "registry/2.0")
            .body(full("{}"))
            .unwrap(),
        Kind::Token => token(shared, options, record),
        Kind::Manifest => manifest(shared, options, record, fault.as_ref()),
        Kind::Blob | Kind::Cdn => blob(shared, options, record, fault.as_ref()),
        Kind::Tags => tags(shared, options, record),
        Kind::Referrers => referrers(shared, options, record),
        Kind::Other if record.path == "/v2/_catalog" => catalog(shared, options, record),
        Kind::Other => status_error(404, Kind::Other),
    }
}

fn token(shared: &Shared, options: &Options, record: &Record) -> Response<Body> {
    let (credentials, expires_in, field) = match &options.auth {
        Auth::Token {
            credentials,
            expires_in,
            field,
            ..
        } => (credentials.as_ref(), *expires_in, *field),
        Auth::Open | Auth::Basic { .. } => (None, Some(300), "token"),
    };
    if record.method != Method::GET {
        return status_error(405, Kind::Token);
    }
    if let Some((username, password)) = credentials
        && record.header("authorization") != basic(username, password)
    {
        return status_error(401, Kind::Token);
    }
    let scope = parameter(&record.query, "scope").unwrap_or_default();
    let number = shared.tokens_issued.fetch_add(1, Ordering::Relaxed);
    let token = format!("token-{number}");
    let tokens = Arc::clone(&shared.tokens.lock().unwrap());
    tokens.lock().unwrap().insert(token.clone(), scope);
    let mut body = json!({ field: token });
    if let Some(seconds) = expires_in {
        body["expires_in"] = json!(seconds);
    }
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .body(full(body.to_string()))
        .unwrap()
}

fn found<T>(
    shared: &Shared,
    repository: &str,
    pick: impl Fn(&Repository) -> Option<T>,
) -> Option<T> {
    pick(shared.repositories.lock().unwrap().get(repository)?)
}

fn manifest(
    shared: &Arc<Shared>,
    options: &Options,
    record: &Record,
    fault: Option<&Fault>,
) -> Response<Body> {
    if record.method == Method::HEAD && !options.head {
        return status_error(405, Kind::Manifest);
    }
    if let Some(base) = &options.redirect_manifests {
        return redirect(&format!("{base}{}", record.path));
    }
    let Some(manifest) = found(shared, &record.repository, |repository| {
        let digest = match repository.tags.get(&record.reference) {
            Some(variants) => negotiate(repository, variants, &record.headers),
            None => record.reference.clone(),
        };
        repository.manifests.get(&digest).cloned()
    }) else {
        return status_error(404, Kind::Manifest);
    };
    let mut builder = Response::builder().header(header::CONTENT_TYPE, &manifest.media_type);
    if options.digest_header {
        builder = builder.header("Docker-Content-Digest", &manifest.digest);
    }
    content(shared, options, record, manifest.bytes, builder, fault)
}

fn negotiate(repository: &Repository, variants: &[String], headers: &HeaderMap) -> String {
    let accepted: Vec<&str> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|part| part.split(';').next().unwrap_or("").trim())
        .collect();
    let fits = |digest: &&String| {
        let manifest: Option<&Manifest> = repository.manifests.get(*digest);
        manifest.is_some_and(|manifest| accepted.contains(&manifest.media_type.as_str()))
    };
    let chosen = variants.iter().find(fits).or(variants.last());
    chosen.cloned().unwrap_or_default()
}

fn blob(
    shared: &Arc<Shared>,
    options: &Options,
    record: &Record,
    fault: Option<&Fault>,
) -> Response<Body> {
    let bytes = if record.kind == Kind::Cdn {
        let repositories = shared.repositories.lock().unwrap();
        repositories
            .values()
            .find_map(|repository| repository.blobs.get(&record.reference).cloned())
    } else {
        found(shared, &record.repository, |repository| {
            repository.blobs.get(&record.reference).cloned()
        })
    };
    let Some(bytes) = bytes else {
        return status_error(404, Kind::Blob);
    };
    if record.kind == Kind::Blob
        && let Some(base) = &options.redirect_blobs
    {
        return redirect(&format!("{base}/cdn/{}?signature=secret", record.reference));
    }
    let mut builder = Response::builder().header(header::CONTENT_TYPE, "application/octet-stream");
    if options.digest_header && record.kind == Kind::Blob {
        builder = builder.header("Docker-Content-Digest", &record.reference);
    }
    content(shared, options, record, bytes, builder, fault)
}

fn redirect(location: &str) -> Response<Body> {
    Response::builder()
        .status(307)
        .header(header::LOCATION, location)
        .body(full(""))
        .unwrap()
}

/// Content with its length, range, gate and faults.
fn content(
    shared: &Arc<Shared>,
    options: &Options,
    record: &Record,
    bytes: Bytes,
    mut builder: Builder,
    fault: Option<&Fault>,
) -> Response<Body> {
    let bytes = spoiled(bytes, fault);
    let total = bytes.len();
    let mut sent = 0..total;
    if let Some(etag) = options
        .etag
        .as_ref()
        .filter(|_| record.kind != Kind::Manifest)
    {
        builder = builder.header(header::ETAG, etag);
    }
    if record.kind != Kind::Manifest && options.ranges {
        builder = builder.header(header::ACCEPT_RANGES, "bytes");
        if let Some((start, end)) = range_to_honour(options, record, fault) {
            if start >= total {
                let response = status_error(416, Kind::Blob);
                return with(response, "Content-Range", &format!("bytes */{total}"));
            }
            let asked = start..end.map_or(total, |end| end.min(total));
            let said;
            (said, sent) = ranges(asked, total, fault);
            let said = format!("bytes {}-{}/{total}", said.start, said.end - 1);
            builder = builder.status(206).header(header::CONTENT_RANGE, said);
        }
    }
    if options.content_length || record.method == Method::HEAD {
        builder = builder.header(header::CONTENT_LENGTH, sent.len());
    }
    if record.method == Method::HEAD {
        return builder.body(full("")).unwrap();
    }
    let stop = match fault {
        Some(Fault::Cut(at)) => Some((*at, Stop::Cut)),
        Some(Fault::Stall(at)) => Some((*at, Stop::Stall)),
        _ => None,
    };
    let gate = shared.gates.lock().unwrap().get(&record.reference).cloned();
    let sending = Sending {
        stop: stop
            .filter(|(at, _)| (sent.start..=sent.end).contains(at))
            .map(|(at, stop)| (at - sent.start, stop)),
        content: bytes.slice(sent),
        chunk_bytes: options.chunk_bytes,
        gate,
        log: Arc::clone(&shared.log),
        reference: record.reference.clone(),
    };
    builder.body(sending.body()).unwrap()
}

/// The Range, unless it does not count.
fn range_to_honour(
    options: &Options,
    record: &Record,
    fault: Option<&Fault>,
) -> Option<(usize, Option<usize>)> {
    let validator = record.header("if-range");
    let void = !validator.is_empty() && Some(validator) != options.etag.as_deref();
    let ignored = matches!(fault, Some(Fault::IgnoreRange));
    record.range().filter(|_| !void && !ignored)
}

/// Which range is said to be sent, and which is.
fn ranges(
    asked: Range<usize>,
    total: usize,
    fault: Option<&Fault>,
) -> (Range<usize>, Range<usize>) {
    match fault {
        Some(Fault::LieRange) => (asked.clone(), 0..asked.len()),
        Some(Fault::OtherRange) => {
            let other = if asked.end < total {
                asked.start + 1..asked.end + 1
            } else {
                asked.start.saturating_sub(1)..asked.end - 1
            };
            (other.clone(), other)
        }
        Some(Fault::RangeLimit(limit)) => {
            let some = asked.start..asked.end.min(asked.start + limit);
            (some.clone(), some)
        }
        _ => (asked.clone(), asked),
    }
}

fn spoiled(bytes: Bytes, fault: Option<&Fault>) -> Bytes {
    match fault {
        Some(Fault::Flip(at)) => {
            let mut wrong = bytes.to_vec();
            wrong[*at] ^= 0x20;
            Bytes::from(wrong)
        }
        Some(Fault::Short(length)) => bytes.slice(..*length),
        Some(Fault::Long(more)) => {
            let mut wrong = bytes.to_vec();
            wrong.resize(bytes.len() + more, 0);
            Bytes::from(wrong)
        }
        _ => bytes,
    }
}

fn with(mut response: Response<Body>, name: &'static str, value: &str) -> Response<Body> {
    response.headers_mut().insert(name, value.parse().unwrap());
    response
}

fn tags(shared: &Shared, options: &Options, record: &Record) -> Response<Body> {
    let Some(all) = found(shared, &record.repository, |repository| {
        Some(repository.tags.keys().cloned().collect::<Vec<_>>())
    }) else {
        return status_error(404, Kind::Tags);
    };
    let body = |page: &[String]| json!({"name": record.repository, "tags": page});
    paged(shared, options, record, all, body)
}

fn catalog(shared: &Shared, options: &Options, record: &Record) -> Response<Body> {
    let repositories = shared.repositories.lock().unwrap();
    let mut all: Vec<String> = repositories.keys().cloned().collect();
    drop(repositories);
    all.sort_unstable();
    let body = |page: &[String]| json!({ "repositories": page });
    paged(shared, options, record, all, body)
}

/// A page of a list, and where the next one is.
fn paged(
    shared: &Shared,
    options: &Options,
    record: &Record,
    all: Vec<String>,
    body: impl Fn(&[String]) -> Value,
) -> Response<Body> {
    let last = parameter(&record.query, "last").unwrap_or_default();
    let limit = parameter(&record.query, "n").map_or(usize::MAX, |n| n.parse().unwrap());
    let limit = limit.min(options.page_max);
    let rest: Vec<String> = all.into_iter().filter(|name| *name > last).collect();
    let page = rest.get(..limit.min(rest.len())).unwrap();
    let mut builder = Response::builder().header(header::CONTENT_TYPE, "application/json");
    if let Some(end) = page.last()
        && page.len() < rest.len()
    {
        let base = match options.link {
            LinkForm::Relative => String::new(),
            LinkForm::Absolute => format!("http://{}", shared.address),
        };
        let path = &record.path;
        let link = format!("<{base}{path}?last={end}&n={limit}>; rel=\"next\"");
        builder = builder.header(header::LINK, link);
    }
    builder.body(full(body(page).to_string())).unwrap()
}

fn referrers(shared: &Shared, options: &Options, record: &Record) -> Response<Body> {
    if !options.referrers {
        return status_error(404, Kind::Other);
    }
    let wanted = parameter(&record.query, "artifactType").filter(|_| options.filters);
    let entries = found(shared, &record.repository, |repository| {
        let entries = repository.manifests.values().filter_map(|manifest| {
            let value: Value = serde_json::from_slice(&manifest.bytes).ok()?;
            let artifact_type = value["artifactType"].as_str().unwrap_or("");
            let refers = value["subject"]["digest"] == record.reference.as_str()
                && wanted
                    .as_deref()
                    .is_none_or(|wanted| wanted == artifact_type);
            refers.then(|| {
                json!({"mediaType": manifest.media_type, "digest": manifest.digest,
                       "size": manifest.bytes.len(), "artifactType": artifact_type})
            })
        });
        Some(entries.collect::<Vec<_>>())
    })
    .unwrap_or_default();
    let body = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    let mut builder = Response::builder().header(header::CONTENT_TYPE, OCI_INDEX);
    if wanted.is_some() {
        builder = builder.header("OCI-Filters-Applied", "artifactType");
    }
    builder.body(full(body.to_string())).unwrap()
}
