//! The stream of what happens to images and blobs, for whoever acts on it later: pins, repair.
//!
//! Telling waits for nobody. Each subscriber has a queue of its own, of [`EVENTS_MAX`] events of the kinds that it
//! wants; what does not fit is counted, and the subscriber hears how many it missed, so that it can look for itself.
//! Metrics are told in line: a count must not be missed.

use std::ops::BitOr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::oci::directory::Source;
use crate::oci::{Digest, Reference, Tag};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::EvictReason;

/// Events that wait for one subscriber: some 300 bytes each.
const EVENTS_MAX: usize = 4096;

/// A change of what is stored, or known of repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A blob or manifest was checked and got its final name.
    BlobStored {
        /// Its digest.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// A blob or manifest is not stored any more.
    BlobEvicted {
        /// Its digest.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The reason why it went; never that it is damaged.
        reason: EvictReason,
    },
    /// A stored blob or manifest turned out damaged, and is not stored any more.
    BlobDamaged {
        /// Its digest.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// A manifest was fetched or imported, or upstream said that the repository has it too.
    ManifestStored {
        /// The repository.
        source: Source,
        /// The manifest.
        digest: Digest,
    },
    /// Upstream itself said that a repository has a digest; it may have said so before.
    Linked {
        /// The repository.
        source: Source,
        /// The blob or manifest.
        digest: Digest,
    },
    /// Upstream, or an operator, said what a tag names; it may be what it named before.
    TagMoved {
        /// The repository.
        source: Source,
        /// The tag.
        tag: Tag,
        /// The manifest that it names now.
        digest: Digest,
        /// The manifest that it named before, as far as that is known.
        before: Option<Digest>,
    },
    /// Upstream has deleted a tag.
    TagDeleted {
        /// The repository.
        source: Source,
        /// The tag.
        tag: Tag,
        /// True if it is served all the same.
        kept: bool,
    },
    /// An operator removed an image.
    ImageRemoved {
        /// The repository.
        source: Source,
        /// The tag or digest; `None`: the whole repository.
        reference: Option<Reference>,
    },
    /// A client was given a manifest.
    Pulled {
        /// The repository.
        source: Source,
        /// The manifest.
        digest: Digest,
    },
}

/// Some of the kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventKinds(u16);

impl EventKinds {
    /// [`Event::BlobStored`].
    pub const BLOB_STORED: Self = Self(1);
    /// [`Event::BlobEvicted`].
    pub const BLOB_EVICTED: Self = Self(1 << 1);
    /// [`Event::ManifestStored`].
    pub const MANIFEST_STORED: Self = Self(1 << 2);
    /// [`Event::TagMoved`].
    pub const TAG_MOVED: Self = Self(1 << 3);
    /// [`Event::TagDeleted`].
    pub const TAG_DELETED: Self = Self(1 << 4);
    /// [`Event::ImageRemoved`].
    pub const IMAGE_REMOVED: Self = Self(1 << 5);
    /// [`Event::Pulled`].
    pub const PULLED: Self = Self(1 << 6);
    /// [`Event::BlobDamaged`].
    pub const BLOB_DAMAGED: Self = Self(1 << 7);
    /// [`Event::Linked`].
    pub const LINKED: Self = Self(1 << 8);

    const fn has(self, kind: Self) -> bool {
        self.0 & kind.0 != 0
    }
}

impl BitOr for EventKinds {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Event {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> EventKinds {
        match self {
            Self::BlobStored { .. } => EventKinds::BLOB_STORED,
            Self::BlobEvicted { .. } => EventKinds::BLOB_EVICTED,
            Self::BlobDamaged { .. } => EventKinds::BLOB_DAMAGED,
            Self::ManifestStored { .. } => EventKinds::MANIFEST_STORED,
            Self::Linked { .. } => EventKinds::LINKED,
            Self::TagMoved { .. } => EventKinds::TAG_MOVED,
            Self::TagDeleted { .. } => EventKinds::TAG_DELETED,
            Self::ImageRemoved { .. } => EventKinds::IMAGE_REMOVED,
            Self::Pulled { .. } => EventKinds::PULLED,
        }
    }
}

impl Event {
    /// Reason and size, where a blob went.
    const fn eviction(&self) -> Option<(EvictReason, u64)> {
        match self {
            Self::BlobEvicted { size, reason, .. } => Some((*reason, *size)),
            Self::BlobDamaged { size, .. } => Some((EvictReason::Damaged, *size)),
            Self::BlobStored { .. }
            | Self::ManifestStored { .. }
            | Self::Linked { .. }
            | Self::TagMoved { .. }
            | Self::TagDeleted { .. }
            | Self::ImageRemoved { .. }
            | Self::Pulled { .. } => None,
        }
    }
}

/// Tells subscribers.
#[derive(Debug)]
pub struct Events {
    metrics: Metrics,
    /// The kinds that any subscriber wants: the others cost one look at this.
    wanted: AtomicU16,
    subscribers: Mutex<Vec<Subscriber>>,
}

#[derive(Debug)]
struct Subscriber {
    kinds: EventKinds,
    queue: mpsc::Sender<Event>,
    missed: Arc<AtomicU64>,
}

/// The events that one subscriber wants.
#[derive(Debug)]
pub struct Subscription {
    queue: mpsc::Receiver<Event>,
    missed: Arc<AtomicU64>,
}

/// One step of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Something happened.
    Event(Event),
    /// So many events did not fit into the queue.
    Missed(u64),
}

impl Events {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            wanted: AtomicU16::new(0),
            subscribers: Mutex::default(),
        }
    }

    /// All further events of these kinds, until the subscription is dropped.
    #[must_use]
    pub fn subscribe(&self, kinds: EventKinds) -> Subscription {
        let (sender, queue) = mpsc::channel(EVENTS_MAX);
        let missed = Arc::new(AtomicU64::new(0));
        let mut subscribers = self.subscribers();
        subscribers.push(Subscriber {
            kinds,
            queue: sender,
            missed: Arc::clone(&missed),
        });
        self.note_wanted(&subscribers);
        Subscription { queue, missed }
    }

    /// Tells all who want to know.
    pub fn tell(&self, event: Event) {
        if let Some((reason, size)) = event.eviction() {
            self.metrics.cache().evicted(reason, size);
        }
        let kind = event.kind();
        self.tell_if_wanted(kind, || event);
    }

    /// Tells all who want to know of this kind; where there are none, no event is made. Without one it takes no lock.
    pub fn tell_if_wanted(&self, kind: EventKinds, event: impl FnOnce() -> Event) {
        if !EventKinds(self.wanted.load(Ordering::Relaxed)).has(kind) {
            return;
        }
        let event = event();
        let mut subscribers = self.subscribers();
        let before = subscribers.len();
        subscribers.retain(|subscriber| !subscriber.queue.is_closed());
        for subscriber in subscribers.iter().filter(|it| it.kinds.has(kind)) {
            if subscriber.queue.try_send(event.clone()).is_err() {
                subscriber.missed.fetch_add(1, Ordering::Relaxed);
            }
        }
        if subscribers.len() != before {
            self.note_wanted(&subscribers);
        }
    }

    fn note_wanted(&self, subscribers: &[Subscriber]) {
        let wanted = subscribers.iter().fold(0, |all, it| all | it.kinds.0);
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    fn subscribers(&self) -> MutexGuard<'_, Vec<Subscriber>> {
        // Each change is one push or removal.
        let subscribers = self.subscribers.lock();
        subscribers.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// The next event; `None` when the store is gone. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Heard> {
        // The queue was full when one was missed, so that there is a next time to say so.
        let missed = self.missed.swap(0, Ordering::Relaxed);
        if missed > 0 {
            return Some(Heard::Missed(missed));
        }
        self.queue.recv().await.map(Heard::Event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Repository, UpstreamName};

    fn events() -> Events {
        Events::new(Metrics::new(std::iter::empty()))
    }

    fn stored(byte: u8) -> Event {
        Event::BlobStored {
            digest: Digest::Sha256([byte; 32]),
            size: 7,
        }
    }

    fn evicted() -> Event {
        Event::BlobEvicted {
            digest: Digest::Sha256([1; 32]),
            size: 7,
            reason: EvictReason::Size,
        }
    }

    fn damaged() -> Event {
        Event::BlobDamaged {
            digest: Digest::Sha256([1; 32]),
            size: 7,
        }
    }

    /// Evictions took the places of what was to be fetched again.
    #[tokio::test]
    async fn a_damaged_blob_is_heard_of_whatever_else_is_evicted() {
        let events = events();
        let mut repair = events.subscribe(EventKinds::BLOB_DAMAGED);
        for _ in 0..EVENTS_MAX {
            events.tell(evicted());
        }
        events.tell(damaged());
        assert_eq!(repair.next().await, Some(Heard::Event(damaged())));
    }

    #[tokio::test]
    async fn each_subscriber_hears_what_it_wants_in_order() {
        let events = events();
        events.tell(stored(0));
        let mut all = events.subscribe(EventKinds::BLOB_STORED | EventKinds::BLOB_EVICTED);
        let mut some = events.subscribe(EventKinds::BLOB_EVICTED);
        events.tell(stored(1));
        events.tell(evicted());
        assert_eq!(all.next().await, Some(Heard::Event(stored(1))));
        assert_eq!(all.next().await, Some(Heard::Event(evicted())));
        assert_eq!(some.next().await, Some(Heard::Event(evicted())));
        drop(events);
        assert_eq!(some.next().await, None);
    }

    #[tokio::test]
    async fn one_that_does_not_listen_is_waited_for_by_nobody_and_hears_how_many_it_missed() {
        let events = events();
        let mut slow = events.subscribe(EventKinds::BLOB_STORED);
        for _ in 0..EVENTS_MAX + 3 {
            events.tell(stored(1));
        }
        assert_eq!(slow.next().await, Some(Heard::Missed(3)));
        for _ in 0..EVENTS_MAX {
            assert_eq!(slow.next().await, Some(Heard::Event(stored(1))));
        }
        events.tell(stored(2));
        assert_eq!(slow.next().await, Some(Heard::Event(stored(2))));
    }

    #[tokio::test]
    async fn an_event_that_nobody_wants_is_not_made() {
        let events = events();
        let pulled = || Event::Pulled {
            source: Source {
                upstream: UpstreamName::parse("docker.io").unwrap(),
                repository: Repository::parse("library/app").unwrap(),
            },
            digest: Digest::Sha256([3; 32]),
        };
        let _other = events.subscribe(EventKinds::BLOB_STORED);
        events.tell_if_wanted(EventKinds::PULLED, || panic!("nobody wants it"));
        let mut pulls = events.subscribe(EventKinds::PULLED);
        events.tell_if_wanted(EventKinds::PULLED, pulled);
        assert_eq!(pulls.next().await, Some(Heard::Event(pulled())));
        drop(pulls);
        // The first one finds out that nobody listens any more.
        events.tell_if_wanted(EventKinds::PULLED, pulled);
        events.tell_if_wanted(EventKinds::PULLED, || panic!("nobody wants it"));
    }

    #[test]
    fn evictions_are_counted_without_any_subscriber() {
        let metrics = Metrics::new(std::iter::empty());
        let events = Events::new(metrics.clone());
        events.tell(evicted());
        events.tell(damaged());
        let text = metrics.render();
        for reason in ["size", "damaged"] {
            let line = format!("roadstead_evicted_bytes_total{{reason=\"{reason}\"}} 7");
            assert!(text.contains(&line), "{text}");
        }
    }
}
