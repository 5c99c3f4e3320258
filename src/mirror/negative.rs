//! Things that upstream said a moment ago that there are not: so that a misspelt name in a cluster's
//! manifests does not become a flood of the same question.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use super::{MirrorError, Policies, Source};
use crate::clock::{Clock, Timestamp};
use crate::oci::{Accept, Digest, Reference};

/// Memory for the questions that are remembered, in bytes: tens of thousands of them. Clients choose
/// what is asked, and its length.
const NEGATIVE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Bytes that a question takes beside its texts: map, timestamps, digest.
const ENTRY_BYTES: usize = 300;

/// The question to a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum What {
    /// A manifest, in one of these formats: some registries say 404 to who cannot read what is there.
    Manifest(Reference, Accept),
    /// A blob.
    Blob(Digest),
    /// A list.
    List(List),
}

/// A list that upstream is asked for each time, with these parameters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum List {
    /// The tags.
    Tags(Vec<(String, String)>),
    /// The manifests that refer to a digest.
    Referrers(Digest, Vec<(String, String)>),
}

impl List {
    /// Its parameters.
    pub(super) fn query(&self) -> &[(String, String)] {
        let (Self::Tags(query) | Self::Referrers(_, query)) = self;
        query
    }

    /// Memory for its parameters, in bytes.
    pub(super) fn weight(&self) -> usize {
        let query = self.query().iter();
        query
            .map(|(name, value)| name.len() + value.len() + 48)
            .sum()
    }
}

/// The questions that upstream answered with 404 lately.
#[derive(Debug)]
pub(super) struct Negative {
    policies: Policies,
    clock: Arc<dyn Clock>,
    answers: Cache<(Source, What), (Timestamp, MirrorError)>,
}

impl Negative {
    /// Forgets all of them.
    pub(super) fn forget_all(&self) {
        self.answers.invalidate_all();
    }

    pub(super) fn new(policies: &Policies, clock: &Arc<dyn Clock>) -> Self {
        let weigh = |(source, what): &(Source, What), _: &(Timestamp, MirrorError)| {
            let name = source.upstream.as_str().len() + source.repository.as_str().len();
            let texts = match what {
                What::Manifest(Reference::Tag(tag), accept) => tag.as_str().len() + accept.weight(),
                What::Manifest(Reference::Digest(_), accept) => accept.weight(),
                What::Blob(_) => 0,
                What::List(list) => list.weight(),
            };
            u32::try_from(ENTRY_BYTES + name + texts).unwrap_or(u32::MAX)
        };
        let answers = Cache::builder()
            .max_capacity(NEGATIVE_BYTES_MAX)
            .weigher(weigh);
        Self {
            policies: policies.clone(),
            clock: Arc::clone(clock),
            answers: answers.build(),
        }
    }

    /// Upstream's answer, unless it said "no such thing" to the same question within `negative_ttl`;
    /// if it says so now, that is remembered.
    ///
    /// # Errors
    /// The remembered one, or that of `ask`.
    pub(super) async fn unless_unknown<T>(
        &self,
        source: &Source,
        what: What,
        ask: impl Future<Output = Result<T, MirrorError>>,
    ) -> Result<T, MirrorError> {
        self.check(source, &what)?;
        let answer = ask.await;
        match &answer {
            Ok(_) => self.forget(source, what),
            Err(error) => self.note(source, what, error),
        }
        answer
    }

    /// Fails if upstream said "no such thing" to the question within `negative_ttl`.
    ///
    /// # Errors
    /// Upstream's answer.
    pub(super) fn check(&self, source: &Source, what: &What) -> Result<(), MirrorError> {
        let key = (source.clone(), what.clone());
        let Some((at, error)) = self.answers.get(&key) else {
            return Ok(());
        };
        let now = self.clock.now();
        // A clock that was set back makes an answer look as if it came from the future: it is asked again.
        if at <= now && now.since(at) < self.ttl(source, what) {
            return Err(MirrorError::Remembered(Box::new(error)));
        }
        self.answers.invalidate(&key);
        Ok(())
    }

    /// Remembers an error, if it is a "no such thing" that was not remembered already.
    pub(super) fn note(&self, source: &Source, what: What, error: &MirrorError) {
        self.note_of(source, what, error, Duration::ZERO);
    }

    /// Remembers an error that upstream has told somebody so long ago.
    pub(super) fn note_of(&self, source: &Source, what: What, error: &MirrorError, age: Duration) {
        let is_old = matches!(error, MirrorError::Remembered(_));
        if error.is_unknown() && !is_old && age < self.ttl(source, &what) {
            let key = (source.clone(), what);
            let answer = (self.clock.now().before(age), error.clone());
            self.answers.insert(key, answer);
        }
    }

    /// Time since upstream said "no such thing" to a question, if that still counts.
    pub(super) fn age(&self, source: &Source, what: &What) -> Option<Duration> {
        let (at, _) = self.answers.get(&(source.clone(), what.clone()))?;
        let age = self.clock.now().since(at);
        (age < self.ttl(source, what)).then_some(age)
    }

    /// Forgets what upstream said of a question: it is known better now.
    pub(super) fn forget(&self, source: &Source, what: What) {
        self.answers.invalidate(&(source.clone(), what));
    }

    fn ttl(&self, source: &Source, what: &What) -> Duration {
        let policy = match what {
            What::Manifest(Reference::Tag(tag), _) => self.policies.of_tag(source, tag),
            What::Manifest(Reference::Digest(_), _) | What::Blob(_) | What::List(_) => {
                self.policies.of_repository(source)
            }
        };
        policy.negative_ttl
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Policy, Revalidate, StaleOn, Ttl};
    use super::*;
    use crate::clock::ManualClock;
    use crate::oci::{Repository, UpstreamName};

    fn policy(negative_ttl: Duration) -> Config {
        Config::of(Policy {
            ttl: Ttl::For(Duration::from_mins(1)),
            revalidate: Revalidate::Blocking,
            stale_if_error: Duration::ZERO,
            stale_on: StaleOn::NOTHING,
            keep_deleted: false,
            negative_ttl,
        })
    }

    fn source(repository: &str) -> Source {
        Source {
            upstream: UpstreamName::parse("docker.io").unwrap(),
            repository: Repository::parse(repository).unwrap(),
        }
    }

    #[tokio::test]
    async fn a_404_is_remembered_for_its_ttl_and_other_errors_are_not() {
        let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
        let as_clock: Arc<dyn Clock> = clock.clone();
        let negative = Negative::new(&policy(Duration::from_secs(10)).into(), &as_clock);
        let (source, other) = (source("library/app"), source("library/other"));
        let what = || What::Blob(Digest::Sha256([1; 32]));
        let ask = |answer: Result<(), MirrorError>| {
            negative.unless_unknown(&source, what(), async move { answer })
        };
        assert!(ask(Err(MirrorError::Denied)).await.is_err());
        assert!(negative.check(&source, &what()).is_ok());
        assert!(ask(Err(MirrorError::BlobUnknown)).await.is_err());
        assert!(matches!(
            ask(Ok(())).await,
            Err(MirrorError::Remembered(said)) if matches!(*said, MirrorError::BlobUnknown)
        ));
        assert!(negative.check(&other, &what()).is_ok());
        clock.advance(Duration::from_secs(10));
        assert!(ask(Ok(())).await.is_ok());
        negative.note(&source, what(), &MirrorError::BlobUnknown);
        negative.forget(&source, what());
        assert!(negative.check(&source, &what()).is_ok());
    }
}
