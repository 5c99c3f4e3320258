//! `/api/v1/import/…`: an image brought by hand.
//!
//! | request | what |
//! | --- | --- |
//! | `GET blobs/DIGEST` | whether a blob or manifest is there already: 200 or 404 |
//! | `PUT blobs/DIGEST` | a blob, its length announced: 201, or 200 when it was there |
//! | `PUT manifests/DIGEST` | a manifest or index, with its `Content-Type`: likewise |
//! | `POST images?name=NAME&digest=DIGEST` | gives what was brought its name, if all of it is there: 200, or 409 and what is missing; with `&pin=true` it is pinned as well |

use futures_util::StreamExt as _;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header, request};
use http_body_util::{BodyDataStream, BodyExt as _, Limited};
use hyper::body::{Body as _, Incoming};
use serde_json::json;

use crate::mirror::{ImportError, Imported, Mirror};
use crate::oci::manifest::MANIFEST_BYTES_MAX;
use crate::oci::{Digest, ImageName};
use crate::server::admin::answer::{AdminBody, Refused, flag, json, refusal, unless_deliberate};

/// What the paths begin with.
pub(crate) const PREFIX: &str = "/api/v1/import/";

/// How long a manifest may take to come: far longer than a few megabytes do.
const MANIFEST_WAIT_MAX: Duration = Duration::from_mins(1);

/// How long the rest of a refused blob is taken and thrown away: from this machine, some gigabytes.
const LINGER_MAX: Duration = Duration::from_secs(10);

type Answer = Result<Response<AdminBody>, Refused>;

/// Answers a request for one of the paths.
pub(crate) async fn answer(mirror: &Mirror, request: Request<Incoming>) -> Response<AdminBody> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().strip_prefix(PREFIX).unwrap_or_default();
    let answered = match path.split_once('/') {
        _ if path == "images" => image(mirror, &head).await,
        Some(("blobs", digest)) if head.method == Method::GET => is_there(mirror, digest).await,
        Some(("blobs", digest)) => Box::pin(blob(mirror, &head, body, digest)).await,
        Some(("manifests", digest)) => Box::pin(manifest(mirror, &head, body, digest)).await,
        Some(_) | None => Err(Refused::new(StatusCode::NOT_FOUND, "there is no such path")),
    };
    answered.unwrap_or_else(|refused| *refused.0)
}

async fn is_there(mirror: &Mirror, digest: &str) -> Answer {
    match mirror.import_has(&parse(digest)?).await {
        Some(size) => Ok(json(StatusCode::OK, &json!({ "size": size }))),
        None => Err(Refused::new(StatusCode::NOT_FOUND, "it is not there")),
    }
}

async fn blob(mirror: &Mirror, head: &request::Parts, body: Incoming, digest: &str) -> Answer {
    expect(head, &Method::PUT)?;
    let digest = parse(digest)?;
    let Some(size) = body.size_hint().exact() else {
        let why = "a blob's length must be announced";
        return Err(Refused::new(StatusCode::LENGTH_REQUIRED, why));
    };
    let body = BodyDataStream::new(body);
    let mut body = body.map(|data| data.map_err(|error| format!("the body broke off: {error}")));
    let taken = Box::pin(mirror.import_blob(&digest, size, &mut body)).await;
    // A client that is still sending would find its connection closed, and not the answer.
    let rest = async { while let Some(Ok(_)) = body.next().await {} };
    tokio::time::timeout(LINGER_MAX, rest).await.ok();
    answer_to(taken)
}

async fn manifest(mirror: &Mirror, head: &request::Parts, body: Incoming, digest: &str) -> Answer {
    expect(head, &Method::PUT)?;
    let digest = parse(digest)?;
    let body = Limited::new(body, MANIFEST_BYTES_MAX).collect();
    let body = tokio::time::timeout(MANIFEST_WAIT_MAX, body).await;
    let body =
        body.map_err(|_elapsed| Refused::new(StatusCode::REQUEST_TIMEOUT, "it did not come"))?;
    let body = body.map_err(|error| Refused::new(StatusCode::BAD_REQUEST, &error.to_string()))?;
    let content_type = head.headers.get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let taken = mirror.import_manifest(&digest, content_type, body.to_bytes());
    answer_to(taken.await)
}

async fn image(mirror: &Mirror, head: &request::Parts) -> Answer {
    expect(head, &Method::POST)?;
    let (mut name, mut digest, mut pin) = (None, None, false);
    let query = head.uri.query().unwrap_or_default();
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "name" => {
                let parsed = ImageName::parse(&value).map_err(|error| {
                    Refused::new(
                        StatusCode::BAD_REQUEST,
                        &format!("image {value:?}: {error}"),
                    )
                })?;
                name = Some(parsed);
            }
            "digest" => digest = Some(parse(&value)?),
            "pin" => {
                let why = "pin must be true or false";
                pin = flag(&value).ok_or_else(|| Refused::new(StatusCode::BAD_REQUEST, why))?;
            }
            _ => {
                let why = format!("{key:?} means nothing here");
                return Err(Refused::new(StatusCode::BAD_REQUEST, &why));
            }
        }
    }
    let (Some(name), Some(digest)) = (name, digest) else {
        let why = "name and digest are needed";
        return Err(Refused::new(StatusCode::BAD_REQUEST, why));
    };
    let image = mirror.import_image(&name, &digest, pin).await;
    let image = image.map_err(|error| Refused(Box::new(failure(&error))))?;
    let said = json!({
        "image": name.to_string(), "digest": digest.to_string(),
        "manifests": image.manifests, "blobs": image.blobs, "absent": image.absent, "pinned": pin,
    });
    Ok(json(StatusCode::OK, &said))
}

fn answer_to(imported: Result<Imported, ImportError>) -> Answer {
    match imported {
        Ok(Imported::Stored) => Ok(json(StatusCode::CREATED, &json!({ "stored": true }))),
        Ok(Imported::There) => Ok(json(StatusCode::OK, &json!({ "stored": false }))),
        Err(error) => Err(Refused(Box::new(failure(&error)))),
    }
}

fn failure(error: &ImportError) -> Response<AdminBody> {
    let why = error.to_string();
    let status = match error {
        ImportError::Busy => StatusCode::SERVICE_UNAVAILABLE,
        ImportError::Upstream(_) => StatusCode::NOT_FOUND,
        ImportError::Wrong { .. } | ImportError::Broken { .. } | ImportError::TooMany => {
            StatusCode::BAD_REQUEST
        }
        ImportError::Incomplete(missing) => {
            let missing: Vec<String> = missing.iter().map(Digest::to_string).collect();
            let said = json!({ "error": why, "missing": missing });
            return json(StatusCode::CONFLICT, &said);
        }
        ImportError::NotPinned(_) => StatusCode::CONFLICT,
        ImportError::NotStored { room: true, .. } => StatusCode::INSUFFICIENT_STORAGE,
        ImportError::NotStored { room: false, .. } => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refusal(status, &why)
}

fn expect(head: &request::Parts, method: &Method) -> Result<(), Refused> {
    if head.method != *method {
        let why = format!("only {method}");
        return Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, &why));
    }
    unless_deliberate(&head.headers)
}

fn parse(digest: &str) -> Result<Digest, Refused> {
    Digest::parse(digest)
        .map_err(|error| Refused::new(StatusCode::BAD_REQUEST, &format!("{digest:?}: {error}")))
}
