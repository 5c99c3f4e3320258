//! `rm`, `gc`, `pin`, `unpin`.

use std::time::Duration;

use http::Method;
use serde::{Deserialize, Serialize};

use super::arguments::{Collect, Remove};
use super::screen::{Cell, Screen, Table, clean, say, say_json, short, span};
use super::select::{is_pattern, select};
use crate::commands::target::{Target, TargetError};
use crate::format::{plural, size};
use crate::mirror::inspect::{Collected, Kept, PinEntry, Refreshed, Removed};

/// Removes an image, or its whole repository.
pub(super) async fn remove(
    target: &Target,
    arguments: &Remove,
    image: &str,
    total: Option<&mut Total>,
    screen: Screen,
) -> Result<(), TargetError> {
    let flag = |flag| if flag { "true" } else { "false" };
    let parameters = [
        ("image", image),
        ("all", flag(arguments.all)),
        ("dry_run", flag(arguments.dry_run)),
    ];
    let asked = target.ask(Method::DELETE, "/api/v1/images", &parameters);
    let removed: Removed = asked.await?;
    if let Some(total) = total {
        total.images += 1;
        total.removed_blobs += removed.removed_blobs;
        total.freed_bytes += removed.freed_bytes;
    }
    if screen.json {
        say_json(&removed);
        return Ok(());
    }
    if let Some(seconds) = removed.restorable_seconds {
        say(&deleted(&removed, seconds));
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

/// The words for a hosted image that is deleted.
fn deleted(removed: &Removed, seconds: u64) -> String {
    let image = clean(&removed.image);
    let would = if removed.dry_run {
        "would be deleted"
    } else {
        "deleted"
    };
    let within = span(Duration::from_secs(seconds));
    let is_manifest = removed.image.contains('@');
    let tags = clean(&removed.forgotten_tags.join(", "));
    if !is_manifest {
        return format!(
            "{image}: the tag {would}, its manifest stays; `roadstead tag restore {image}` has it back within {within}"
        );
    }
    let tags = match removed.forgotten_tags.len() {
        0 => "no tag names it".to_owned(),
        1 => format!("with its tag {tags}"),
        _ => format!("with its tags {tags}"),
    };
    format!(
        "{image}: the manifest {would}, {tags}; it can be restored within {within} (`roadstead tag restore REPOSITORY:TAG`)"
    )
}

/// The sum of a removal of images that were looked for.
#[derive(Debug, Default, Serialize)]
pub(super) struct Total {
    dry_run: bool,
    images: u64,
    removed_blobs: u64,
    freed_bytes: u64,
    /// Images that were meant, too, and stay.
    pinned_images: u64,
}

impl Total {
    /// Shows it. What several of the images share goes with the last of them, which a dry run does not see.
    pub(super) fn show(&self, screen: Screen) {
        if screen.json {
            say_json(&serde_json::json!({ "summary": self }));
            return;
        }
        let would = if self.dry_run {
            "would free at least"
        } else {
            "freed"
        };
        let pinned = match self.pinned_images {
            0 => String::new(),
            number => format!("; kept {}", plural(number, "pinned image")),
        };
        say(&format!(
            "{would} {}: {}, {}{pinned}",
            size(self.freed_bytes),
            plural(self.images, "image"),
            plural(self.removed_blobs, "blob"),
        ));
    }
}

/// The images that `rm` means, and, where some of them had to be looked for, what is summed up.
pub(super) async fn chosen(
    target: &Target,
    arguments: &Remove,
    screen: Screen,
) -> Result<(Vec<String>, Option<Total>), TargetError> {
    let named = arguments.images.iter().filter(|it| !is_pattern(it));
    let mut images: Vec<String> = named.cloned().collect();
    if images.len() == arguments.images.len() && !arguments.selects() {
        return Ok((images, None));
    }
    let selected = select(target, arguments, screen).await?;
    images.extend(selected.images);
    let total = Total {
        dry_run: arguments.dry_run,
        pinned_images: selected.pinned,
        ..Total::default()
    };
    Ok((images, Some(total)))
}

/// Asks upstream what a tag names now.
pub(super) async fn refresh(
    target: &Target,
    image: &str,
    screen: Screen,
) -> Result<(), TargetError> {
    if !target.is_server() {
        let why =
            "upstream is asked through a server, and none runs: start one, or name it with --admin";
        return Err(TargetError::Directory(why.to_owned()));
    }
    let image = [("image", image)];
    let asked = target.ask(Method::POST, "/api/v1/refresh", &image);
    let refreshed: Refreshed = asked.await?;
    if screen.json {
        say_json(&refreshed);
        return Ok(());
    }
    let said = match (&refreshed.before, &refreshed.digest) {
        (Some(before), Some(now)) if refreshed.moved => {
            format!("moved from {} to {}", short(before), short(now))
        }
        (Some(_), Some(now)) => format!("unchanged, {}", short(now)),
        (None, Some(now)) => format!("new, {}", short(now)),
        (_, None) => "upstream has no such tag any more".to_owned(),
    };
    say(&format!("{}: {said}", clean(&refreshed.image)));
    Ok(())
}

/// Removes what nothing refers to.
pub(super) async fn collect(
    target: &Target,
    arguments: &Collect,
    screen: Screen,
) -> Result<(), TargetError> {
    let flag = if arguments.dry_run { "true" } else { "false" };
    let flag = [("dry_run", flag)];
    let collected: Collected = target.ask(Method::POST, "/api/v1/gc", &flag).await?;
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

/// The blobs that stay, and the reasons.
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
pub(super) async fn pin(target: &Target, image: &str, screen: Screen) -> Result<(), TargetError> {
    changed_pin(target, Method::PUT, image, "pinned", screen).await
}

/// Undoes it.
pub(super) async fn unpin(target: &Target, image: &str, screen: Screen) -> Result<(), TargetError> {
    changed_pin(target, Method::DELETE, image, "not pinned any more", screen).await
}

async fn changed_pin(
    target: &Target,
    method: Method,
    image: &str,
    what: &str,
    screen: Screen,
) -> Result<(), TargetError> {
    let image = [("image", image)];
    let pin: PinEntry = target.ask(method, "/api/v1/pins", &image).await?;
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
pub(super) async fn pins(target: &Target, screen: Screen) -> Result<(), TargetError> {
    #[derive(Deserialize)]
    struct Pins {
        pins: Vec<PinEntry>,
    }
    let Pins { pins } = target.ask(Method::GET, "/api/v1/pins", &[]).await?;
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
