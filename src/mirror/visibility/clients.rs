//! Content of upstreams that decide for each client: its own credential is shown to the upstream, whose answer is the
//! verdict on a repository.
//!
//! Whatever this mirror has of the repository, or is fetching with anybody's login, is served to those alone who have
//! such a verdict. It is remembered under a keyed hash of the credential, for a short time; one that refuses, for a
//! shorter one. While the upstream cannot be asked no verdict is prolonged.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moka::sync::Cache;
use serde::Deserialize;

use super::look::{Refusal, Sought, ask, is_refusal};
use crate::clock::{Clock, Timestamp};
use crate::mirror::MirrorError;
use crate::mirror::core::{Core, Tasks, Upstreams};
use crate::mirror::single_flight::{Shared, SingleFlight};
use crate::mirror::upstream_set::PublicView;
use crate::oci::UpstreamName;
use crate::oci::directory::Source;
use crate::telemetry::Kind;
use crate::upstream::{ClientCredential, OnBehalf};

/// Memory for verdicts of one kind: some ten thousand. One that is pushed out is asked for again.
const VERDICTS_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Size of an entry beside the texts in it.
const ENTRY_BYTES: usize = 300;

/// The longest time that a refusal is remembered: whoever has just been given access, or has logged in, tries again.
const REFUSED_MAX: Duration = Duration::from_secs(15);

/// A refusal is remembered for this part of the time that a yes is.
const REFUSED_PART: u32 = 4;

/// Stands for a credential, and does not tell it; `None`: there is none.
type Fingerprint = Option<[u8; 32]>;

/// A refusal, and until when it is remembered.
type Remembered = (MirrorError, Timestamp);

/// Verdicts of upstreams on clients.
#[derive(Debug)]
pub(super) struct Clients {
    upstreams: Upstreams,
    /// Of this process: what is in memory cannot be compared with guesses elsewhere.
    key: hmac::Key,
    /// Until when somebody may see a repository.
    seen: Cache<(Fingerprint, Source), Timestamp>,
    refused: Cache<(Fingerprint, Source, Sought), Remembered>,
    looks: Arc<SingleFlight<(Fingerprint, Source, Sought), Looked>>,
    /// Answers to `/v2/`.
    greeted: Cache<(Fingerprint, UpstreamName), (Result<(), MirrorError>, Timestamp)>,
    greetings: Arc<SingleFlight<(Fingerprint, UpstreamName), Looked>>,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
}

/// The answer of an upstream to one credential. All who wait for it have sent that one.
#[derive(Clone, Debug)]
struct Looked(Result<(), MirrorError>);

impl Shared for Looked {
    fn is_the_askers_own(&self) -> bool {
        matches!(self.0, Err(MirrorError::Loop(_) | MirrorError::Limited(_)))
    }
}

impl Clients {
    pub(super) fn new(core: &Core) -> Self {
        let bytes_of = |source: &Source| {
            ENTRY_BYTES + source.upstream.as_str().len() + source.repository.as_str().len()
        };
        Self {
            upstreams: core.upstreams.clone(),
            key: random_key(),
            seen: Cache::builder()
                .weigher(move |(_, source): &(Fingerprint, Source), _: &Timestamp| {
                    weight(bytes_of(source))
                })
                .max_capacity(VERDICTS_BYTES_MAX)
                .build(),
            refused: Cache::builder()
                .weigher(
                    move |(_, source, _): &(Fingerprint, Source, Sought), it: &Remembered| {
                        weight(bytes_of(source) + bytes_of_error(&it.0))
                    },
                )
                .max_capacity(VERDICTS_BYTES_MAX)
                .build(),
            looks: Arc::default(),
            greeted: Cache::builder()
                .weigher(
                    |_: &(Fingerprint, UpstreamName), (answer, _): &(Result<_, _>, Timestamp)| {
                        let error = answer.as_ref().err();
                        weight(ENTRY_BYTES + error.map_or(0, bytes_of_error))
                    },
                )
                .max_capacity(VERDICTS_BYTES_MAX)
                .build(),
            greetings: Arc::default(),
            clock: Arc::clone(&core.clock),
            tasks: core.tasks.clone(),
        }
    }

    /// True if an upstream decides for each client.
    pub(super) fn decides(&self, upstream: &UpstreamName) -> bool {
        self.upstreams.now().client_views.contains_key(upstream)
    }

    /// Forgets what upstreams have said of clients.
    pub(super) fn forget(&self) {
        self.seen.invalidate_all();
        self.refused.invalidate_all();
        self.greeted.invalidate_all();
    }

