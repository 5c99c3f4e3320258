//! Requests that met a connection which was gone.
//!
//! Servers close idle connections, and say which requests of one they have not looked at (RFC 9113 section 6.8);
//! address translators forget connections without a word. None of that is a sign that the server is ill, so the
//! request is sent again, on a connection of its own: the other idle ones are likely gone as well.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{Extensions, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::{CaptureConnection, Connected, capture_connection};
use hyper_util::client::legacy::{Client, Error as ClientError};
use tokio::time::Instant;

use super::causes::causes;
use super::connector::Connector;
use super::sends::Sends;

/// Connections that requests share.
pub(super) type Pool = Client<Connector, Full<Bytes>>;

type Answer = Result<Response<Incoming>, ClientError>;

/// When a connection last gave an answer; it goes along with the connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Answered(Arc<Mutex<Option<Instant>>>);

impl Answered {
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn at(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until when connections have turned out to be gone in silence: what was idle before is not relied on.
#[derive(Debug, Default)]
pub(super) struct Suspicion(Mutex<Option<Instant>>);

impl Suspicion {
    fn raise(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn covers(&self, answered: Instant) -> bool {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| answered <= until)
    }
}

/// Sends a request on a connection of `kept`; once or twice more, each time on a new one of `fresh`, when the
/// connection was gone and `sends` has repeats left. `lost` hears of each time that it was.
pub(super) async fn send(
    kept: &Pool,
    fresh: &Pool,
    suspicion: &Suspicion,
    request: Request<Full<Bytes>>,
    sends: &Sends,
    lost: impl Fn(),
) -> Answer {
    let mut first = request.clone();
    let connection = capture_connection(&mut first);
    let began = Instant::now();
    let answer = pin!(kept.request(first));
    let silence = pin!(silence(
        connection.clone(),
        suspicion,
        began,
        request.method().is_safe()
    ));
    let error = match select(answer, silence).await {
        Either::Left((Ok(response), _)) => {
            // Said to a connection that was idle, just when the request was on its way (RFC 9110 section 15.5.9).
            let closing = response.status() == StatusCode::REQUEST_TIMEOUT;
            if closing
                && mark(&connection).is_some_and(|mark| mark.at().is_some())
                && takes_repeat(sends)
            {
                unusable(&connection);
                lost();
                return again(fresh, request, sends, &lost).await;
            }
            noted(&connection);
            return Ok(response);
        }
        Either::Left((Err(error), _)) => error,
        Either::Right((silence, answer)) => {
            if !takes_repeat(sends) {
                return answer.await.inspect(|_| noted(&connection));
            }
            let second = pin!(again(fresh, request, sends, &lost));
            return match select(answer, second).await {
                Either::Left((Ok(response), _)) => {
                    noted(&connection);
                    Ok(response)
                }
                Either::Left((Err(_), second)) => {
                    lost();
                    second.await
                }
                Either::Right((Ok(response), _)) => {
                    lost();
                    if silence == Silence::Total {
                        suspicion.raise();
                        unusable(&connection);
                    }
                    Ok(response)
                }
                Either::Right((Err(_), answer)) => answer.await,
            };
        }
    };
    unusable(&connection);
    let was_used = mark(&connection).is_some_and(|mark| mark.at().is_some());
    if (unprocessed(&error) || (was_used && broken(&error))) && takes_repeat(sends) {
        lost();
        return again(fresh, request, sends, &lost).await;
    }
    Err(error)
}

/// True if what met a connection that was gone may be sent again; it is, then.
fn takes_repeat(sends: &Sends) -> bool {
    sends.repeat() && sends.take()
}

/// On a connection of its own; once more if that was not processed either.
async fn again(
    fresh: &Pool,
    request: Request<Full<Bytes>>,
    sends: &Sends,
    lost: impl Fn(),
) -> Answer {
    match fresh.request(request.clone()).await {
        Err(error) if unprocessed(&error) && takes_repeat(sends) => {
            lost();
            fresh.request(request).await
        }
        answer => answer,
    }
}

/// The extent of a connection's silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    /// It is there, and answers others.
    Partial,
    /// Nobody hears anything.
    Total,
}

/// Ends when a connection that has given answers before gives none now, and the request may be sent twice.
async fn silence(
    mut connection: CaptureConnection,
    suspicion: &Suspicion,
    began: Instant,
    safe: bool,
) -> Silence {
    let mark = {
        let connected = connection.wait_for_connection_metadata().await;
        connected.as_ref().and_then(mark_of)
    };
    let answered = mark.as_ref().and_then(Answered::at);
    let (Some(mark), Some(answered), true) = (mark, answered, safe) else {
        return std::future::pending().await;
    };
    let patience = if suspicion.covers(answered) {
        SUSPECT_PATIENCE
    } else {
        SILENCE_MAX
    };
    tokio::time::sleep_until(began + patience).await;
    if mark.at().is_none_or(|at| at <= began) {
        return Silence::Total;
    }
    // This answer takes its time, or waits for its turn behind others.
    tokio::time::sleep(SILENCE_MAX).await;
    Silence::Partial
}

/// True if the server, or this side, says that the request was not looked at.
fn unprocessed(error: &ClientError) -> bool {
    causes(error).any(|cause| {
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            return error.is_remote() && (error.is_go_away() || refused);
        }
        cause
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_canceled)
    })
}

/// True if the connection broke before an answer had come.
fn broken(error: &ClientError) -> bool {
    let ours = |cause: &h2::Error| cause.is_library();
    if error.is_connect() || causes(error).any(|cause| cause.downcast_ref().is_some_and(ours)) {
        return false;
    }
    let inner = causes(error).find_map(|cause| cause.downcast_ref::<hyper::Error>());
    inner.is_none_or(|inner| !inner.is_parse() && !inner.is_user())
}

fn noted(connection: &CaptureConnection) {
    if let Some(mark) = mark(connection) {
        mark.note();
    }
}

/// No further request shall be sent on it.
fn unusable(connection: &CaptureConnection) {
    if let Some(connected) = &*connection.connection_metadata() {
        connected.poison();
    }
}

fn mark(connection: &CaptureConnection) -> Option<Answered> {
    connection.connection_metadata().as_ref().and_then(mark_of)
}

fn mark_of(connected: &Connected) -> Option<Answered> {
    let mut extras = Extensions::new();
    connected.get_extras(&mut extras);
    extras.remove()
}

/// The longest time that a connection which has given answers may be silent before the request is also sent on a new
/// one. Registries answer within a second or two.
const SILENCE_MAX: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 3000 });
/// The same where others have turned out to be gone.
const SUSPECT_PATIENCE: Duration = Duration::from_millis(300);
