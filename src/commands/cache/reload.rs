//! `reload`: a server reads its configuration again.

use http::Method;

use super::screen::{Screen, clean, say, say_json};
use crate::commands::output;
use crate::commands::target::{Target, TargetError};
use crate::server::{KeyChange, Reloaded};

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
        say(&shown(change));
    }
    if !reloaded.after_restart.is_empty() {
        say("after a restart only:");
    }
    for change in &reloaded.after_restart {
        say(&format!("  {}", shown(change)));
    }
    Ok(())
}

fn shown(change: &KeyChange) -> String {
    let key = clean(&change.key);
    let (before, now) = (change.before.as_deref(), change.now.as_deref());
    match (before.map(clean), now.map(clean)) {
        (Some(before), Some(now)) => format!("{key}: {before} -> {now}"),
        (None, Some(now)) => format!("{key}: now {now}"),
        (Some(before), None) => format!("{key}: no longer {before}"),
        (None, None) => format!("{key}: changed"),
    }
}
