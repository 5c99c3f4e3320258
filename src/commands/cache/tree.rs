//! `inspect`.

use http::Method;

use super::screen::{Screen, Tone, clean, say, say_json, short};
use crate::commands::target::{Target, TargetError};
use crate::format::size;
use crate::mirror::inspect::{ConfigFacts, Inspected, Node, NodeKind, Presence};

/// Labels shown; the JSON has all.
const LABELS_MAX: usize = 20;

/// Shows an image.
pub(super) async fn inspect(
    target: &Target,
    image: &str,
    screen: Screen,
) -> Result<(), TargetError> {
    let image = [("image", image)];
    let image: Inspected = target.ask(Method::GET, "/api/v1/inspect", &image).await?;
    if screen.json {
        say_json(&image);
        return Ok(());
    }
    let pinned = if image.pinned { "  (pinned)" } else { "" };
    let place = image.place.as_deref().map(clean);
    let place = place.map_or_else(String::new, |place| format!("  ({place})"));
    let name = screen.paint(&clean(&image.image), Tone::Strong);
    say(&format!("{name}{pinned}{place}"));
    for tag in &image.tags {
        let until = match tag.fresh_until {
            None => "fresh for ever".to_owned(),
            Some(until) if until.0 > screen.now => {
                format!(
                    "fresh for {}",
                    screen.ago(Some(until)).trim_start_matches("in ")
                )
            }
            Some(until) => format!("stale since {}", screen.ago(Some(until))),
        };
        let stale = match tag.stale_until {
            None if tag.fresh_until.is_some() => ", served on if upstream fails".to_owned(),
            None => String::new(),
            Some(until) if until.0 > screen.now => {
                format!(", served on if upstream fails: until {until}")
            }
            Some(_) => ", too old to be served".to_owned(),
        };
        say(&format!(
            "tag     {} said {}; {until}{stale}",
            short(&tag.digest),
            screen.ago(Some(tag.checked_at)),
        ));
    }
    for manifest in &image.manifests {
        show(manifest, 0, screen);
    }
    Ok(())
}

fn show(node: &Node, depth: usize, screen: Screen) {
    let kind = match node.kind {
        NodeKind::Index => "index",
        NodeKind::Manifest => "manifest",
        NodeKind::Config => "config",
        NodeKind::Layer => "layer",
    };
    let state = match node.presence {
        Presence::Stored => "stored".to_owned(),
        Presence::Partial => {
            screen.paint(&format!("{} there", size(node.stored_bytes)), Tone::Weak)
        }
        Presence::Absent if node.foreign => "kept by its maker".to_owned(),
        Presence::Absent => screen.paint("not there", Tone::Bad),
    };
    let bytes = node.size_bytes.map_or_else(|| "?".to_owned(), size);
    let platform = node.platform.as_deref().map(clean);
    let platform = platform.map_or_else(String::new, |it| format!("  {it}"));
    let media_type = clean(node.media_type.as_deref().unwrap_or("-"));
    let indent = "  ".repeat(depth);
    let kind = format!("{indent}{kind}");
    say(&format!(
        "{kind:<16}{}  {bytes:>9}  {state}{platform}  {media_type}",
        short(&node.digest)
    ));
    if let Some(config) = &node.config {
        show_config(config, &" ".repeat(indent.len() + 4));
    }
    for part in &node.parts {
        show(part, depth + 1, screen);
    }
}

fn show_config(config: &ConfigFacts, indent: &str) {
    let line = |name: &str, value: &str| {
        say(&format!("{indent}{name:<12}{}", clean(value)));
    };
    if let Some(created) = &config.created {
        line("created", created);
    }
    if !config.entrypoint.is_empty() {
        line("entrypoint", &words(&config.entrypoint));
    }
    if !config.cmd.is_empty() {
        line("cmd", &words(&config.cmd));
    }
    if let Some(user) = &config.user {
        line("user", user);
    }
    if let Some(dir) = &config.working_dir {
        line("directory", dir);
    }
    for (name, value) in config.labels.iter().take(LABELS_MAX) {
        line("label", &format!("{name}={value}"));
    }
    let more = config.labels.len().saturating_sub(LABELS_MAX);
    if more > 0 {
        line("label", &format!("and {more} more"));
    }
}

/// As the config has them: where one word ends and the next begins matters.
fn words(words: &[String]) -> String {
    serde_json::to_string(words).unwrap_or_default()
}
