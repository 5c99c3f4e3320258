//! `GET /events`: parts of the overview that have changed, as server-sent events (WHATWG HTML, section 9.2).
//!
//! The parts are rendered once for all listeners that read the same. Each listener waits for the newest state and is sent
//! what differs from the last one that it was sent: one that reads slowly skips states, and keeps nobody waiting.

use super::history::Window;
use super::language::Language;
use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body::Frame;
use serde::Serialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Listeners at once: some people's browsers. Each has one of the listener's 64 connections.
pub(super) const LISTENERS_MAX: usize = 16;

/// Time between two signs of life: while nothing changes, a comment shows that somebody is there.
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(10);

/// The longest that a listener is sent anything: then it asks again, and is judged again by the rules of access.
const LISTEN_MAX: Duration = Duration::from_mins(10);

/// The first line: the milliseconds after which a browser connects again.
const RETRY: &[u8] = b"retry: 3000\n\n";

/// A part of a page, as HTML.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Part {
    /// The id of its element.
    pub(super) id: &'static str,
    pub(super) html: String,
}

/// Parts of a page.
pub(super) type Parts = Arc<Vec<Part>>;

/// Readers of the same parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Audience {
    pub(super) language: Language,
    pub(super) window: Window,
}

impl Audience {
    fn all() -> impl Iterator<Item = Self> {
        Language::ALL.into_iter().flat_map(|language| {
            Window::ALL
                .into_iter()
                .map(move |window| Self { language, window })
        })
    }
}

/// The listeners.
#[derive(Debug)]
pub(super) struct Events {
    seats: Arc<Semaphore>,
    channels: Vec<(Audience, watch::Sender<Parts>)>,
    /// Cancelled when the drain begins.
    stop: CancellationToken,
}

impl Events {
    /// No listeners yet.
    pub(super) fn new(stop: CancellationToken) -> Self {
        let channel = |audience| (audience, watch::Sender::new(Parts::default()));
        Self {
            seats: Arc::new(Semaphore::new(LISTENERS_MAX)),
            channels: Audience::all().map(channel).collect(),
            stop,
        }
    }

    /// The audiences that somebody is in.
    pub(super) fn present(&self) -> Vec<Audience> {
        let present = self.channels.iter();
        let present = present.filter(|(_, channel)| channel.receiver_count() > 0);
        present.map(|(audience, _)| *audience).collect()
    }

    /// Tells an audience the newest state.
    pub(super) fn tell(&self, audience: Audience, parts: Vec<Part>) {
        if let Some(channel) = self.channel(audience) {
            channel.send_if_modified(|told| {
                let is_new = **told != parts;
                if is_new {
                    *told = Arc::new(parts);
                }
                is_new
            });
        }
    }

    /// The events for one more listener; `None`: there are too many, or the drain has begun.
    pub(super) fn listen(
        &self,
        audience: Audience,
    ) -> Option<impl Stream<Item = Result<Frame<Bytes>, Infallible>> + use<>> {
        if self.stop.is_cancelled() {
            return None;
        }
        let seat = Arc::clone(&self.seats).try_acquire_owned().ok()?;
        let channel = self.channel(audience)?;
        if channel.receiver_count() == 0 {
            // The state that earlier listeners were told is old.
            channel.send_replace(Parts::default());
        }
        let mut parts = channel.subscribe();
        parts.mark_changed();
        let listener = Listener {
            parts,
            sent: Parts::default(),
            stop: self.stop.clone(),
            until: Instant::now() + LISTEN_MAX,
            is_new: true,
            _seat: seat,
        };
        Some(stream::unfold(listener, |mut listener| async move {
            let text = listener.next().await?;
            Some((Ok(Frame::data(text)), listener))
        }))
    }

    fn channel(&self, audience: Audience) -> Option<&watch::Sender<Parts>> {
        let found = self.channels.iter().find(|(it, _)| *it == audience);
        found.map(|(_, channel)| channel)
    }
}

struct Listener {
    parts: watch::Receiver<Parts>,
    /// The state that it knows.
    sent: Parts,
    stop: CancellationToken,
    until: Instant,
    is_new: bool,
    _seat: OwnedSemaphorePermit,
}

impl Listener {
    /// The next lines.
    async fn next(&mut self) -> Option<Bytes> {
        if std::mem::take(&mut self.is_new) {
            return Some(Bytes::from_static(RETRY));
        }
        loop {
            let changed = tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                () = tokio::time::sleep_until(self.until) => return None,
                changed = tokio::time::timeout(SIGN_OF_LIFE_EVERY, self.parts.changed()) => changed,
            };
            match changed {
                Err(_elapsed) => return Some(Bytes::from_static(b":\n\n")),
                Ok(Err(_gone)) => return None,
                Ok(Ok(())) => {}
            }
            let now = Arc::clone(&self.parts.borrow_and_update());
            let lines = news(&self.sent, &now);
            self.sent = now;
            if !lines.is_empty() {
                return Some(Bytes::from(lines));
            }
        }
    }
}

/// An event for each part that differs.
fn news(before: &[Part], now: &[Part]) -> String {
    let mut lines = String::new();
    for part in now.iter().filter(|part| !before.contains(part)) {
        // Text can be written; JSON has no line ends of its own.
        let json = serde_json::to_string(part).unwrap_or_default();
        lines.extend(["event: part\ndata: ", &json, "\n\n"]);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt as _;

    fn part(id: &'static str, html: &str) -> Part {
        let html = html.to_owned();
        Part { id, html }
    }

    async fn text(
        stream: &mut (impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Unpin),
    ) -> String {
        let frame = stream.next().await.unwrap().unwrap();
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_listener_is_told_what_has_changed() {
        let stop = CancellationToken::new();
        let events = Events::new(stop.clone());
        let audience = Audience::default();
        events.tell(audience, vec![part("old", "old")]);
        let mut stream = Box::pin(events.listen(audience).unwrap());
        assert_eq!(events.present(), [audience]);
        assert_eq!(text(&mut stream).await, "retry: 3000\n\n");
        events.tell(audience, vec![part("a", "1\n2"), part("b", "<b>")]);
        let first = text(&mut stream).await;
        assert_eq!(
            first,
            "event: part\ndata: {\"id\":\"a\",\"html\":\"1\\n2\"}\n\nevent: part\ndata: {\"id\":\"b\",\"html\":\"<b>\"}\n\n"
        );
        events.tell(audience, vec![part("a", "3"), part("b", "<b>")]);
        events.tell(audience, vec![part("a", "4"), part("b", "<b>")]);
        assert!(
            text(&mut stream).await.contains("\"4\""),
            "the newest alone"
        );
        stop.cancel();
        assert!(stream.next().await.is_none(), "the drain ends it");
        assert!(events.listen(audience).is_none());
        drop(stream);
        assert_eq!(events.present(), []);
    }

    #[tokio::test]
    async fn listeners_are_bounded() {
        let events = Events::new(CancellationToken::new());
        let mut listeners: Vec<_> = (0..LISTENERS_MAX)
            .map(|_| events.listen(Audience::default()).unwrap())
            .collect();
        assert!(events.listen(Audience::default()).is_none());
        listeners.pop();
        assert!(events.listen(Audience::default()).is_some());
    }
}
