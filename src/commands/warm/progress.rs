//! Output for users: bars on a terminal, lines elsewhere, JSON for scripts.

use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{MultiProgress, ProgressBar};
use serde::Serialize;

use super::report::{Count, ImageReport, Summary};
use crate::commands::output::{self, Output, say_json};
use crate::commands::progress::{Lines, TICK, style};
use crate::format::{self, plural, size};
use crate::oci::ImageName;

/// Shows a run.
#[derive(Debug)]
pub(super) struct Reporter {
    output: Output,
    bars: Option<Bars>,
    /// Instead of bars.
    lines: Option<Lines>,
    images: usize,
    done: AtomicU64,
}

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    /// Images that are done, and the bytes of all, below the others.
    overall: ProgressBar,
    bytes: AtomicU64,
}

/// Shows one image. Dropping it takes its bar away.
#[derive(Debug)]
pub(super) struct ImageProgress<'a> {
    reporter: &'a Reporter,
    bar: Option<ProgressBar>,
}

impl Reporter {
    pub(super) fn new(output: Output, images: usize) -> Self {
        let bars = (output == Output::Human && output::is_watched()).then(|| Bars::new(images));
        Self {
            output,
            bars,
            lines: Lines::new(output),
            images,
            done: AtomicU64::new(0),
        }
    }

    /// An image is begun.
    pub(super) fn image(&self, name: &ImageName) -> ImageProgress<'_> {
        let bar = self.bars.as_ref().map(|bars| bars.image(name));
        ImageProgress {
            reporter: self,
            bar,
        }
    }

    /// All is done.
    pub(super) fn finish(&self, summary: &Summary) {
        if let Some(bars) = &self.bars {
            bars.overall.finish_and_clear();
        }
        match self.output {
            Output::Human => output::say(&summary_line(summary)),
            Output::Json => say_json(&Labelled { summary }),
            Output::Silent => {}
        }
    }

    fn count(&self, bytes: i64) {
        if let Some(lines) = &self.lines {
            let done = self.done.load(Ordering::Relaxed);
            lines.change(
                bytes,
                &format!("{done} of {}", plural(self.images as u64, "image")),
            );
        }
    }

    fn image_done(&self, report: &ImageReport) {
        self.done.fetch_add(1, Ordering::Relaxed);
        match (self.output, &self.bars) {
            (Output::Human, Some(bars)) => {
                bars.overall.inc(1);
                // The bars must stand below what is written.
                bars.all.suspend(|| show_image(report));
            }
            (Output::Human, None) => show_image(report),
            (Output::Json, _) => say_json(report),
            (Output::Silent, _) => {}
        }
    }
}

impl Bars {
    fn new(images: usize) -> Self {
        let all = MultiProgress::new();
        let overall = ProgressBar::new(images as u64).with_style(style(OVERALL));
        let overall = all.add(overall);
        overall.enable_steady_tick(TICK);
        Self {
            all,
            overall,
            bytes: AtomicU64::new(0),
        }
    }

    fn advance(&self, bytes: i64) {
        // Wraps around to less where the number is negative.
        let change = bytes.cast_unsigned();
        let before = self.bytes.fetch_add(change, Ordering::Relaxed);
        let now = size(before.wrapping_add(change));
        self.overall.set_message(now);
    }

    fn image(&self, name: &ImageName) -> ProgressBar {
        let bar = ProgressBar::no_length().with_style(style(BEGINNING));
        let bar = self.all.insert_before(&self.overall, bar);
        bar.set_message(shorten(&name.to_string()));
        bar.enable_steady_tick(TICK);
        bar
    }
}

impl ImageProgress<'_> {
    /// So many bytes are to come.
    pub(super) fn expect(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(bytes);
            bar.set_style(style(IMAGE));
        }
    }

    /// So many bytes came, or (negative) count no more.
    pub(super) fn advance(&self, bytes: i64) {
        self.reporter.count(bytes);
        let Some(bar) = &self.bar else { return };
        if let Some(bars) = &self.reporter.bars {
            bars.advance(bytes);
        }
        if bytes < 0 {
            bar.dec(bytes.unsigned_abs());
        } else {
            bar.inc(bytes.unsigned_abs());
        }
    }

    /// So many bytes were fetched for another image.
    pub(super) fn shared(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    /// The image is done.
    pub(super) fn finish(&self, report: &ImageReport) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.reporter.image_done(report);
    }
}

