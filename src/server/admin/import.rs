//! `/api/v1/import/…`: an image brought by hand.
//!
//! | request | what |
//! | --- | --- |
//! | `GET blobs/DIGEST`, `HEAD` | whether a blob or manifest is there already: 200 or 404 |
//! | `PUT blobs/DIGEST` | a blob, its length announced: 201, or 200 when it was there |
//! | `PUT manifests/DIGEST` | a manifest or index, with its `Content-Type`: likewise |
//! | `POST images?name=NAME&digest=DIGEST` | gives what was brought its name, if all of it is there: 200, or 409 and what is missing; with `&pin=true` it is pinned as well |

use futures_util::StreamExt as _;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header, request};
use http_body_util::BodyDataStream;
use hyper::body::{Body as _, Incoming};
use serde_json::json;

use super::answer::{AdminBody, json};
use super::error::AdminError;
use super::query::Query;
use crate::mirror::{ImportError, ImportOutcome, Mirror};
use crate::oci::manifest::MANIFEST_BYTES_MAX;
use crate::oci::{Digest, ImageName};
use crate::server::http::whole::{throw_away, whole};

/// The beginning of the paths.
pub(crate) const PREFIX: &str = "/api/v1/import/";

/// The longest time that a manifest may take to come: far longer than a few megabytes do.
const MANIFEST_WAIT_MAX: Duration = Duration::from_mins(1);

/// The longest time that the rest of a refused body is taken and thrown away: from this machine, some gigabytes.
const LINGER_MAX: Duration = Duration::from_secs(10);

type Answer = Result<Response<AdminBody>, AdminError>;

/// Answers a request for one of the paths.
pub(crate) async fn answer(mirror: &Mirror, request: Request<Incoming>) -> Response<AdminBody> {
    let (head, mut body) = request.into_parts();
    let announced = body.size_hint().lower();
    let path = head.uri.path().strip_prefix(PREFIX).unwrap_or_default();
    let answered = match (path.split_once('/'), &head.method) {
        (Some(("blobs", digest)), &Method::GET | &Method::HEAD) => is_there(mirror, digest).await,
        (Some(("blobs", digest)), &Method::PUT) => Box::pin(blob(mirror, &mut body, digest)).await,
        (Some(("manifests", digest)), &Method::PUT) => {
            Box::pin(manifest(mirror, &head, &mut body, digest)).await
        }
        (None, &Method::POST) if path == "images" => image(mirror, &head).await,
        (Some(("blobs", _)), _) => Err(AdminError::method("GET, HEAD, PUT")),
        (Some(("manifests", _)), _) => Err(AdminError::method("PUT")),
        (None, _) if path == "images" => Err(AdminError::method("POST")),
        (Some(_) | None, _) => {
            let why = "there is no such path";
            Err(AdminError::new(StatusCode::NOT_FOUND, why))
        }
    };
    throw_away(&mut body, &head.headers, announced, u64::MAX, LINGER_MAX).await;
    answered.unwrap_or_else(AdminError::into_response)
}

async fn is_there(mirror: &Mirror, digest: &str) -> Answer {
    match mirror.operator().imports().size_of(&parse(digest)?).await {
        Some(size) => Ok(json(StatusCode::OK, &json!({ "size": size }))),
        None => Err(AdminError::new(StatusCode::NOT_FOUND, "it is not there")),
    }
}

async fn blob(mirror: &Mirror, body: &mut Incoming, digest: &str) -> Answer {
    let digest = parse(digest)?;
    let Some(size) = body.size_hint().exact() else {
        let why = "a blob's length must be announced";
        return Err(AdminError::new(StatusCode::LENGTH_REQUIRED, why));
    };
    let body = BodyDataStream::new(body);
    let mut body = body.map(|data| data.map_err(|error| format!("the body broke off: {error}")));
    answer_to(Box::pin(mirror.operator().imports().blob(&digest, size, &mut body)).await)
}

async fn manifest(
    mirror: &Mirror,
    head: &request::Parts,
    body: &mut Incoming,
    digest: &str,
) -> Answer {
    let digest = parse(digest)?;
    let body = whole(body, MANIFEST_BYTES_MAX, MANIFEST_WAIT_MAX).await?;
    let content_type = head.headers.get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let taken = mirror
        .operator()
        .imports()
        .manifest(&digest, content_type, body);
    answer_to(taken.await)
}

async fn image(mirror: &Mirror, head: &request::Parts) -> Answer {
    let mut query = Query::parse(head.uri.query().unwrap_or_default());
    let (name, digest, pin) = (
        query.need("name")?,
        query.need("digest")?,
        query.flag("pin")?,
    );
    query.end()?;
    let name = ImageName::parse(&name)
        .map_err(|error| AdminError::bad(format!("image {name:?}: {error}")))?;
    let digest = parse(&digest)?;
    let image = mirror.operator().imports().image(&name, &digest, pin).await;
    let image = image?;
    let said = json!({
        "image": name.to_string(), "digest": digest.to_string(),
        "manifests": image.manifests, "blobs": image.blobs, "absent": image.absent, "pinned": pin,
    });
    Ok(json(StatusCode::OK, &said))
}

fn answer_to(imported: Result<ImportOutcome, ImportError>) -> Answer {
    match imported {
        Ok(ImportOutcome::Stored) => Ok(json(StatusCode::CREATED, &json!({ "stored": true }))),
        Ok(ImportOutcome::There) => Ok(json(StatusCode::OK, &json!({ "stored": false }))),
        Err(error) => Err(error.into()),
    }
}

fn parse(digest: &str) -> Result<Digest, AdminError> {
    Digest::parse(digest).map_err(|error| AdminError::bad(format!("{digest:?}: {error}")))
}