    /// An upstream whose visibility is `upstream`, as clients see it.
    fn view(&self, upstream: &UpstreamName) -> Option<PublicView> {
        self.upstreams.now().client_views.get(upstream).cloned()
    }

    /// The verdict on what the present client wants, by the credential that it has sent for the upstream.
    ///
    /// # Errors
    /// The upstream's challenge; that there is no such thing, which is also the answer where it denies access; its failure
    /// to answer.
    pub(super) async fn check(
        self: &Arc<Self>,
        source: &Source,
        sought: Sought,
    ) -> Result<(), Refusal> {
        let behalf = OnBehalf::current();
        let asker = self.fingerprint(&source.upstream, behalf.credential());
        let now = self.clock.now();
        let key = (asker, source.clone());
        if self.seen.get(&key).is_some_and(|until| now < until) {
            return Ok(());
        }
        let key = (asker, source.clone(), sought);
        if let Some((error, until)) = self.refused.get(&key)
            && now < until
        {
            let refusal = Refusal::of_client(error, &key.2);
            return Err(refusal.remembered());
        }
        let (clients, wanted, sought) = (Arc::clone(self), source.clone(), key.2.clone());
        let kind = key.2.clone();
        let look = move || async move { clients.look(asker, &wanted, sought).await };
        let looked = self.looks.run(key, self.tasks.runway(source), look).await;
        let (Looked(verdict), _role) = looked.map_err(Refusal::failure)?;
        verdict.map_err(|error| Refusal::of_client(error, &kind))
    }

    /// Asks the upstream with the credential of the present client, and remembers what it says.
    async fn look(&self, asker: Fingerprint, source: &Source, sought: Sought) -> Looked {
        let Some(view) = self.view(&source.upstream) else {
            return Looked(Err(MirrorError::NameUnknown));
        };
        let answer = ask(&view.upstream, source, &sought).await;
        let now = self.clock.now();
        match &answer {
            Ok(()) => {
                let until = no_longer_than_the_credential(now.plus(view.ttl));
                self.seen.insert((asker, source.clone()), until);
            }
            Err(error) if is_refusal(error) => {
                if !is_absence(error) {
                    self.seen.invalidate(&(asker, source.clone()));
                }
                let until = now.plus(refused_for(view.ttl));
                let key = (asker, source.clone(), sought);
                self.refused.insert(key, (error.clone(), until));
                tracing::debug!(
                    upstream = %source.upstream, repository = %source.repository, %error,
                    has_credential = asker.is_some(),
                    "the upstream does not give this to the client, so it is hidden from it; \
                     upstream.*.visibility decides"
                );
            }
            Err(_) => {}
        }
        Looked(answer)
    }

    /// Says what the upstream says at `/v2/` to the present client.
    ///
    /// # Errors
    /// The upstream's challenge, or its failure to answer.
    pub(super) async fn greet(
        self: &Arc<Self>,
        upstream: &UpstreamName,
    ) -> Result<(), MirrorError> {
        let Some(view) = self.view(upstream) else {
            return Ok(());
        };
        let behalf = OnBehalf::current();
        let asker = self.fingerprint(upstream, behalf.credential());
        let key = (asker, upstream.clone());
        let now = self.clock.now();
        if let Some((answer, until)) = self.greeted.get(&key)
            && now < until
        {
            return answer;
        }
        let (clients, named, ttl) = (Arc::clone(self), upstream.clone(), view.ttl);
        let client = view.upstream.clone();
        let ping = move || async move {
            let answer = client.ping().await;
            let answer = answer.map_err(|error| MirrorError::of_fetch(Kind::Other, error));
            clients.remember_greeting(asker, named, ttl, &answer);
            Looked(answer)
        };
        let runway = self.tasks.runway_to(upstream);
        let (Looked(answer), _role) = self.greetings.run(key, runway, ping).await?;
        answer
    }

    fn remember_greeting(
        &self,
        asker: Fingerprint,
        upstream: UpstreamName,
        ttl: Duration,
        answer: &Result<(), MirrorError>,
    ) {
        let lasts = match answer {
            Ok(()) => ttl,
            // To nobody in particular it is the upstream's manner.
            Err(MirrorError::Challenged(_)) if asker.is_none() => ttl,
            Err(error) if is_refusal(error) => refused_for(ttl),
            Err(_) => return,
        };
        let until = no_longer_than_the_credential(self.clock.now().plus(lasts));
        self.greeted
            .insert((asker, upstream), (answer.clone(), until));
    }

