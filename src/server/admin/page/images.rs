//! `/images`: what the cache has.

use super::frame::Frame;
use super::show::{self, Moment, Show};
use super::texts::Texts;
use crate::mirror::inspect::{ImageEntry, ImagePage, Presence};
use askama::Template;
use url::form_urlencoded;

/// Images on a page.
pub(super) const IMAGES_MAX: usize = 50;

/// Platforms that are named for an image.
const PLATFORMS_MAX: usize = 4;

/// The page.
#[derive(Template)]
#[template(path = "images.html")]
pub(super) struct Images {
    frame: Frame,
    query: String,
    rows: Vec<Row>,
    /// The links to the first page and the next one.
    first: Option<String>,
    next: Option<String>,
}

struct Row {
    image: String,
    link: String,
    short: String,
    digest: String,
    platforms: String,
    size: String,
    stored: String,
    /// A part of a hundred.
    percent: Option<u64>,
    used: Moment,
    checked: Moment,
    is_pinned: bool,
}

impl Images {
    /// The page of a list that was searched for `query`, after an image.
    pub(super) fn new(
        frame: Frame,
        query: &str,
        is_first: bool,
        page: &ImagePage,
        show: Show,
    ) -> Self {
        let link = |after: Option<&str>| {
            let mut pairs = form_urlencoded::Serializer::new(String::new());
            pairs.append_pair("q", query);
            if let Some(after) = after {
                pairs.append_pair("after", after);
            }
            format!("/images?{}", pairs.finish())
        };
        Self {
            rows: page.images.iter().map(|it| Row::of(it, show)).collect(),
            first: (!is_first).then(|| link(None)),
            next: page.next.as_deref().map(|after| link(Some(after))),
            query: query.to_owned(),
            frame,
        }
    }
}

impl Row {
    fn of(image: &ImageEntry, show: Show) -> Self {
        Self {
            link: inspect_link(&image.image),
            image: image.image.clone(),
            short: show::digest(&image.digest),
            digest: image.digest.clone(),
            platforms: platforms(image),
            size: show::size(image.size_bytes),
            stored: show::size(image.stored_bytes),
            percent: (image.stored_bytes * 100).checked_div(image.size_bytes),
            used: show.moment(image.used_at),
            checked: show.moment(image.checked_at),
            is_pinned: image.pinned,
        }
    }
}

/// The link to an image's own page.
fn inspect_link(image: &str) -> String {
    let mut pairs = form_urlencoded::Serializer::new(String::new());
    pairs.append_pair("image", image);
    format!("/images/inspect?{}", pairs.finish())
}

/// The platforms that are stored, and how many more there are.
fn platforms(image: &ImageEntry) -> String {
    let here = image.platforms.iter();
    let here = here.filter(|it| it.presence != Presence::Absent);
    let named: Vec<&str> = here
        .map(|it| it.platform.as_str())
        .take(PLATFORMS_MAX)
        .collect();
    let others = image.platforms.len() - named.len();
    match (named.is_empty(), others) {
        (true, 0) => "–".to_owned(),
        (true, others) => format!("+{others}"),
        (false, 0) => named.join(", "),
        (false, others) => format!("{}, +{others}", named.join(", ")),
    }
}

/// The text for a presence.
pub(super) fn presence(presence: Presence, t: &'static Texts) -> &'static str {
    match presence {
        Presence::Stored => t.whole,
        Presence::Partial => t.partial,
        Presence::Absent => t.absent,
    }
}
