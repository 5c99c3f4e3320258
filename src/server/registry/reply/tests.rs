use super::*;
use crate::oci::Algorithm;
use crate::server::http::body::{Body, ByteStream};
use crate::server::http::error::ApiError;
use crate::server::registry::blob::Selected;
use crate::server::testing::{Server, converse, exchange, metrics};
use crate::telemetry::Metrics;
use http::Response;
use std::sync::Arc;

fn digest() -> Digest {
    Digest::of(Algorithm::Sha256, b"content")
}

fn manifest() -> ManifestAnswer {
    ManifestAnswer {
        digest: digest(),
        media_type: Arc::from("application/vnd.oci.image.manifest.v1+json"),
        bytes: Bytes::from_static(b"content"),
        outcome: Outcome::Stale,
        warnings: vec!["110 - \"Response is Stale\"".to_owned()],
    }
}

fn request(name: HeaderName, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
}

fn text(reply: &Reply, name: impl header::AsHeaderName) -> &str {
    reply.headers.get(name).unwrap().to_str().unwrap()
}

async fn blob(request: &HeaderMap, total: Option<u64>) -> Result<Reply, ApiError> {
    let head = BlobHead {
        total,
        outcome: Outcome::Miss,
    };
    let tag = EntityTag::new(&digest());
    let selected = Selected::of(&Conditions::of(request), &tag, head, true)?;
    let part = match &selected {
        Selected::Whole => 0..7,
        Selected::Part(part) => part.clone(),
        Selected::Parts(_, parts) => panic!("several parts: {parts:?}"),
    };
    let part = usize::try_from(part.start).unwrap()..usize::try_from(part.end).unwrap();
    let bytes = Bytes::from_static(b"content").slice(part);
    let stream = ByteStream::scripted(vec![Ok(bytes)], selected.length(total), &metrics());
    let mut content = Content::Stream(stream);
    content.prime().await?;
    Ok(selected.describe(tag, head, content))
}

fn blob_head(request: &HeaderMap, head: BlobHead) -> Reply {
    let tag = EntityTag::new(&digest());
    let client_has = Conditions::of(request).client_has(tag.digest());
    Reply::blob_head(tag, client_has, head)
}

#[test]
fn a_manifest_carries_its_identity() {
    let by_tag = Reply::manifest(&Conditions::of(&HeaderMap::new()), manifest(), false);
    let digest = digest().to_string();
    assert_eq!(by_tag.status, StatusCode::OK);
    assert_eq!(text(&by_tag, DOCKER_CONTENT_DIGEST), digest);
    assert_eq!(text(&by_tag, header::ETAG), format!("\"{digest}\""));
    assert_eq!(
        text(&by_tag, header::CONTENT_TYPE),
        "application/vnd.oci.image.manifest.v1+json"
    );
    assert_eq!(
        text(&by_tag, header::WARNING),
        "110 - \"Response is Stale\""
    );
    assert_eq!(text(&by_tag, header::VARY), "Accept");
    assert!(!by_tag.headers.contains_key(header::CACHE_CONTROL));

    let by_digest = Reply::manifest(&Conditions::of(&HeaderMap::new()), manifest(), true);
    assert!(text(&by_digest, header::CACHE_CONTROL).contains("immutable"));
}

#[test]
fn a_client_that_has_it_gets_304_without_a_body() {
    let condition = request(header::IF_NONE_MATCH, &format!("\"{}\"", digest()));
    let head = BlobHead {
        total: Some(7),
        outcome: Outcome::Hit,
    };
    for reply in [
        Reply::manifest(&Conditions::of(&condition), manifest(), true),
        blob_head(&condition, head),
    ] {
        assert_eq!(reply.status, StatusCode::NOT_MODIFIED);
        assert!(matches!(reply.content, Content::Empty));
        assert_eq!(text(&reply, DOCKER_CONTENT_DIGEST), digest().to_string());
        assert!(!reply.headers.contains_key(header::CONTENT_LENGTH));
    }
}

#[tokio::test]
async fn a_blob_and_its_ranges() {
    let whole = blob(&HeaderMap::new(), Some(7)).await.unwrap();
    assert_eq!(whole.status, StatusCode::OK);
    assert_eq!(text(&whole, header::ACCEPT_RANGES), "bytes");
    assert!(!whole.headers.contains_key(header::CONTENT_RANGE));

    let range = request(header::RANGE, "bytes=2-4");
    let part = blob(&range, Some(7)).await.unwrap();
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(text(&part, header::CONTENT_RANGE), "bytes 2-4/7");
    assert_eq!(text(&part, DOCKER_CONTENT_DIGEST), digest().to_string());

    let unknown = blob(&range, None).await.unwrap();
    assert_eq!(unknown.status, StatusCode::OK);
    assert!(!unknown.headers.contains_key(header::CONTENT_RANGE));

    let beyond = blob(&request(header::RANGE, "bytes=7-"), Some(7)).await;
    let beyond = beyond.unwrap_err().into_reply();
    assert_eq!(beyond.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(text(&beyond, header::CONTENT_RANGE), "bytes */7");
}

#[test]
fn a_list_links_to_the_clients_own_path_and_namespace() {
    let answer = ListAnswer {
        media_type: "application/json",
        bytes: Bytes::from_static(b"{}"),
        next: Some(NextPage {
            query: vec![
                ("last".to_owned(), "v2".to_owned()),
                ("ns".to_owned(), "upstream's own".to_owned()),
            ],
        }),
        filtered: true,
        outcome: Outcome::Miss,
        warnings: Vec::new(),
    };
    let path = "/v2/ghcr.io/org/app/tags/list";
    let reply = Reply::list(answer.clone(), path, Some("ghcr.io"));
    let link = text(&reply, header::LINK);
    assert!(
        link.starts_with(&format!("<{path}?last=v2&ns=ghcr.io>")),
        "{link}"
    );
    assert_eq!(text(&reply, OCI_FILTERS_APPLIED), "artifactType");

    let reply = Reply::list(answer, path, None);
    let link = text(&reply, header::LINK);
    assert!(link.starts_with(&format!("<{path}?last=v2>")), "{link}");
}

/// The bytes that a client of HTTP/1.1 reads.
async fn over_http1(make: impl Fn(&Metrics) -> Reply + Clone + Send + Sync + 'static) -> String {
    let server = Server::bind().await;
    let client = server.connect(move || {
        let metrics = metrics();
        let mut reply = make(&metrics);
        reply.answer_head(&Method::HEAD);
        let mut response = Response::new(Body::new(reply.content, exchange(&metrics)));
        *response.status_mut() = reply.status;
        *response.headers_mut() = reply.headers;
        response
    });
    let request = "HEAD / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    converse(client.await, request).await
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let answer =
        over_http1(|_| Reply::manifest(&Conditions::of(&HeaderMap::new()), manifest(), true)).await;
    assert!(answer.contains("content-length: 7\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");

    let head = |total| BlobHead {
        total,
        outcome: Outcome::Hit,
    };
    let answer = over_http1(move |_| blob_head(&HeaderMap::new(), head(Some(1 << 40)))).await;
    assert!(
        answer.contains("content-length: 1099511627776\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");

    // containerd takes a missing length for "ask again with GET", but a wrong 0 for the truth.
    let answer = over_http1(move |_| blob_head(&HeaderMap::new(), head(None))).await;
    assert!(!answer.contains("content-length"), "{answer}");
}
