//! `rm`, `gc`, `pin`, `unpin`.

use http::Method;
use serde::Deserialize;

use super::arguments::{Collect, Remove};
use super::reach::{ReachError, Reached};
use super::screen::{Cell, Screen, Table, clean, say, say_json};
use super::{ask, target};
use crate::format::{plural, size};
use crate::mirror::inspect::{Collected, Kept, PinEntry, Removed};

/// Removes an image, or its whole repository.
pub(super) async fn remove(
    reached: &Reached,
    arguments: &Remove,
    image: &str,
    screen: Screen,
) -> Result<(), ReachError> {
    let flag = |flag| if flag { "true" } else { "false" };
    let parameters = [
        ("image", image),
        ("all", flag(arguments.all)),
        ("dry_run", flag(arguments.dry_run)),
    ];
    let target = target("/api/v1/images", &parameters);
    let removed: Removed = ask(reached, Method::DELETE, &target).await?;
    if screen.json {
        say_json(&removed);
        return Ok(());
    }
    let would = if removed.dry_run {
        "would free"
    } else {
        "freed"
    };
    let tags = match removed.forgotten_tags.len() {
        0 => String::new(),
        tags => format!(", {} forgotten", plural(tags as u64, "tag")),
    };
    say(&format!(
        "{}: {would} {} ({}{tags}){}",
        clean(&removed.image),
        size(removed.freed_bytes),
        plural(removed.removed_blobs, "blob"),
        kept(&removed.kept, "that other images have"),
    ));
    Ok(())
}

/// Removes what nothing refers to.
pub(super) async fn collect(
    reached: &Reached,
    arguments: &Collect,
    screen: Screen,
) -> Result<(), ReachError> {
    let flag = if arguments.dry_run { "true" } else { "false" };
    let target = target("/api/v1/gc", &[("dry_run", flag)]);
    let collected: Collected = ask(reached, Method::POST, &target).await?;
    if screen.json {
        say_json(&collected);
        return Ok(());
    }
    let would = if collected.dry_run {
        "would free"
    } else {
        "freed"
    };
    say(&format!(
        "{would} {}: {} that no manifest refers to{}",
        size(collected.freed_bytes),
        plural(collected.removed_blobs, "blob"),
        kept(&collected.kept, "that were used a moment ago"),
    ));
    say(&format!(
        "stale records: {}, {}, {}, {}",
        plural(collected.stale_tags, "tag"),
        plural(collected.stale_links, "link"),
        plural(collected.stale_media_types, "media type"),
        match collected.empty_repositories {
            1 => "1 repository".to_owned(),
            number => format!("{number} repositories"),
        },
    ));
    Ok(())
}

/// What stays, and why.
fn kept(kept: &Kept, shared: &str) -> String {
    let reasons = [
        (kept.shared_blobs, shared),
        (kept.open_blobs, "that are being read"),
        (kept.pinned_blobs, "of pinned images"),
    ];
    let told = reasons.iter().filter(|(blobs, _)| *blobs > 0);
    let told: Vec<String> = told
        .map(|(blobs, why)| format!("{} {why}", plural(*blobs, "blob")))
        .collect();
    if told.is_empty() {
        return String::new();
    }
    format!("; kept {}", told.join(", "))
}

/// Pins an image.
pub(super) async fn pin(reached: &Reached, image: &str, screen: Screen) -> Result<(), ReachError> {
    changed_pin(reached, Method::PUT, image, "pinned", screen).await
}

/// Undoes it.
pub(super) async fn unpin(
    reached: &Reached,
    image: &str,
    screen: Screen,
) -> Result<(), ReachError> {
    changed_pin(
        reached,
        Method::DELETE,
        image,
        "not pinned any more",
        screen,
    )
    .await
}

async fn changed_pin(
    reached: &Reached,
    method: Method,
    image: &str,
    what: &str,
    screen: Screen,
) -> Result<(), ReachError> {
    let target = target("/api/v1/pins", &[("image", image)]);
    let pin: PinEntry = ask(reached, method, &target).await?;
    if screen.json {
        say_json(&pin);
        return Ok(());
    }
    say(&format!(
        "{}: {what}; {} of {} stored, {}",
        clean(&pin.image),
        pin.stored_blobs,
        plural(pin.blobs, "blob"),
        size(pin.stored_bytes),
    ));
    Ok(())
}

/// Lists the pinned images.
pub(super) async fn pins(reached: &Reached, screen: Screen) -> Result<(), ReachError> {
    #[derive(Deserialize)]
    struct Pins {
        pins: Vec<PinEntry>,
    }
    let Pins { pins } = ask(reached, Method::GET, "/api/v1/pins").await?;
    let head = ["PINNED IMAGE", ">STORED", ">BLOBS", ">OF", "SINCE", "BY"];
    let mut table = Table::new(screen, &head);
    for pin in &pins {
        if screen.json {
            say_json(pin);
            continue;
        }
        let row: Vec<Cell> = vec![
            pin.image.as_str().into(),
            size(pin.stored_bytes).into(),
            pin.stored_blobs.to_string().into(),
            pin.blobs.to_string().into(),
            screen.ago(Some(pin.since)).into(),
            if pin.by_rule { "a rule" } else { "hand" }.into(),
        ];
        table.row(row);
    }
    Ok(())
}
