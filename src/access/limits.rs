//! Limits by identity or address: requests and bytes a second, connections, bytes a day.
//!
//! Each limit has a bucket for each identity or address that it means, so that nobody takes what is another's. Several
//! limits may mean a request, and all of them hold. Buckets are in memory alone: a restart forgets them, and so does a
//! reload that changes limits.
//!
//! The number of buckets is bounded. When all are taken, those at rest go; a client that finds none then shares one with
//! the others of its network: limits hold all the same, and whoever has a bucket is not disturbed, however many addresses
//! somebody has.

mod bucket;
mod meaning;
mod table;

pub use meaning::Meaning;

use super::Principal;
use crate::clock::Clock;
use bucket::{Bucket, Seat};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use table::{Key, Table};
use tokio::time::Instant;

/// The most limits: each is looked at when a client asks for the first time.
pub const LIMITS_MAX: usize = 1000;

/// The smallest piece of a body that is held back to slow it down: what is smaller costs more than it evens out.
const PIECE_BYTES_MIN: u64 = 16 * 1024;

/// The part of a second in which a piece of a body is sent that is slowed down.
const PIECES_A_SECOND: u64 = 8;

/// A limit, as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Whom it means.
    pub meaning: Meaning,
    /// Requests a second.
    pub requests: Option<NonZeroU32>,
    /// Bytes of bodies a second.
    pub bytes: Option<u64>,
    /// Connections at once.
    pub connections: Option<usize>,
    /// Bytes of bodies in a day of UTC.
    pub bytes_per_day: Option<u64>,
}

/// All limits, and what was used of them.
#[derive(Debug)]
pub struct Limits {
    rules: Vec<Rule>,
    clock: Arc<dyn Clock>,
    /// Times are counted from here: the system's clock may be set back.
    epoch: Instant,
}

#[derive(Debug)]
struct Rule {
    limit: Limit,
    table: Table,
}

/// A limit that a request has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// The figure that is meant.
    pub figure: Figure,
    /// When to try again.
    pub wait: Duration,
}

/// A figure of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Requests a second.
    Requests,
    /// Connections at once.
    Connections,
    /// Bytes a day.
    BytesPerDay,
}

/// The share of one connection in the limits that mean its client, from its first request on.
#[derive(Debug)]
pub struct Share {
    limits: Arc<Limits>,
    who: Arc<Principal>,
    source: IpAddr,
    seats: Vec<Seat>,
    spending: Option<Spending>,
}

/// The count of the bytes of bodies. Cheap to clone.
#[derive(Clone)]
pub struct Spending {
    limits: Arc<Limits>,
    buckets: Arc<[Arc<Bucket>]>,
}

/// The wait where a connection is one too many: another has to end first, which nobody can foretell.
const CONNECTION_WAIT: Duration = Duration::from_secs(2);

impl Limits {
    /// Limits of which nothing is used yet.
    #[must_use]
    pub fn new(limits: Vec<Limit>, clock: Arc<dyn Clock>) -> Self {
        let rules = limits.into_iter().map(|limit| Rule {
            limit,
            table: Table::default(),
        });
        Self {
            rules: rules.collect(),
            clock,
            epoch: Instant::now(),
        }
    }

