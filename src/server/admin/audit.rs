//! `POST /api/v1/verify`: looks at what is stored, and tells of it as it goes, an object on a line
//! ([`VerifyEvent`]). `repair=true` has what is damaged set aside and fetched again; `image=NAME`, any number
//! of them, restricts it to what these need.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Method, Response, StatusCode, header, request};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::AdminBody;
use super::error::AdminError;
use super::query::Query;
use crate::hosted::Hosted;
use crate::mirror::{Mirror, VERIFY_IMAGES_MAX, VerifyEvent};
use crate::oci::ImageName;
use crate::server::verification::verify;

/// The path.
pub(crate) const PATH: &str = "/api/v1/verify";

/// While a blob is fetched again there is nothing to tell; an empty line shows that somebody is there.
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(10);

/// What is looked at, and by whom.
pub(super) struct Stores<'a> {
    pub(super) mirror: &'a Mirror,
    pub(super) hosted: Option<&'a Hosted>,
    pub(super) tasks: &'a TaskTracker,
    pub(super) stop: &'a CancellationToken,
}

/// Answers a request for the path.
pub(super) fn answer(stores: &Stores<'_>, request: &request::Parts) -> Response<AdminBody> {
    match begin(stores, request) {
        Ok(events) => lines(events),
        Err(error) => error.into_response(),
    }
}

fn begin(
    stores: &Stores<'_>,
    request: &request::Parts,
) -> Result<mpsc::Receiver<VerifyEvent>, AdminError> {
    if request.method != Method::POST {
        return Err(AdminError::method("POST"));
    }
    let mut query = Query::parse(request.uri.query().unwrap_or_default());
    let (names, repair) = (query.take_all("image"), query.flag("repair")?);
    query.end()?;
    if names.len() > VERIFY_IMAGES_MAX {
        return Err(AdminError::bad(format!(
            "more than {VERIFY_IMAGES_MAX} images"
        )));
    }
    let images = names.iter().map(|name| {
        ImageName::parse(name).map_err(|error| AdminError::bad(format!("image {name:?}: {error}")))
    });
    let images = images.collect::<Result<Vec<_>, _>>()?;
    let Stores {
        mirror,
        hosted,
        tasks,
        stop,
    } = stores;
    let begun = verify(mirror, *hosted, images, repair, tasks, stop);
    begun.map_err(|busy| AdminError::new(StatusCode::CONFLICT, busy.to_string()))
}

/// A line for each event. When the client goes, the run ends.
fn lines(events: mpsc::Receiver<VerifyEvent>) -> Response<AdminBody> {
    let lines = stream::unfold(events, |mut events| async move {
        let line = match tokio::time::timeout(SIGN_OF_LIFE_EVERY, events.recv()).await {
            Ok(Some(event)) => {
                let mut line = serde_json::to_vec(&event).unwrap_or_default();
                line.push(b'\n');
                Bytes::from(line)
            }
            Ok(None) => return None,
            Err(_elapsed) => Bytes::from_static(b"\n"),
        };
        Some((Ok::<_, Infallible>(Frame::data(line)), events))
    });
    let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
