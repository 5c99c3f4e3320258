//! `Via` (RFC 9110 section 7.6.3): which mirrors a request has passed through, so that one that comes
//! back is refused and not asked for ever.
//!
//! A request to an upstream serves all who ask the same at that time, and the cache serves later ones. So a request
//! is not forwarded but made anew, and says of the way that brought its first client here only what finds loops: the
//! mirrors of this kind that it came through last, by their pseudonyms, and this one. What else a client writes into
//! `Via`, and how much of it, is its own affair.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use http::HeaderValue;

/// The mirrors that a request has passed through, this one included.
#[derive(Clone, Debug)]
pub struct Via {
    header: HeaderValue,
    /// True if it names others.
    others: bool,
}

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
    /// An endpoint, or where it redirects, is one of our own listeners: which.
    #[error(
        "an endpoint of this mirror leads back to it: {0} is one of its own listeners; where a DNS override leads clients here, write the registry's own addresses as `resolve` of the endpoint"
    )]
    Ourselves(String),
    /// Nobody chains so many mirrors.
    #[error("the request has passed through more than {HOPS_MAX} proxies")]
    TooLong,
}

/// The name of a mirror in `Via`: different for each one that runs.
#[derive(Clone, Debug)]
pub struct Pseudonym {
    name: Arc<str>,
    /// The header of a request that brought none.
    alone: HeaderValue,
}

impl Pseudonym {
    /// A name that nobody else has.
    #[must_use]
    pub fn random() -> Self {
        // The keys of `RandomState` are random, and so is the hash of nothing.
        let name = format!("{PREFIX}{:016x}", RandomState::new().hash_one(0));
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
    /// [`Loop`], which is this request's alone.
    pub fn join<'a>(&self, values: impl Iterator<Item = &'a str>) -> Result<Via, Loop> {
        let (mut hops, mut bytes) = (0_usize, 0_usize);
        let mut mirrors = VecDeque::new();
        for hop in values.flat_map(|value| value.split(',')).map(str::trim) {
            hops += 1;
            bytes += hop.len();
            // `1.1 name (comment)`, perhaps with the protocol's name before the version.
            let Some(name) = hop.split_whitespace().nth(1) else {
                continue;
            };
            if name == &*self.name {
                return Err(Loop::Closed);
            }
            if is_pseudonym(name) {
                if mirrors.len() == MIRRORS_PASSED_ON_MAX {
                    mirrors.pop_front();
                }
                mirrors.push_back(name);
            }
        }
        if hops > HOPS_MAX || bytes > BYTES_MAX {
            return Err(Loop::TooLong);
        }
        if mirrors.is_empty() {
            return Ok(Via {
                header: self.alone.clone(),
                others: false,
            });
        }
        mirrors.push_back(&*self.name);
        let all: Vec<_> = mirrors.iter().map(|name| format!("1.1 {name}")).collect();
        // Letters, digits, dashes and commas: it always fits.
        let header = HeaderValue::try_from(all.join(", ")).map_err(|_| Loop::TooLong)?;
        let others = true;
        Ok(Via { header, others })
    }
}

/// True if a mirror of this kind may call itself so.
fn is_pseudonym(name: &str) -> bool {
    let digits = name.strip_prefix(PREFIX);
    digits.is_some_and(|digits| {
        digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

impl Via {
    /// The header to send.
    pub(super) fn header(&self) -> &HeaderValue {
        &self.header
    }

    /// True if the request came through other mirrors.
    pub(super) fn came_through_others(&self) -> bool {
        self.others
    }
}

/// The beginning of every pseudonym.
const PREFIX: &str = "roadstead-";
/// Two or three mirrors in a row make sense; longer chains are loops that other proxies hide.
const HOPS_MAX: usize = 16;
/// More is no list of 16 names.
const BYTES_MAX: usize = 2048;
/// A loop of so many mirrors is still found; and other proxies between them may each add a hop before the next one
/// counts [`HOPS_MAX`].
const MIRRORS_PASSED_ON_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(via: &Via) -> &str {
        via.header.to_str().unwrap()
    }

    #[test]
    fn a_request_that_comes_back_is_known() {
        let (here, there) = (Pseudonym::random(), Pseudonym::random());
        let first = here.join(std::iter::empty()).unwrap();
        assert!(!first.came_through_others());
        let passed_on = there
            .join(["1.0 squid (x)", sent(&first)].into_iter())
            .unwrap();
        assert!(passed_on.came_through_others());
        let back = sent(&passed_on);
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

    #[test]
    fn the_next_mirror_hears_of_mirrors_alone_and_never_of_too_many() {
        let here = Pseudonym::random();
        let alone = here.join(std::iter::empty()).unwrap();
        let odd = [
            "1.1 squid.example",
            "1.0 roadstead-short",
            "HTTP/1.1 fred (x)",
            "",
            "x",
        ];
        let joined = here.join(odd.into_iter()).unwrap();
        assert_eq!(
            sent(&joined),
            sent(&alone),
            "what a client makes up is not sent"
        );

        let mut brought = String::new();
        for _ in 0..HOPS_MAX {
            let name = Pseudonym::random().name;
            brought = format!(
                "{brought}{}1.1 {name}",
                if brought.is_empty() { "" } else { ", " }
            );
        }
        let there = Pseudonym::random();
        let first = here.join(std::iter::once(brought.as_str())).unwrap();
        let second = there.join(std::iter::once(sent(&first))).unwrap();
        let hops = sent(&second).split(',').count();
        assert_eq!(hops, MIRRORS_PASSED_ON_MAX + 1);
        let back = here.join(std::iter::once(sent(&second)));
        assert_eq!(
            back.unwrap_err(),
            Loop::Closed,
            "however long it was before"
        );
    }
}
