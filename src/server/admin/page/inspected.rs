//! `/images/inspect`: an image's parts, and who shares them.

use super::frame::Frame;
use super::images::presence;
use super::show::{self, Moment, Show};
use crate::mirror::inspect::{
    ConfigFacts, Inspected, Node, NodeKind, Presence, Sharers, TagFreshness, When,
};
use askama::Template;
use std::collections::HashMap;

/// Parts that are shown: an index of a dozen platforms with as many layers each has some hundred.
const NODES_MAX: usize = 1000;

/// Labels that are shown of a config.
const LABELS_MAX: usize = 100;

/// The page.
#[derive(Template)]
#[template(path = "inspected.html")]
pub(super) struct InspectedPage {
    frame: Frame,
    image: String,
    is_pinned: bool,
    tags: Vec<TagRow>,
    nodes: Vec<NodeRow>,
    /// True if there are more.
    is_cut: bool,
    configs: Vec<ConfigBox>,
    /// True if the other repositories are known.
    knows_sharers: bool,
}

struct TagRow {
    short: String,
    digest: String,
    checked: Moment,
    fresh_until: String,
    stale_until: String,
}

struct NodeRow {
    /// The class that indents it.
    depth: usize,
    kind: &'static str,
    short: String,
    digest: String,
    platform: String,
    media_type: String,
    size: String,
    presence: &'static str,
    mark: &'static str,
    shared: String,
}

struct ConfigBox {
    title: String,
    created: String,
    runs: String,
    user: String,
    labels: Vec<(String, String)>,
}

impl InspectedPage {
    /// The page of an image.
    pub(super) fn new(
        frame: Frame,
        image: &Inspected,
        sharers: Option<&HashMap<String, Sharers>>,
        show: Show,
    ) -> Self {
        let mut flat = Vec::new();
        for node in &image.manifests {
            flatten(node, 0, &mut flat);
        }
        let is_cut = flat.len() > NODES_MAX;
        flat.truncate(NODES_MAX);
        let configs = flat.iter().filter_map(|(_, node)| node.config.as_ref());
        let row = |(depth, node): &(usize, &Node)| {
            let shared = sharers.and_then(|it| it.get(&node.digest));
            NodeRow::of(*depth, node, shared, show)
        };
        Self {
            image: image.image.clone(),
            is_pinned: image.pinned,
            tags: image.tags.iter().map(|it| TagRow::of(it, show)).collect(),
            nodes: flat.iter().map(row).collect(),
            is_cut,
            configs: configs.map(ConfigBox::of).collect(),
            knows_sharers: sharers.is_some(),
            frame,
        }
    }
}

/// All parts, each behind the one that names it.
fn flatten<'a>(node: &'a Node, depth: usize, flat: &mut Vec<(usize, &'a Node)>) {
    if flat.len() > NODES_MAX {
        return;
    }
    flat.push((depth, node));
    for part in &node.parts {
        flatten(part, depth + 1, flat);
    }
}

impl TagRow {
    fn of(tag: &TagFreshness, show: Show) -> Self {
        let until = |when: Option<When>| {
            when.map_or_else(|| show.texts().forever.to_owned(), |it| it.to_string())
        };
        Self {
            short: show::digest(&tag.digest),
            digest: tag.digest.clone(),
            checked: show.moment(Some(tag.checked_at)),
            fresh_until: until(tag.fresh_until),
            stale_until: until(tag.stale_until),
        }
    }
}

impl NodeRow {
    fn of(depth: usize, node: &Node, sharers: Option<&Sharers>, show: Show) -> Self {
        let t = show.texts();
        Self {
            depth,
            kind: match node.kind {
                NodeKind::Index => t.index,
                NodeKind::Manifest => t.manifest,
                NodeKind::Config => t.config,
                NodeKind::Layer => t.layer,
            },
            short: show::digest(&node.digest),
            digest: node.digest.clone(),
            platform: node.platform.clone().unwrap_or_default(),
            media_type: node.media_type.clone().unwrap_or_default(),
            size: node.size_bytes.map_or_else(|| "–".to_owned(), show::size),
            presence: presence(node.presence, t),
            mark: match node.presence {
                Presence::Stored => "good",
                Presence::Partial => "warn",
                Presence::Absent => "none",
            },
            shared: sharers.map_or_else(|| "–".to_owned(), |it| shared(it, show)),
        }
    }
}

fn shared(sharers: &Sharers, show: Show) -> String {
    let t = show.texts();
    if sharers.count == 0 {
        return t.nobody_else.to_owned();
    }
    let others = sharers.count - sharers.named.len();
    let named = sharers.named.join(", ");
    match others {
        0 => named,
        others => format!("{named}, +{others} {}", t.and_others),
    }
}

impl ConfigBox {
    fn of(config: &ConfigFacts) -> Self {
        let command = config.entrypoint.iter().chain(&config.cmd);
        let command: Vec<&str> = command.map(String::as_str).collect();
        let labels = config.labels.iter().take(LABELS_MAX);
        Self {
            title: config.platform(),
            created: config.created.clone().unwrap_or_default(),
            runs: command.join(" "),
            user: config.user.clone().unwrap_or_default(),
            labels: labels
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        }
    }
}
