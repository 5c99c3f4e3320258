//! The charts of the overview.

use super::chart::{area, largest, line};
use super::history::{Step, Window};
use super::show::{self, Show};
use super::texts::Texts;
use askama::Template;
use std::time::Duration;

/// The charts.
#[derive(Template)]
#[template(path = "charts.html")]
pub(super) struct Charts {
    t: &'static Texts,
    windows: Vec<WindowLink>,
    drawn: Vec<Chart>,
    /// Time since the oldest sample.
    since: String,
}

/// The way to another window.
struct WindowLink {
    name: &'static str,
    title: &'static str,
    is_current: bool,
}

/// A chart, as paths of SVG.
struct Chart {
    title: &'static str,
    /// The newest value, in words.
    now: String,
    max: String,
    /// A path that is filled, and one that is not.
    area: String,
    line: String,
}

impl Charts {
    /// The charts of a window's steps.
    pub(super) fn of(steps: &[Step], sum: &Step, window: Window, show: Show) -> Self {
        let t = show.texts();
        let link = |it: Window| WindowLink {
            name: it.name(),
            title: match it {
                Window::Hour => t.hour,
                Window::Week => t.week,
            },
            is_current: it == window,
        };
        let drawn = if steps.is_empty() {
            Vec::new()
        } else {
            vec![
                ratio(steps, sum, show),
                bytes(steps, sum, show),
                cache(steps, show),
            ]
        };
        Self {
            t,
            windows: Window::ALL.map(link).into(),
            drawn,
            since: show.lasted(sum.lasted),
        }
    }
}

fn ratio(steps: &[Step], sum: &Step, show: Show) -> Chart {
    let t = show.texts();
    let ratios: Vec<Option<f64>> = steps.iter().map(|it| part(it.hits, it.pulls)).collect();
    let now = part(sum.hits, sum.pulls).map_or_else(
        || t.no_pulls_in_window.to_owned(),
        |ratio| show::ratio(Some(ratio)),
    );
    Chart {
        title: t.chart_ratio,
        now,
        max: show::ratio(Some(1.0)),
        area: String::new(),
        line: line(&ratios, 1.0),
    }
}

fn bytes(steps: &[Step], sum: &Step, show: Show) -> Chart {
    let t = show.texts();
    let rates = |bytes: fn(&Step) -> u64| -> Vec<f64> {
        steps.iter().map(|it| rate(bytes(it), it.lasted)).collect()
    };
    let to_clients = rates(|it| it.client_bytes);
    let from_upstreams = rates(|it| it.upstream_bytes);
    let max = largest(to_clients.iter().chain(&from_upstreams).copied());
    let fetched: Vec<Option<f64>> = from_upstreams.into_iter().map(Some).collect();
    let saved = sum.client_bytes.saturating_sub(sum.upstream_bytes);
    Chart {
        title: t.chart_bytes,
        now: format!("{} {}", show::size(saved), t.saved_in_window),
        max: format!("{}/s", show::size(whole(max))),
        area: area(&to_clients, max),
        line: line(&fetched, max),
    }
}

fn cache(steps: &[Step], show: Show) -> Chart {
    #[expect(clippy::cast_precision_loss, reason = "a line for people")]
    let used: Vec<f64> = steps.iter().map(|it| it.used_bytes as f64).collect();
    let max = largest(used.iter().copied());
    let now = steps.last().map_or(0, |it| it.used_bytes);
    Chart {
        title: show.texts().chart_cache,
        now: show::size(now),
        max: show::size(whole(max)),
        area: area(&used, max),
        line: String::new(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn part(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn rate(bytes: u64, lasted: Duration) -> f64 {
    let seconds = lasted.as_secs_f64();
    if seconds > 0.0 {
        bytes as f64 / seconds
    } else {
        0.0
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number for people, of bytes that were counted"
)]
fn whole(value: f64) -> u64 {
    value as u64
}