    /// Tells which repositories the present client has been shown, and may be listed to it.
    pub(super) fn shown(&self) -> impl Fn(&Source) -> bool {
        let (behalf, now) = (OnBehalf::current(), self.clock.now());
        let credential = behalf.credential();
        let asker = credential.map(|it| (it.upstream().clone(), self.hash(it)));
        move |source| {
            let own = asker.as_ref().filter(|(name, _)| *name == source.upstream);
            let key = (own.map(|(_, hash)| *hash), source.clone());
            self.seen.get(&key).is_some_and(|until| now < until)
        }
    }

    /// Stands for what the client has sent for this upstream.
    fn fingerprint(
        &self,
        upstream: &UpstreamName,
        credential: Option<&ClientCredential>,
    ) -> Fingerprint {
        let credential = credential.filter(|it| it.upstream() == upstream);
        credential.map(|it| self.hash(it))
    }

    fn hash(&self, credential: &ClientCredential) -> [u8; 32] {
        let tag = hmac::sign(&self.key, credential.expose());
        // HMAC-SHA256 gives 32 bytes.
        <[u8; 32]>::try_from(tag.as_ref()).unwrap_or_default()
    }
}

/// The time for which a refusal is remembered.
fn refused_for(ttl: Duration) -> Duration {
    (ttl / REFUSED_PART).min(REFUSED_MAX)
}

/// This time, or the one at which the present client's credential ends, if that is before.
fn no_longer_than_the_credential(until: Timestamp) -> Timestamp {
    let ends = OnBehalf::current().credential().and_then(expiry);
    ends.map_or(until, |ends| ends.min(until))
}

/// The time at which a token ends, if it says so: a JSON Web Token (RFC 7519). Only the upstream can check it, and has.
fn expiry(credential: &ClientCredential) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Claims {
        exp: u64,
    }
    let text = std::str::from_utf8(credential.expose()).ok()?;
    let (scheme, token) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let body = URL_SAFE_NO_PAD
        .decode(token.trim().split('.').nth(1)?)
        .ok()?;
    let claims: Claims = serde_json::from_slice(&body).ok()?;
    Some(Timestamp(claims.exp.saturating_mul(1000)))
}

/// True if the upstream says that there is no such thing, which is no word on the credential.
fn is_absence(error: &MirrorError) -> bool {
    matches!(
        error,
        MirrorError::ManifestUnknown | MirrorError::BlobUnknown
    )
}

fn bytes_of_error(error: &MirrorError) -> usize {
    if let MirrorError::Challenged(challenges) = error {
        challenges.bytes()
    } else {
        // Fixed phrases: nothing else is remembered.
        0
    }
}

fn weight(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn random_key() -> hmac::Key {
    let mut bytes = [0; 32];
    if rand::fill(&mut bytes).is_err() {
        // The keys of `RandomState` are random, and so is the hash of nothing.
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&RandomState::new().hash_one(0).to_ne_bytes());
        }
    }
    hmac::Key::new(hmac::HMAC_SHA256, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn credential(text: &str) -> ClientCredential {
        let upstream = UpstreamName::parse("a.io").unwrap();
        ClientCredential::new(upstream, &HeaderValue::try_from(text).unwrap()).unwrap()
    }

    #[test]
    fn a_token_says_when_it_ends() {
        let token = |claims: &str| format!("Bearer e30.{}.x", URL_SAFE_NO_PAD.encode(claims));
        let ends = |text: &str| expiry(&credential(text)).map(|at| at.0);
        assert_eq!(ends(&token(r#"{"exp":17,"iss":"x"}"#)), Some(17_000));
        assert_eq!(
            ends(&token(r#"{"exp":18446744073709551615}"#)),
            Some(u64::MAX)
        );
        for other in [
            token("{}"),
            token(r#"{"exp":-1}"#),
            token(r#"{"exp":"x"}"#),
            "Bearer opaque".to_owned(),
            "Basic YTpi".to_owned(),
            "Bearer a.!.c".to_owned(),
        ] {
            assert_eq!(ends(&other), None, "{other}");
        }
    }

    #[test]
    fn a_refusal_is_remembered_for_less_than_a_yes() {
        for seconds in [0, 1, 30, 300, 86_400] {
            let ttl = Duration::from_secs(seconds);
            assert!(refused_for(ttl) <= ttl / 4 && refused_for(ttl) <= REFUSED_MAX);
        }
    }

    #[test]
    fn keys_are_not_the_same_twice() {
        let tag = |key: &hmac::Key| hmac::sign(key, b"x").as_ref().to_vec();
        assert_ne!(tag(&random_key()), tag(&random_key()));
    }
}
