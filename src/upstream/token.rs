//! Bearer tokens: fetched once for all who wait, kept until shortly before they expire.
//!
//! Source: distribution, docs/content/spec/auth/token.md and oauth.md.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use tokio::time::Instant;

use super::FetchError;
use super::weighed::{ENTRY_BYTES, Weighed};
use crate::net::Deadline;

/// The purpose of a token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    /// The endpoint that asked for it, by its place in the configuration.
    pub(super) endpoint: usize,
    /// The token server, as the challenge names it.
    pub(super) realm: String,
    /// The challenge's `service`.
    pub(super) service: Option<String>,
    /// The scope, as asked for.
    pub(super) scope: String,
    /// Counts the logins of the endpoint: what was given to one is not used once another has come; 0 for
    /// nobody in particular.
    pub(super) login: u64,
}

impl TokenKey {
    /// Size of an entry, without its token.
    fn weight(&self) -> usize {
        let service = self.service.as_ref().map_or(0, String::len);
        ENTRY_BYTES + self.realm.len() + service + self.scope.len()
    }
}

/// A token, ready to be sent.
#[derive(Clone)]
pub(super) struct Token {
    /// `Bearer …`, marked sensitive.
    header: HeaderValue,
    /// Until when it is used; its end is a little later.
    fresh_until: Instant,
}

impl Token {
    /// The value of `Authorization`.
    pub(super) fn header(&self) -> &HeaderValue {
        &self.header
    }

    /// Reads a token server's answer to a request that was sent at `asked`; `date` is when it was given, by the
    /// server's own clock.
    ///
    /// # Errors
    /// [`FetchError::Token`].
    pub(super) fn parse(
        body: &[u8],
        asked: Instant,
        date: Option<SystemTime>,
    ) -> Result<Self, FetchError> {
        let wrong = |why: &str| FetchError::Token(why.to_owned());
        let answer: serde_json::Value =
            serde_json::from_slice(body).map_err(|_| wrong("the answer is not JSON"))?;
        let text = ["token", "access_token"]
            .into_iter()
            .filter_map(|name| answer.get(name)?.as_str())
            .find(|text| !text.is_empty())
            .ok_or_else(|| wrong("the answer holds no token"))?;
        let header = bearer(text).map_err(|why| FetchError::Token(why.to_owned()))?;
        let life = answer
            .get("expires_in")
            .and_then(seconds)
            .unwrap_or(LIFE_MIN)
            .clamp(LIFE_MIN, LIFE_MAX);
        // Servers give the same token to several who ask: its life began with the first.
        let age = issued(&answer).and_then(|issued| date?.duration_since(issued).ok());
        let life = life.saturating_sub(age.unwrap_or_default());
        let margin = (life / 5).min(MARGIN_MAX);
        Ok(Self {
            header,
            fresh_until: asked + life.saturating_sub(margin),
        })
    }
}

/// A number of seconds, as some write it: as a number, with a fraction, or as text.
fn seconds(value: &serde_json::Value) -> Option<Duration> {
    let number = match value.as_str() {
        Some(text) => text.trim().parse().ok()?,
        None => value.as_f64()?,
    };
    // Negative ones are none; the largest are cut where a life is.
    Duration::try_from_secs_f64(number.min(LIFE_MAX.as_secs_f64())).ok()
}

/// `issued_at` (RFC 3339).
fn issued(answer: &serde_json::Value) -> Option<SystemTime> {
    humantime::parse_rfc3339_weak(answer.get("issued_at")?.as_str()?).ok()
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

/// `Bearer …`, marked sensitive.
///
/// # Errors
/// Says what is wrong with the token.
pub(super) fn bearer(token: &str) -> Result<HeaderValue, &'static str> {
    // RFC 6750 section 2.1: b64token is a subset of this.
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the token holds characters that no header may");
    }
    let mut header =
        HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| "the token fits no header")?;
    header.set_sensitive(true);
    Ok(header)
}

/// The tokens of one upstream.
pub(super) struct Tokens {
    slots: Mutex<Weighed<TokenKey, Arc<Slot>>>,
}

/// One token and those who wait for it.
#[derive(Default)]
struct Slot {
    /// Number of fetches that have ended. Whoever sees it change while waiting was there during a fetch, and
    /// takes its result, be it good or bad.
    ended: AtomicU64,
    /// Locked while a fetch is under way. A fetch that is dropped unlocks it, and the next in line fetches.
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    /// The failure of the last fetch: told to those who waited for it, and to nobody later.
    failure: Option<FetchError>,
}

impl Tokens {
    /// No tokens yet.
    pub(super) fn new() -> Self {
        Self {
            slots: Mutex::new(Weighed::new(TOKENS_BYTES_MAX)),
        }
    }

