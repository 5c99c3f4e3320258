//! What upstream said a moment ago that there is not: so that a misspelt name in a cluster's
//! manifests does not become a flood of the same question.

use std::time::Duration;

use moka::sync::Cache;

use super::{Inner, MirrorError, Source};
use crate::clock::Timestamp;
use crate::oci::{Accept, Digest, Reference};

/// Memory for the questions that are remembered, in bytes: tens of thousands of them. Clients choose
/// what is asked, and its length.
const NEGATIVE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What a question takes beside its texts: map, timestamps, digest.
const ENTRY_BYTES: usize = 300;

/// What was asked of a repository.
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
    /// What refers to a digest.
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
    answers: Cache<(Source, What), (Timestamp, MirrorError)>,
}

impl Default for Negative {
    fn default() -> Self {
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
            answers: answers.build(),
        }
    }
}

impl Inner {
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
        self.check_unknown(source, &what)?;
        let answer = ask.await;
        match &answer {
            Ok(_) => self.forget_unknown(source, what),
            Err(error) => self.note_unknown(source, what, error),
        }
        answer
    }

    /// Fails if upstream said "no such thing" to the question within `negative_ttl`.
    ///
    /// # Errors
    /// What upstream said.
    pub(super) fn check_unknown(&self, source: &Source, what: &What) -> Result<(), MirrorError> {
        let key = (source.clone(), what.clone());
        let Some((at, error)) = self.negative.answers.get(&key) else {
            return Ok(());
        };
        let now = self.clock.now();
        // A clock that was set back makes an answer look as if it came from the future: it is asked again.
        if at <= now && now.since(at) < self.negative_ttl(source, what) {
            return Err(MirrorError::Remembered(Box::new(error)));
        }
        self.negative.answers.invalidate(&key);
        Ok(())
    }

    /// Remembers an error, if it is a "no such thing".
    pub(super) fn note_unknown(&self, source: &Source, what: What, error: &MirrorError) {
        if error.is_unknown() && !self.negative_ttl(source, &what).is_zero() {
            let key = (source.clone(), what);
            let answer = (self.clock.now(), error.clone());
            self.negative.answers.insert(key, answer);
        }
    }

    /// Forgets what upstream said of a question: it is known better now.
    pub(super) fn forget_unknown(&self, source: &Source, what: What) {
        self.negative.answers.invalidate(&(source.clone(), what));
    }

    fn negative_ttl(&self, source: &Source, what: &What) -> Duration {
        let policy = match what {
            What::Manifest(Reference::Tag(tag), _) => self.config.of_tag(source, tag),
            What::Manifest(Reference::Digest(_), _) | What::Blob(_) | What::List(_) => {
                self.config.of_repository(source)
            }
        };
        policy.negative_ttl
    }
}
