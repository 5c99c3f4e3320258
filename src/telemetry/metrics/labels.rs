//! The closed sets of labels, and a value for each of a set.

/// The kind of thing that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the protocol's")]
pub enum Kind {
    Manifest,
    Blob,
    Tags,
    Referrers,
    Upload,
    Other,
}

/// The outcome of a request: `Cache-Status` and the metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// From the store, fresh.
    Hit,
    /// Fetched from upstream for this request, and stored.
    Miss,
    /// Joined a fetch already under way.
    Collapsed,
    /// From the store, past its freshness, because upstream could not answer.
    Stale,
    /// In part from what an earlier transfer left.
    Partial,
    /// Passed through without being stored.
    Bypass,
    /// There is no such thing: upstream says so, or did a moment ago (404).
    NotFound,
    /// Upstream denies it to us (401, 403).
    Denied,
    /// Upstream limits us, or we the client (429).
    Limited,
    /// The request makes no sense (any other 4xx).
    Rejected,
    /// Upstream or this mirror failed (5xx).
    Error,
}

/// The reason of an eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EvictReason {
    /// To make room.
    Size,
    /// The content was damaged.
    Damaged,
    /// An operator removed it.
    Removed,
    /// Nobody used it for longer than it is kept.
    Age,
}

impl Kind {
    /// Every kind, in the order of the labels' documentation.
    pub const ALL: [Self; 6] = [
        Self::Manifest,
        Self::Blob,
        Self::Tags,
        Self::Referrers,
        Self::Upload,
        Self::Other,
    ];

    /// The label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::Upload => "upload",
            Self::Other => "other",
        }
    }
}

impl Outcome {
    /// Every outcome, in the order of the labels' documentation.
    pub const ALL: [Self; 11] = [
        Self::Hit,
        Self::Miss,
        Self::Collapsed,
        Self::Stale,
        Self::Partial,
        Self::Bypass,
        Self::NotFound,
        Self::Denied,
        Self::Limited,
        Self::Rejected,
        Self::Error,
    ];

    /// The label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Collapsed => "collapsed",
            Self::Stale => "stale",
            Self::Partial => "partial",
            Self::Bypass => "bypass",
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::Limited => "limited",
            Self::Rejected => "rejected",
            Self::Error => "error",
        }
    }

    /// The `Cache-Status` value (RFC 9211): `roadstead; hit`, `roadstead; fwd=miss; stored`,
    /// `roadstead; fwd=miss; collapsed`, `roadstead; fwd=stale`, `…partial`, `…bypass`. Of what is no success that is all
    /// that an outcome can say: who answers may know more.
    #[must_use]
    pub fn cache_status(self) -> &'static str {
        match self {
            Self::Hit => "roadstead; hit",
            Self::Miss => "roadstead; fwd=miss; stored",
            Self::Collapsed => "roadstead; fwd=miss; collapsed",
            Self::Stale => "roadstead; fwd=stale",
            Self::Partial => "roadstead; fwd=partial",
            Self::Bypass => "roadstead; fwd=bypass",
            Self::NotFound | Self::Denied | Self::Limited | Self::Rejected | Self::Error => {
                "roadstead; fwd=miss"
            }
        }
    }
}

impl EvictReason {
    /// Every reason, the usual ones first.
    pub const ALL: [Self; 4] = [Self::Size, Self::Age, Self::Removed, Self::Damaged];

    /// The label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Damaged => "damaged",
            Self::Removed => "removed",
            Self::Age => "age",
        }
    }
}

/// One value for each [`Kind`].
#[derive(Debug)]
pub(super) struct ByKind<T>([T; Kind::ALL.len()]);

impl<T> ByKind<T> {
    pub(super) fn new(value: impl FnMut(Kind) -> T) -> Self {
        Self(Kind::ALL.map(value))
    }
    pub(super) fn of(&self, kind: Kind) -> &T {
        let [manifest, blob, tags, referrers, upload, other] = &self.0;
        match kind {
            Kind::Manifest => manifest,
            Kind::Blob => blob,
            Kind::Tags => tags,
            Kind::Referrers => referrers,
            Kind::Upload => upload,
            Kind::Other => other,
        }
    }
}

/// One value for each [`Outcome`].
#[derive(Debug)]
pub(super) struct ByOutcome<T>([T; Outcome::ALL.len()]);

impl<T> ByOutcome<T> {
    pub(super) fn new(value: impl FnMut(Outcome) -> T) -> Self {
        Self(Outcome::ALL.map(value))
    }
    pub(super) fn of(&self, outcome: Outcome) -> &T {
        let [
            hit,
            miss,
            collapsed,
            stale,
            partial,
            bypass,
            not_found,
            denied,
            limited,
            rejected,
            error,
        ] = &self.0;
        match outcome {
            Outcome::Hit => hit,
            Outcome::Miss => miss,
            Outcome::Collapsed => collapsed,
            Outcome::Stale => stale,
            Outcome::Partial => partial,
            Outcome::Bypass => bypass,
            Outcome::NotFound => not_found,
            Outcome::Denied => denied,
            Outcome::Limited => limited,
            Outcome::Rejected => rejected,
            Outcome::Error => error,
        }
    }
}