    /// The token for `key`: a fresh one that is there, or else by `fetch`, of which at most one runs
    /// for a key at a time.
    ///
    /// # Errors
    /// Those of `fetch`, shared by all who waited for it; [`FetchError::Timeout`].
    pub(super) async fn obtain(
        &self,
        key: &TokenKey,
        deadline: Deadline,
        fetch: impl Future<Output = Result<Token, FetchError>>,
    ) -> Result<Token, FetchError> {
        let slot = self.slot(key);
        let seen = slot.ended.load(Ordering::Acquire);
        let mut state = deadline.run("a token", slot.state.lock()).await?;
        if let Some(token) = &state.token
            && token.fresh_until > Instant::now()
        {
            return Ok(token.clone());
        }
        if let Some(failure) = &state.failure
            && slot.ended.load(Ordering::Acquire) != seen
        {
            return Err(failure.clone());
        }
        let result = fetch.await;
        *state = match &result {
            Ok(token) => State {
                token: Some(token.clone()),
                failure: None,
            },
            // The time that ran out was this caller's: the others have their own.
            Err(FetchError::Timeout(_)) => State::default(),
            Err(failure) => State {
                token: None,
                failure: Some(failure.clone()),
            },
        };
        slot.ended.fetch_add(1, Ordering::Release);
        drop(state);
        if let Ok(token) = &result {
            // It may have been given up meanwhile: then it is kept for those who wait for it alone.
            let mut slots = self.slots();
            let is_there = slots.get(key).is_some_and(|kept| Arc::ptr_eq(kept, &slot));
            if is_there {
                let weight = key.weight() + token.header.len();
                slots.put(key.clone(), slot, weight);
            }
        }
        result
    }

    /// Forgets `token`, which the upstream refused; a newer one under the same key stays.
    pub(super) async fn refuse(&self, key: &TokenKey, token: &HeaderValue, deadline: Deadline) {
        let slot = self.slot(key);
        if let Ok(mut state) = deadline.run("a token", slot.state.lock()).await
            && state
                .token
                .as_ref()
                .is_some_and(|kept| kept.header == *token)
        {
            state.token = None;
        }
    }

    fn slot(&self, key: &TokenKey) -> Arc<Slot> {
        let mut slots = self.slots();
        if let Some(slot) = slots.get(key) {
            return Arc::clone(slot);
        }
        let slot = Arc::<Slot>::default();
        slots.put(key.clone(), Arc::clone(&slot), key.weight());
        slot
    }

    fn slots(&self) -> MutexGuard<'_, Weighed<TokenKey, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Life of a token when the server does not say, and the least that a server may say
/// (token.md: "a token should never be returned with less than 60 seconds to live").
const LIFE_MIN: Duration = Duration::from_mins(1);
/// Longer lives are cut to this; ECR's, the longest, are 12 hours.
const LIFE_MAX: Duration = Duration::from_hours(24);
/// A token is not used in the last fifth of its life, at most this long: clocks differ, and the
/// request must arrive before the end.
const MARGIN_MAX: Duration = Duration::from_secs(30);
/// Memory for the tokens of one login at one endpoint, about one for each repository in use: thousands of a few KiB.
const TOKENS_BYTES_MAX: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> TokenKey {
        TokenKey {
            endpoint: 0,
            realm: "https://auth.example/token".to_owned(),
            service: None,
            scope: "repository:a:pull".to_owned(),
            login: 0,
        }
    }

