//! `health`: whether a server takes requests, for a container without a shell.

use std::time::Duration;

use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};

use super::screen::{Screen, clean, say, say_json};
use crate::commands::client::{AdminClient, Payload};
use crate::commands::target::{Locator, TargetError};

/// The longest wait for the answer: a probe gives up after some seconds itself, and then nobody hears why.
const WAIT_MAX: Duration = Duration::from_secs(4);

/// So much of the answer is read: it is one line.
const ANSWER_BYTES_MAX: usize = 4 * 1024;

/// Asks `/readyz` of the admin listener, and shows what it says on one line. A server that is degraded serves, and is
/// healthy; one that drains is not.
///
/// # Errors
/// [`TargetError`]: it is not healthy, or does not answer.
pub(super) async fn health(place: &Locator, screen: Screen) -> Result<(), TargetError> {
    let Some(admin) = place.admin() else {
        let why = "a server is asked for its health, not a directory: name it with --admin";
        return Err(TargetError::Address(why.to_owned()));
    };
    let client = AdminClient::new(admin).map_err(TargetError::Address)?;
    let not_there = |why: String| TargetError::NotThere {
        admin: admin.to_string(),
        why,
    };
    let asking = async {
        let asked = client.send(Method::GET, "/readyz", Payload::none(), Some(WAIT_MAX));
        let answer = asked.await.map_err(|error| not_there(error.cause()))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| not_there(error.to_string()))?;
        Ok((head.status, body.to_bytes()))
    };
    let asked = tokio::time::timeout(WAIT_MAX, asking).await;
    let late = || not_there(format!("no answer within {} s", WAIT_MAX.as_secs()));
    let (status, body) = asked.unwrap_or_else(|_elapsed| Err(late()))?;
    let said = clean(String::from_utf8_lossy(&body).trim());
    if status != StatusCode::OK {
        return Err(TargetError::Refused {
            status: status.as_u16(),
            message: format!("not ready: {said}"),
        });
    }
    if screen.json {
        say_json(&serde_json::json!({ "health": said }));
    } else {
        say(&said);
    }
    Ok(())
}
