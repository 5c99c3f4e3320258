//! A look at each endpoint: does it answer at `/v2/`, and does it take the logins that are configured for it. For
//! `doctor`: nothing is decided by it, and no rule of failover applies.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::join_all;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::time::Instant;

use super::budget::{Budget, Share};
use super::rate_limit::RateLimitHeaders;
use super::request::{Account, Endpoint};
use super::{FetchError, Upstream, redirect, status};
use crate::clock::{Clock, Timestamp};
use crate::net::Way;
use crate::telemetry::Kind;

/// The findings at one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointProbe {
    /// Its host and port.
    pub host: String,
    /// Its answer at `/v2/` to a request without a login.
    pub answer: Result<ProbeAnswer, FetchError>,
    /// Its logins, in the order of the configuration; none where it is used anonymously, or does not answer.
    pub logins: Vec<LoginProbe>,
}

/// The answer at `/v2/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// The status: 200, or 401 where the registry asks who pulls.
    pub status: u16,
    /// The difference between its clock and this machine's, if it says the time: how far it is ahead, in seconds.
    pub ahead_seconds: Option<i64>,
    /// The time until its answer began.
    pub took: Duration,
    /// The pulls that a window allows, and those that are left, where it says so here.
    pub allowance: Option<(Option<u64>, u64)>,
}

/// The fate of one login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginProbe {
    /// The registry took it.
    Taken,
    /// The registry gives everybody the same answer, so that it was not asked for.
    NotAsked,
    /// It cannot be had, or is refused.
    Refused(FetchError),
}

impl Upstream {
    /// Asks every endpoint at `/v2/`, all at once: without a login, and with each of those that it has. No redirect is
    /// followed.
    pub async fn probe(&self, clock: &dyn Clock) -> Vec<EndpointProbe> {
        let inner = &self.inner;
        let logins = inner.endpoints.iter().map(|it| it.accounts.len());
        let budget = Budget::new(inner.header_timeout, logins);
        let probes = inner.endpoints.iter().map(|endpoint| {
            let share = budget.share(endpoint.id, 1);
            async move {
                let host = inner.observer.host(endpoint.id).to_owned();
                match share {
                    Some(share) => endpoint.probe(host, share, clock).await,
                    None => EndpointProbe {
                        host,
                        answer: Err(FetchError::Connect("no such endpoint".to_owned())),
                        logins: Vec::new(),
                    },
                }
            }
        });
        join_all(probes).await
    }
}

impl Endpoint {
    async fn probe(&self, host: String, share: Share<'_>, clock: &dyn Clock) -> EndpointProbe {
        let began = Instant::now();
        let seen = self.ask_base(None, share).await;
        let (status, headers) = match seen {
            Ok(seen) => seen,
            Err(error) => {
                return EndpointProbe {
                    host,
                    answer: Err(error),
                    logins: Vec::new(),
                };
            }
        };
        let limits = RateLimitHeaders::read(&headers);
        let answer = ProbeAnswer {
            status: status.as_u16(),
            ahead_seconds: status::date(&headers).map(|date| ahead(date, clock.now())),
            took: began.elapsed(),
            allowance: limits.remaining.map(|left| (limits.limit, left)),
        };
        let with_login = self.accounts.iter().filter(|it| it.auth.has_login());
        let logins = with_login.map(|account| self.probe_login(account, status, &headers, share));
        EndpointProbe {
            host,
            answer: Ok(answer),
            logins: join_all(logins).await,
        }
    }

    async fn probe_login(
        &self,
        account: &Account,
        status: StatusCode,
        headers: &HeaderMap,
        share: Share<'_>,
    ) -> LoginProbe {
        if status != StatusCode::UNAUTHORIZED {
            return LoginProbe::NotAsked;
        }
        let authorization = account.auth.at_base(self, headers, share).await;
        let header = match authorization {
            Ok(header) => header,
            Err(error) => return LoginProbe::Refused(error),
        };
        match self.ask_base(Some(header), share).await {
            Ok((StatusCode::UNAUTHORIZED, _)) => LoginProbe::Refused(FetchError::Unauthorized),
            Ok(_) => LoginProbe::Taken,
            Err(error) => LoginProbe::Refused(error),
        }
    }

    /// The status and the headers at `/v2/`: of a success or a challenge.
    async fn ask_base(
        &self,
        authorization: Option<HeaderValue>,
        share: Share<'_>,
    ) -> Result<(StatusCode, HeaderMap), FetchError> {
        let mut url = self.base.clone();
        let prefix = self.base.path().trim_end_matches('/');
        url.set_path(&format!("{prefix}/v2/"));
        let mut message = Request::new(Full::new(Bytes::new()));
        *message.uri_mut() = redirect::uri(&url)?;
        message.headers_mut().extend(self.headers.clone());
        if let Some(authorization) = authorization {
            message.headers_mut().insert(AUTHORIZATION, authorization);
        }
        let (client, deadline) = (&self.client, share.deadline);
        let way = Way::Lane(0);
        let sent = client.send_from(share.registry, Kind::Other, message, deadline, way);
        let response = sent.await?;
        match response.status() {
            status @ (StatusCode::OK | StatusCode::UNAUTHORIZED) => {
                let headers = response.headers().clone();
                status::drain(client, response, deadline).await;
                Ok((status, headers))
            }
            _ => Err(status::refusal(client, response, true, deadline).await),
        }
    }
}

/// Seconds that a clock is ahead of ours.
fn ahead(theirs: SystemTime, ours: Timestamp) -> i64 {
    let theirs = theirs.duration_since(UNIX_EPOCH).unwrap_or_default();
    let signed = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    signed(theirs.as_secs()).saturating_sub(signed(ours.0 / 1000))
}
