//! `/v2/`, where clients take their challenges from.

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Request, StatusCode};
use http_body_util::Full;

use super::budget::{Budget, Share};
use super::request::{Endpoint, Inner};
use super::{Challenges, FetchError, Upstream, redirect, status};
use crate::net::{Named, Way};
use crate::telemetry::Kind;

impl Upstream {
    /// Asks the first endpoint that answers whether it is content with the credential of the client that has caused the
    /// request, or with none. No redirect is followed.
    ///
    /// # Errors
    /// [`FetchError::Challenged`] where it wants another one.
    pub async fn ping(&self) -> Result<(), FetchError> {
        let inner = &self.inner;
        let logins = inner.endpoints.iter().map(|it| it.accounts.len());
        let budget = Budget::new(inner.header_timeout, logins);
        let _turn = inner.turns.turn(budget.deadline()).await?;
        let order = self.endpoints();
        let mut left = order.len();
        let mut last = FetchError::Connect("no endpoint".to_owned());
        for id in order {
            let share = budget.share(id, left);
            left = left.saturating_sub(1);
            let (Some(endpoint), Some(share)) = (inner.endpoints.get(id.0), share) else {
                continue;
            };
            match ping_one(inner, endpoint, share).await {
                Ok(()) => return Ok(()),
                Err(error @ FetchError::Challenged(_)) => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

async fn ping_one(inner: &Inner, endpoint: &Endpoint, share: Share<'_>) -> Result<(), FetchError> {
    let mut url = endpoint.base.clone();
    let prefix = endpoint.base.path().trim_end_matches('/');
    url.set_path(&format!("{prefix}/v2/"));
    let mut message = Request::new(Full::new(Bytes::new()));
    *message.uri_mut() = redirect::uri(&url)?;
    message.headers_mut().extend(endpoint.headers.clone());
    message.extensions_mut().insert(Named::Endpoint);
    if let Some(credential) = inner.clients(endpoint) {
        message.headers_mut().insert(AUTHORIZATION, credential);
    }
    let (client, deadline) = (&endpoint.client, share.deadline);
    let way = Way::Lane(0);
    let sent = client.send_from(share.registry, Kind::Other, message, deadline, way);
    let response = sent.await?;
    match response.status() {
        StatusCode::OK => {
            status::drain(client, response, deadline).await;
            Ok(())
        }
        StatusCode::UNAUTHORIZED => {
            let challenges = Challenges::of(response.headers());
            status::drain(client, response, deadline).await;
            Err(FetchError::Challenged(challenges))
        }
        _ => Err(status::refusal(client, response, true, deadline).await),
    }
}
