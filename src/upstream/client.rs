//! Requests with the credential of the client that has caused them.
//!
//! It goes to the endpoint alone, never to where that redirects. Its challenge is the client's to answer, and its rate
//! limit is the client's own: neither concerns others.

use http::{HeaderValue, StatusCode};
use tokio::time::Instant;

use super::budget::Share;
use super::request::{Answer, Endpoint, Inner, Landed, Request};
use super::{Challenges, FetchError, redirect, status};
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
        let (client, deadline) = (&self.client, share.deadline);
        let began = Instant::now();
        let mut visited = vec![self.url(request)];
        loop {
            let current = visited.last().unwrap_or(&self.base);
            let home = self.is_home(current);
            let mut message = request.message(current, home.then_some(credential))?;
            if home {
                message.headers_mut().extend(self.headers.clone());
            }
            let way = request.way(home);
            let sent = client.send_from(share.registry, request.kind, message, deadline, way);
            let response = sent.await?;
            if home && response.status() == StatusCode::UNAUTHORIZED {
                let challenges = Challenges::of(response.headers());
                status::drain(client, response, deadline).await;
                return Err(FetchError::Challenged(challenges));
            }
            let (status, headers) = (response.status(), response.headers());
            let Some(next) = redirect::target(status, headers, &visited, &self.base)? else {
                return Ok(Landed {
                    home,
                    host: current.authority().to_owned(),
                    took: began.elapsed(),
                    response,
                });
            };
            status::drain(client, response, deadline).await;
            visited.push(next);
        }
    }
}
