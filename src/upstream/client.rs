//! Requests with the credential of the client that has caused them.
//!
//! It goes to the endpoint alone, never to where that redirects. Its challenge is the client's to answer, and its rate
//! limit is the client's own: neither concerns others.

use http::{HeaderValue, StatusCode};
use tokio::time::Instant;

use super::budget::Share;
use super::request::{Answer, Endpoint, Inner, Landed, Request};
use super::{Challenges, FetchError, status};
use crate::net::OnBehalf;

impl Inner {
    /// The credential of the client that has caused the present request, if the endpoint may be shown it.
    pub(super) fn clients(&self, endpoint: &Endpoint) -> Option<HeaderValue> {
        let shown = endpoint.passes.then(|| OnBehalf::authorization(&self.name));
        shown.flatten()
    }

    /// Asks one endpoint with the credential of a client; once more, when the connection broke before an answer was there.
    ///
    /// # Errors
    /// [`FetchError::Challenged`]: the client is to send another credential.
    pub(super) async fn as_client(
        &self,
        endpoint: &Endpoint,
        credential: &HeaderValue,
        request: &Request<'_>,
        share: Share<'_>,
    ) -> Result<Answer, FetchError> {
        let mut repeated = false;
        loop {
            let landed = endpoint.shown(credential, request, share).await;
            let result = match landed {
                Ok(landed) => self.read(endpoint, request, landed, share.deadline).await,
                Err(error) => Err(error),
            };
            let broken = matches!(result, Err(FetchError::Broken(_)));
            if !broken || std::mem::replace(&mut repeated, true) || !share.registry.repeat() {
                return result;
            }
            self.observer.retry();
        }
    }
}

impl Endpoint {
    /// Sends a request with the credential of a client, and goes where the answers point, without it.
    async fn shown(
        &self,
        credential: &HeaderValue,
        request: &Request<'_>,
        share: Share<'_>,
    ) -> Result<Landed, FetchError> {
        let deadline = share.deadline;
        let began = Instant::now();
        let mut visited = vec![self.url(request)];
        loop {
            let sent = self.send_to(&visited, Some(credential), request, share);
            let (home, response) = sent.await?;
            if home && response.status() == StatusCode::UNAUTHORIZED {
                let challenges = Challenges::of(response.headers());
                status::drain(&self.client, response, deadline).await;
                return Err(FetchError::Challenged(challenges));
            }
            if let Some(landed) = self.land(response, &mut visited, began, deadline).await? {
                return Ok(landed);
            }
        }
    }
}
