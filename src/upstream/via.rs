//! `Via` (RFC 9110 section 7.6.3): which mirrors a question has passed through, so that one that comes
//! back is refused and not asked for ever.
//!
//! The value belongs to a client's request and is needed where that, perhaps after several tasks,
//! becomes a request to an upstream. It travels as a task-local: [`Via::scope`] sets it, [`carry`]
//! takes it along to a spawned task, and the client adds it to what it sends.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use http::HeaderValue;

tokio::task_local! {
    static VIA: Via;
}

/// The mirrors that a request has passed through, this one included.
#[derive(Clone, Debug)]
pub struct Via(HeaderValue);

/// A request that this mirror has itself sent, or that has passed through too many.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loop {
    /// It has been here before.
    #[error("the request has been here before: an endpoint of this mirror leads back to it")]
    Closed,
    /// Upstream says so (508): the host that did.
    #[error(
        "upstream answered 508: {0} says that the request has been there before, and leads in a circle"
    )]
    Told(String),
    /// Nobody chains so many mirrors.
    #[error("the request has passed through more than {HOPS_MAX} proxies")]
    TooLong,
}

/// What a mirror calls itself in `Via`: different for each one that runs.
#[derive(Clone, Debug)]
pub struct Pseudonym {
    name: Arc<str>,
    /// What a request gets that brought nothing.
    alone: HeaderValue,
}

impl Pseudonym {
    /// A name that nobody else has.
    #[must_use]
    pub fn random() -> Self {
        // The keys of `RandomState` are random, and so is the hash of nothing.
        let name = format!("roadstead-{:016x}", RandomState::new().hash_one(0));
        let alone = HeaderValue::try_from(format!("1.1 {name}"));
        Self {
            // Letters, digits and a dash: it always fits.
            alone: alone.unwrap_or(HeaderValue::from_static("1.1 roadstead")),
            name: name.into(),
        }
    }

    /// Adds this mirror to what a request brought.
    ///
    /// # Errors
    /// [`Loop`].
    pub fn join<'a>(&self, values: impl Iterator<Item = &'a str>) -> Result<Via, Loop> {
        let mut all = String::new();
        let mut hops = 0_usize;
        for hop in values.flat_map(|value| value.split(',')).map(str::trim) {
            // `1.1 name (comment)`, perhaps with the protocol's name before the version.
            if hop.split_whitespace().nth(1) == Some(&self.name) {
                return Err(Loop::Closed);
            }
            hops += 1;
            all.push_str(hop);
            all.push_str(", ");
        }
        if hops == 0 {
            return Ok(Via(self.alone.clone()));
        }
        if hops > HOPS_MAX || all.len() > BYTES_MAX {
            return Err(Loop::TooLong);
        }
        all.push_str("1.1 ");
        all.push_str(&self.name);
        // It came out of headers, and so it fits into one.
        HeaderValue::try_from(all)
            .map(Via)
            .map_err(|_| Loop::TooLong)
    }
}

impl Via {
    /// Runs `work` as a part of the request that this belongs to.
    pub async fn scope<T>(self, work: impl Future<Output = T>) -> T {
        VIA.scope(self, work).await
    }

    /// That of the request that this work belongs to, for work that goes on when others poll it.
    #[must_use]
    pub fn of_this_request() -> Option<Self> {
        VIA.try_with(Clone::clone).ok()
    }

    /// The header's value for what is sent now; `None` for what no request has caused.
    pub(super) fn current() -> Option<HeaderValue> {
        VIA.try_with(|via| via.0.clone()).ok()
    }
}

/// Takes the present request's `Via` along with work that is about to be spawned.
pub fn carry<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let via = VIA.try_with(Clone::clone).ok();
    async move {
        match via {
            Some(via) => VIA.scope(via, work).await,
            None => work.await,
        }
    }
}

/// Two or three mirrors in a row make sense; longer chains are loops that other proxies hide.
const HOPS_MAX: usize = 16;
/// More is no list of 16 names.
const BYTES_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_comes_back_is_known() {
        let (here, there) = (Pseudonym::random(), Pseudonym::random());
        let first = here.join(std::iter::empty()).unwrap();
        let sent = first.0.to_str().unwrap().to_owned();
        let passed_on = there.join(["1.0 squid (x)", &sent].into_iter()).unwrap();
        let back = passed_on.0.to_str().unwrap();
        assert_eq!(here.join(std::iter::once(back)).unwrap_err(), Loop::Closed);
        assert_eq!(there.join(std::iter::once(back)).unwrap_err(), Loop::Closed);
        assert!(Pseudonym::random().join(std::iter::once(back)).is_ok());
    }

    #[test]
    fn endless_chains_are_refused() {
        let long = vec!["1.1 a"; HOPS_MAX + 1].join(",");
        let here = Pseudonym::random();
        assert_eq!(
            here.join(std::iter::once(long.as_str())).unwrap_err(),
            Loop::TooLong
        );
        let wide = format!("1.1 {}", "a".repeat(BYTES_MAX));
        assert_eq!(
            here.join(std::iter::once(wide.as_str())).unwrap_err(),
            Loop::TooLong
        );
    }

    #[tokio::test]
    #[allow(
        clippy::disallowed_methods,
        reason = "a test awaits what it spawns itself"
    )]
    async fn spawned_work_belongs_to_the_request_that_caused_it() {
        assert!(Via::current().is_none());
        let via = Pseudonym::random().join(std::iter::empty()).unwrap();
        let expected = via.0.clone();
        let seen = via.scope(async { tokio::spawn(carry(async { Via::current() })).await });
        assert_eq!(seen.await.unwrap(), Some(expected));
        assert!(
            tokio::spawn(carry(async { Via::current() }))
                .await
                .unwrap()
                .is_none()
        );
    }
}