    fn token(text: &str, life_secs: u64) -> Token {
        let body = format!(r#"{{"token":"{text}","expires_in":{life_secs}}}"#);
        Token::parse(body.as_bytes(), Instant::now(), None).unwrap()
    }

    fn later() -> Deadline {
        Deadline::after(Duration::from_secs(5))
    }

    #[test]
    fn answers_are_read_leniently_and_checked() {
        let now = Instant::now();
        let life = |body: &str| {
            Token::parse(body.as_bytes(), now, None)
                .map(|token| token.fresh_until.duration_since(now).as_secs())
        };
        assert_eq!(life(r#"{"token":"a"}"#), Ok(48));
        assert_eq!(life(r#"{"access_token":"a","expires_in":300}"#), Ok(270));
        assert_eq!(
            life(r#"{"token":"","access_token":"a","expires_in":1}"#),
            Ok(48)
        );
        assert_eq!(life(r#"{"token":"a","expires_in":null}"#), Ok(48));
        assert_eq!(
            life(r#"{"token":"a","expires_in":99999999999}"#),
            Ok(24 * 3600 - 30)
        );
        for (expires, left) in [
            ("\"300\"", 270),
            ("300.5", 270),
            ("0", 48),
            ("-5", 48),
            ("1e300", 24 * 3600 - 30),
            ("\"soon\"", 48),
            ("[]", 48),
        ] {
            let body = format!(r#"{{"token":"a","expires_in":{expires}}}"#);
            assert_eq!(life(&body), Ok(left), "{expires}");
        }
        for bad in [
            "",
            "[]",
            "{}",
            "<html>",
            r#"{"token":"a b"}"#,
            r#"{"token":"a\r\nX: y"}"#,
            r#"{"token":7}"#,
        ] {
            assert!(matches!(life(bad), Err(FetchError::Token(_))), "{bad}");
        }
        assert_eq!(token("abc.def", 60).header(), "Bearer abc.def");
    }

    #[test]
    fn a_token_that_was_issued_before_ends_before() {
        let now = Instant::now();
        let date = |text| humantime::parse_rfc3339_weak(text).ok();
        let left = |issued: &str, at| {
            let body = format!(r#"{{"token":"a","expires_in":300,"issued_at":"{issued}"}}"#);
            let token = Token::parse(body.as_bytes(), now, at).unwrap();
            token.fresh_until.duration_since(now).as_secs()
        };
        let noon = date("2026-01-01T12:00:00Z");
        assert_eq!(left("2026-01-01T12:00:00Z", noon), 270);
        assert_eq!(left("2026-01-01T11:57:00.123Z", noon), 96);
        assert_eq!(left("2026-01-01T11:50:00Z", noon), 0);
        // In the future, by no clock at all, or senseless.
        assert_eq!(left("2026-01-01T13:00:00Z", noon), 270);
        assert_eq!(left("2026-01-01T11:50:00Z", None), 270);
        assert_eq!(left("yesterday", noon), 270);
    }

    #[test]
    fn debug_shows_no_token() {
        let token = token("s3cret", 60);
        assert!(!format!("{token:?} {:?}", token.header()).contains("s3cret"));
    }

    #[tokio::test]
    async fn a_token_is_kept_until_shortly_before_its_end() {
        let tokens = Tokens::new();
        let obtain = async |text: &'static str, age_secs| {
            let age = Duration::from_secs(age_secs);
            let asked = Instant::now().checked_sub(age).unwrap();
            let body = format!(r#"{{"token":"{text}","expires_in":100}}"#);
            let fetch = async { Token::parse(body.as_bytes(), asked, None) };
            let token = tokens.obtain(&key(), later(), fetch).await.unwrap();
            token.header().to_str().unwrap().to_owned()
        };
        // 100 s less a fifth: the first token is too old already when it is asked for again.
        assert_eq!(obtain("one", 81).await, "Bearer one");
        assert_eq!(obtain("two", 70).await, "Bearer two");
        assert_eq!(obtain("three", 0).await, "Bearer two");
    }

    #[tokio::test]
    async fn a_failure_is_shared_by_those_who_waited_and_then_forgotten() {
        let tokens = Tokens::new();
        let fetches = AtomicU64::new(0);
        let failing = || async {
            fetches.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Err(FetchError::Token("down".to_owned()))
        };
        let all = (0..20).map(|_| async { tokens.obtain(&key(), later(), failing()).await });
        for result in futures_util::future::join_all(all).await {
            assert_eq!(result.unwrap_err(), FetchError::Token("down".to_owned()));
        }
        assert_eq!(fetches.load(Ordering::Relaxed), 1);
        let again = tokens
            .obtain(&key(), later(), async { Ok(token("up", 60)) })
            .await;
        assert!(again.is_ok());
    }

    #[tokio::test]
    async fn a_fetch_that_is_dropped_is_taken_over() {
        let (tokens, key) = (Tokens::new(), key());
        let mut stuck = Box::pin(tokens.obtain(&key, later(), std::future::pending()));
        assert!(futures_util::poll!(&mut stuck).is_pending());
        let mut next = Box::pin(tokens.obtain(&key, later(), async { Ok(token("b", 60)) }));
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(stuck);
        assert_eq!(next.await.unwrap().header(), "Bearer b");
    }

    #[tokio::test]
    async fn only_the_refused_token_is_forgotten() {
        let tokens = Tokens::new();
        let old = tokens
            .obtain(&key(), later(), async { Ok(token("old", 60)) })
            .await
            .unwrap();
        tokens.refuse(&key(), old.header(), later()).await;
        let new = tokens
            .obtain(&key(), later(), async { Ok(token("new", 60)) })
            .await
            .unwrap();
        assert_eq!(new.header(), "Bearer new");
        tokens.refuse(&key(), old.header(), later()).await;
        let kept = tokens
            .obtain(&key(), later(), async { Ok(token("other", 60)) })
            .await
            .unwrap();
        assert_eq!(kept.header(), "Bearer new");
    }
}