impl Drop for ImageProgress<'_> {
    fn drop(&mut self) {
        if let (Some(bar), Some(bars)) = (&self.bar, &self.reporter.bars) {
            bars.all.remove(bar);
        }
    }
}

/// A line, and one for each part that is missing.
fn show_image(report: &ImageReport) {
    output::say(&format::harmless(&image_line(report)));
    for missing in &report.missing {
        let (image, what, why) = (&report.image, &missing.what, &missing.why);
        let line = format!("missing: {image}: {what}: {why}");
        output::complain(&format::harmless(&line));
    }
}

fn image_line(report: &ImageReport) -> String {
    let state = if report.is_complete() {
        "ok"
    } else {
        "INCOMPLETE"
    };
    let platforms = match report.platforms.as_slice() {
        [] => String::new(),
        platforms => format!(" ({})", platforms.join(", ")),
    };
    let (image, seconds) = (&report.image, report.seconds);
    let blobs = blobs(&report.blobs);
    format!("{state}  {image}{platforms}: {blobs}, {seconds:.1} s")
}

fn summary_line(summary: &Summary) -> String {
    let incomplete = summary.images - summary.complete;
    let state = match incomplete {
        0 => "all complete".to_owned(),
        some => format!("{some} incomplete"),
    };
    let images = plural(summary.images as u64, "image");
    let blobs = blobs(&summary.blobs);
    let seconds = summary.seconds;
    format!("{images}, {state}; {blobs}; {seconds:.1} s")
}

fn blobs(count: &Count) -> String {
    let all = plural(count.all(), "blob");
    let bytes = size(count.bytes());
    let fetched = format!("{} ({}) fetched", count.fetched, size(count.fetched_bytes));
    let there = format!(
        "{} ({}) already there",
        count.there,
        size(count.there_bytes)
    );
    format!("{all}, {bytes}: {fetched}, {there}")
}

#[derive(Serialize)]
struct Labelled<'a> {
    summary: &'a Summary,
}

/// The end of a long name says more than its beginning.
fn shorten(name: &str) -> String {
    let length = name.chars().count();
    if length <= NAME_CHARS_MAX {
        return name.to_owned();
    }
    let end = name.chars().skip(length - NAME_CHARS_MAX + 1);
    std::iter::once('…').chain(end).collect()
}

/// Fits with the rest of [`IMAGE`] into a terminal of 100 columns.
const NAME_CHARS_MAX: usize = 40;
const IMAGE: &str =
    "{msg:40} [{bar:20}] {decimal_bytes:>9}/{decimal_total_bytes:9} {decimal_bytes_per_sec} {eta}";
/// While its manifests are asked for.
const BEGINNING: &str = "{msg:40} {spinner}";
const OVERALL: &str = "{pos:>25} of {len:4} images [{bar:20}] {msg:>9} {spinner} {elapsed}";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::warm::report::Missing;

    #[test]
    fn lines_say_what_was_fetched_and_what_is_missing() {
        let name = ImageName::parse("alpine:3.20").unwrap();
        let mut report = ImageReport::of(&name);
        report.blobs = Count {
            fetched: 2,
            fetched_bytes: 3_200_000,
            there: 1,
            there_bytes: 800,
        };
        report.platforms = vec!["linux/amd64".to_owned()];
        assert_eq!(
            image_line(&report),
            "ok  docker.io/library/alpine:3.20 (linux/amd64): 3 blobs, 3.2 MB: \
             2 (3.2 MB) fetched, 1 (800 B) already there, 0.0 s"
        );
        report.missing.push(Missing {
            what: "blob".to_owned(),
            why: "404".to_owned(),
        });
        assert!(image_line(&report).starts_with("INCOMPLETE  docker.io/"));
        let summary = Summary {
            images: 3,
            complete: 2,
            blobs: report.blobs,
            seconds: 1.25,
        };
        assert_eq!(
            summary_line(&summary),
            "3 images, 1 incomplete; 3 blobs, 3.2 MB: 2 (3.2 MB) fetched, \
             1 (800 B) already there; 1.2 s"
        );
    }

    #[test]
    fn long_names_lose_their_beginning() {
        assert_eq!(
            shorten("docker.io/library/alpine:3"),
            "docker.io/library/alpine:3"
        );
        let long = shorten(&format!("{}/app:1", "a".repeat(100)));
        assert_eq!(long.chars().count(), NAME_CHARS_MAX);
        assert!(long.starts_with('…') && long.ends_with("/app:1"));
    }
}
