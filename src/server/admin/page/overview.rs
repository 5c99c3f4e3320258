//! `/`: how the mirror is.

use super::events::{Audience, Part};
use super::frame::Frame;
use super::history::Window;
use askama::Template;

/// The page.
#[derive(Template)]
#[template(path = "overview.html")]
pub(super) struct Overview {
    frame: Frame,
    /// The sections, which were rendered from templates of ours.
    parts: Vec<Part>,
    /// The address of the events for this page.
    events: String,
}

impl Overview {
    /// The page of these sections.
    pub(super) fn new(frame: Frame, parts: Vec<Part>, audience: Audience) -> Self {
        let (window, language) = (audience.window.name(), audience.language.name());
        Self {
            frame,
            parts,
            events: format!("/events?window={window}&lang={language}"),
        }
    }
}

/// The window that a query names.
pub(super) fn window(name: Option<&str>) -> Window {
    let all = Window::ALL.into_iter();
    let mut named = all.filter(|it| name == Some(it.name()));
    named.next().unwrap_or_default()
}