    /// True if they are these.
    #[must_use]
    pub fn are(&self, limits: &[Limit]) -> bool {
        self.rules.iter().map(|rule| &rule.limit).eq(limits)
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Counts a request, and says where its bytes are counted. `held`: what its connection has so far.
    ///
    /// # Errors
    /// A limit is met.
    pub fn admit(
        self: &Arc<Self>,
        who: &Arc<Principal>,
        source: IpAddr,
        held: &mut Option<Share>,
    ) -> Result<Option<Spending>, Exceeded> {
        let share = match held.take().filter(|share| share.is_of(self, who, source)) {
            Some(share) => share,
            None => self.share(who, source)?,
        };
        let share = held.insert(share);
        let (now, wall) = (self.epoch.elapsed(), self.clock.now());
        for seat in &share.seats {
            seat.bucket().admit(now, wall)?;
        }
        Ok(share.spending.clone())
    }

    /// Counts a request of an anonymous client that has no share of its connection: one for a token, or with wrong
    /// credentials.
    ///
    /// # Errors
    /// A limit is met.
    pub fn admit_anonymous(&self, source: IpAddr) -> Result<(), Exceeded> {
        let nobody = Principal::anonymous();
        self.admit_to(self.buckets(&nobody, source, |_| true))
    }

    /// Counts a request of a client who is about to say who he is, by his address alone: what anonymous clients have used up
    /// is not his.
    ///
    /// # Errors
    /// A limit is met.
    pub fn admit_address(&self, source: IpAddr) -> Result<(), Exceeded> {
        let nobody = Principal::anonymous();
        self.admit_to(self.buckets(&nobody, source, Meaning::is_of_places))
    }

    fn admit_to(&self, mut buckets: impl Iterator<Item = Arc<Bucket>>) -> Result<(), Exceeded> {
        let (now, wall) = (self.epoch.elapsed(), self.clock.now());
        buckets.try_for_each(|bucket| bucket.admit(now, wall))
    }

    /// The buckets of somebody, each with a place for the connection.
    fn share(self: &Arc<Self>, who: &Arc<Principal>, source: IpAddr) -> Result<Share, Exceeded> {
        let taken = self.buckets(who, source, |_| true).map(Seat::take);
        let seats = taken.collect::<Option<Vec<_>>>().ok_or(Exceeded {
            figure: Figure::Connections,
            wait: CONNECTION_WAIT,
        })?;
        let counting = seats.iter().map(Seat::bucket);
        let counting: Arc<[_]> = counting.filter(|it| it.counts_bytes()).cloned().collect();
        Ok(Share {
            limits: Arc::clone(self),
            who: Arc::clone(who),
            source,
            seats,
            spending: (!counting.is_empty()).then(|| Spending {
                limits: Arc::clone(self),
                buckets: counting,
            }),
        })
    }

    /// The buckets of somebody, of the limits of these meanings.
    fn buckets(
        &self,
        who: &Principal,
        source: IpAddr,
        counts: impl Fn(&Meaning) -> bool,
    ) -> impl Iterator<Item = Arc<Bucket>> {
        let now = self.epoch.elapsed();
        let day = bucket::day(self.clock.now());
        let meant = self.rules.iter().filter(move |rule| {
            counts(&rule.limit.meaning) && rule.limit.meaning.means(who, source)
        });
        meant.map(move |rule| {
            let key = if rule.limit.meaning.is_by_address() || who.is_anonymous() {
                Key::of_address(source)
            } else {
                rule.table.key_of(who)
            };
            rule.table
                .bucket(key, now, day, || Bucket::new(&rule.limit, self.epoch))
        })
    }
}

impl Share {
    /// True if it is what this client has of these limits.
    fn is_of(&self, limits: &Arc<Limits>, who: &Arc<Principal>, source: IpAddr) -> bool {
        Arc::ptr_eq(&self.limits, limits)
            && self.source == source
            && (Arc::ptr_eq(&self.who, who) || self.who == *who)
    }
}

impl Spending {
    /// Time for which these bytes of a body are held back.
    #[must_use]
    pub fn pace(&self, bytes: usize) -> Duration {
        let now = self.limits.epoch.elapsed();
        let waits = self.buckets.iter().map(|bucket| bucket.pace(bytes, now));
        waits.max().unwrap_or_default()
    }

    /// Bytes of a body were sent.
    pub fn spent(&self, bytes: usize) {
        let wall = self.limits.clock.now();
        for bucket in &*self.buckets {
            bucket.spent(bytes, wall);
        }
    }

    /// The most bytes that are sent at once, so that a slow body comes evenly; `None`: it is not slowed down.
    #[must_use]
    pub fn piece_max(&self) -> Option<usize> {
        let rates = self.buckets.iter().filter_map(|bucket| bucket.rate());
        let piece = (rates.min()? / PIECES_A_SECOND).max(PIECE_BYTES_MIN);
        Some(usize::try_from(piece).unwrap_or(usize::MAX))
    }
}

impl fmt::Debug for Spending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spending")
            .field("buckets", &self.buckets.len())
            .finish_non_exhaustive()
    }
}

impl Figure {
    /// As a client is told of it.
    #[must_use]
    pub fn phrase(self) -> &'static str {
        match self {
            Self::Requests => "too many requests a second",
            Self::Connections => "too many connections",
            Self::BytesPerDay => "too many bytes for one day",
        }
    }
}

#[cfg(test)]
mod tests;
