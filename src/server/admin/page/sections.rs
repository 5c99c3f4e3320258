//! The sections of the overview. Each is rendered by itself: into the page, and into the events that keep it live.

use super::charts::Charts;
use super::events::Part;
use super::history::{Step, Window};
use super::rows::{EvictionRow, FillRow, NodeRow, PullRow, UpstreamRow};
use super::show::{self, Show};
use super::texts::Texts;
use crate::mirror::inspect::{CacheStatus, Status, Traffic};
use crate::server::nodes::ClusterReport;
use crate::server::visits::PullEntry;
use crate::telemetry::EvictReason;
use askama::Template;
use std::time::Duration;

/// Recent pulls that are shown.
const PULLS_MAX: usize = 20;

/// Transfers that are shown.
const FILLS_MAX: usize = 50;

/// The state that the overview shows.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) status: Status,
    pub(super) steps: Vec<Step>,
    pub(super) sum: Step,
    pub(super) evicted: Vec<(EvictReason, u64)>,
    pub(super) pulls: Vec<PullEntry>,
    /// The nodes, where this is one of several.
    pub(super) nodes: Option<ClusterReport>,
}

/// All sections, in their order.
pub(super) fn render(facts: &Facts, window: Window, show: Show) -> Vec<Part> {
    let sections: [(&'static str, Result<String, askama::Error>); 7] = [
        ("figures", Figures::of(&facts.status, show).render()),
        (
            "charts",
            Charts::of(&facts.steps, &facts.sum, window, show).render(),
        ),
        ("fills", Fills::of(&facts.status, show).render()),
        ("pulls", Pulls::of(&facts.pulls, show).render()),
        ("upstreams", Upstreams::of(&facts.status, show).render()),
        ("nodes", Nodes::of(facts.nodes.as_ref(), show).render()),
        ("evictions", Evictions::of(facts, show).render()),
    ];
    let sections = sections.into_iter();
    let part = |(id, html): (_, Result<String, _>)| Part {
        id,
        // Writing to a string does not fail.
        html: html.unwrap_or_default(),
    };
    sections.map(part).collect()
}

/// The numbers on top.
#[derive(Template)]
#[template(path = "figures.html")]
struct Figures {
    t: &'static Texts,
    cards: Vec<Card>,
    health: String,
    is_ok: bool,
    up: String,
}

/// A number, and what it is of.
struct Card {
    title: &'static str,
    value: String,
    note: String,
    /// A part of a hundred.
    percent: Option<u64>,
}

impl Figures {
    fn of(status: &Status, show: Show) -> Self {
        let t = show.texts();
        let health = match status.health.split_once(':') {
            None if status.health == "ok" => t.ok.to_owned(),
            None => t.draining.to_owned(),
            Some((_, why)) => format!("{}:{why}", t.degraded),
        };
        let uptime = Duration::from_secs(status.uptime_seconds.unwrap_or_default());
        Self {
            t,
            cards: cards(status, show),
            is_ok: status.health == "ok",
            health,
            up: show.lasted(uptime),
        }
    }
}

fn cards(status: &Status, show: Show) -> Vec<Card> {
    let t = show.texts();
    let (traffic, dedup) = (&status.traffic, &status.dedup);
    let pulls = format!("{} {}", show::count(traffic.pulls), t.of_pulls);
    let saved = format!("{} {}", show::ratio(traffic.byte_hit_ratio), t.of_bytes);
    let fetched = show::size(traffic.upstream_bytes);
    let linked = show::size(dedup.linked_bytes);
    let stored = show::size(dedup.stored_bytes);
    vec![
        Card::new(t.hit_ratio, show::ratio(traffic.hit_ratio), pulls),
        Card::new(t.saved, show::size(traffic.saved_bytes), saved),
        Card::new(
            t.to_clients,
            show::size(traffic.client_bytes),
            format!("{}: {fetched}", t.from_upstreams),
        ),
        Card::cache(&status.cache, show),
        Card::new(
            t.dedup,
            dedup.ratio.map_or("–".to_owned(), |it| format!("{it:.2}")),
            format!("{linked} {} {stored}", t.dedup_of),
        ),
        Card::failures(traffic, show),
    ]
}

impl Card {
    fn new(title: &'static str, value: String, note: String) -> Self {
        Self {
            title,
            value,
            note,
            percent: None,
        }
    }

    fn cache(cache: &CacheStatus, show: Show) -> Self {
        let t = show.texts();
        let max = cache.max_bytes.unwrap_or_default();
        let used = show::size(cache.used_bytes);
        let free = cache.free_bytes;
        let free = free.map_or_else(|| "–".to_owned(), show::size);
        let blobs = show::count(cache.blobs);
        let value = format!("{used} {} {}", t.of, show::size(max));
        let note = format!("{blobs} {}, {free} {}", t.blobs, t.disk_free);
        Self {
            percent: (cache.used_bytes.min(max) * 100).checked_div(max),
            ..Self::new(t.cache, value, note)
        }
    }

    fn failures(traffic: &Traffic, show: Show) -> Self {
        let t = show.texts();
        let kinds = [
            (traffic.not_found, t.not_found),
            (traffic.refused, t.refused),
            (traffic.errors, t.errors),
        ];
        let all = kinds.iter().map(|(count, _)| count).sum();
        let note = kinds.map(|(count, kind)| format!("{} {kind}", show::count(count)));
        Self::new(t.failures, show::count(all), note.join(", "))
    }
}

#[derive(Template)]
#[template(path = "fills.html")]
struct Fills {
    t: &'static Texts,
    rows: Vec<FillRow>,
}

impl Fills {
    fn of(status: &Status, show: Show) -> Self {
        let fills = status.fills.iter().take(FILLS_MAX);
        Self {
            t: show.texts(),
            rows: fills.map(FillRow::of).collect(),
        }
    }
}

#[derive(Template)]
#[template(path = "pulls.html")]
struct Pulls {
    t: &'static Texts,
    rows: Vec<PullRow>,
}

impl Pulls {
    fn of(pulls: &[PullEntry], show: Show) -> Self {
        let pulls = pulls.iter().take(PULLS_MAX);
        Self {
            t: show.texts(),
            rows: pulls.map(|pull| PullRow::of(pull, show)).collect(),
        }
    }
}

#[derive(Template)]
#[template(path = "upstreams.html")]
struct Upstreams {
    t: &'static Texts,
    rows: Vec<UpstreamRow>,
}

impl Upstreams {
    fn of(status: &Status, show: Show) -> Self {
        let upstreams = status.upstreams.iter();
        Self {
            t: show.texts(),
            rows: upstreams.map(|it| UpstreamRow::of(it, show)).collect(),
        }
    }
}

#[derive(Template)]
#[template(path = "nodes.html")]
struct Nodes {
    t: &'static Texts,
    rows: Vec<NodeRow>,
    is_leaving: bool,
}

impl Nodes {
    fn of(report: Option<&ClusterReport>, show: Show) -> Self {
        let members = report.into_iter().flat_map(|it| &it.members);
        Self {
            t: show.texts(),
            rows: members.map(|it| NodeRow::of(it, show)).collect(),
            is_leaving: report.is_some_and(|it| it.is_leaving),
        }
    }
}

#[derive(Template)]
#[template(path = "evictions.html")]
struct Evictions {
    t: &'static Texts,
    rows: Vec<EvictionRow>,
    in_window: String,
}

impl Evictions {
    fn of(facts: &Facts, show: Show) -> Self {
        let evicted = facts.evicted.iter();
        Self {
            t: show.texts(),
            rows: evicted.map(|it| EvictionRow::of(*it, show)).collect(),
            in_window: show::size(facts.sum.evicted_bytes),
        }
    }
}
