//! `reload`: a server reads its configuration again.

use http::Method;
use serde::{Deserialize, Serialize};

use super::screen::{Screen, clean, say, say_json};
use crate::commands::output;
use crate::commands::target::{Target, TargetError};

/// The server's answer.
#[derive(Debug, Deserialize, Serialize)]
struct Reloaded {
    applied: Vec<KeyChange>,
    after_restart: Vec<KeyChange>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct KeyChange {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<String>,
}

/// Asks for it, and shows the difference.
///
/// # Errors
/// [`TargetError`]: the configuration has errors, which are in the message, and the server goes on with the one before.
pub(super) async fn reload(target: &Target, screen: Screen) -> Result<(), TargetError> {
    let reloaded: Reloaded = target.ask(Method::POST, "/api/v1/reload", &[]).await?;
    if screen.json {
        say_json(&reloaded);
        return Ok(());
    }
    for note in &reloaded.notes {
        output::note(&format!("warning: {}", clean(note)));
    }
    if reloaded.applied.is_empty() && reloaded.after_restart.is_empty() {
        say("nothing has changed");
    }
    for change in &reloaded.applied {
        say(&change.shown());
    }
    if !reloaded.after_restart.is_empty() {
        say("after a restart only:");
    }
    for change in &reloaded.after_restart {
        say(&format!("  {}", change.shown()));
    }
    Ok(())
}

impl KeyChange {
    fn shown(&self) -> String {
        let key = clean(&self.key);
        let (before, now) = (self.before.as_deref(), self.now.as_deref());
        match (before.map(clean), now.map(clean)) {
            (Some(before), Some(now)) => format!("{key}: {before} -> {now}"),
            (None, Some(now)) => format!("{key}: now {now}"),
            (Some(before), None) => format!("{key}: no longer {before}"),
            (None, None) => format!("{key}: changed"),
        }
    }
}
