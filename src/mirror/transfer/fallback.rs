//! The way on when a fill's bytes are wrong: invalidating them, and falling back to one endpoint.

use super::budget::Budget;
use super::job::{Failure, Job};
use super::origin::Origin;
use super::provenance::FallBack;
use crate::mirror::MirrorError;
use crate::oci::Digest;
use crate::store::{Partial, VerifyError};
use crate::upstream::FetchError;

/// Decides about a fill whose bytes are, or may be, wrong.
pub(super) struct Fallback<'a, 'j>(pub(super) &'a Job<'j>);

impl Fallback<'_, '_> {
    /// The bytes that are there are wrong: falls back to another endpoint.
    ///
    /// # Errors
    /// The error for the readers when there is none.
    pub(super) async fn invalidate(
        &self,
        partial: &Partial<MirrorError>,
        error: VerifyError,
    ) -> Result<(), MirrorError> {
        let Self(job) = self;
        let digest = job.digest;
        let (upstream, repository) = (&job.source.upstream, &job.source.repository);
        let next = match &error {
            VerifyError::Size { .. } | VerifyError::Digest { .. } => {
                let endpoints = job.origins.endpoints();
                let mut state = job.state();
                state.reliability.others.clear();
                state.reliability.provenance.invalidated(&endpoints)
            }
            VerifyError::Store(_) => None,
        };
        let Some(next) = next else {
            tracing::error!(
                %upstream, %repository, %digest, %error,
                "upstream sent wrong content; nothing of it is kept, and its readers are cut off"
            );
            return Err(wrong_content(digest, error));
        };
        tracing::error!(
            %upstream, %repository, %digest, %error,
            wrong = next.wrong.map(|origin| job.origins.name(origin).into_owned()),
            next = %job.origins.name(next.only), without_ranges = next.without_ranges,
            "upstream sent wrong content; fetching it again before anybody gets the end of it"
        );
        self.fall_back(partial, next).await
    }

    /// The one endpoint that was fallen back to could not give the rest: another one may give everything.
    ///
    /// # Errors
    /// The same error, when there is none.
    pub(super) async fn without_the_last(
        &self,
        partial: &Partial<MirrorError>,
        error: MirrorError,
    ) -> Result<(), MirrorError> {
        let Self(job) = self;
        let Some(only) = job.state().reliability.only else {
            return Err(error);
        };
        let endpoints = job.origins.endpoints();
        let next = {
            let mut state = job.state();
            state.reliability.provenance.gave_up(only, &endpoints)
        };
        let Some(next) = next else {
            return Err(error);
        };
        tracing::warn!(
            upstream = %job.source.upstream, repository = %job.source.repository,
            digest = %job.digest, %error, endpoint = %job.origins.name(only),
            next = %job.origins.name(next.only),
            "the endpoint that a blob was fetched again from gave up; asking another for all of it"
        );
        self.fall_back(partial, next).await
    }

    /// From now on only one endpoint is asked, with a budget of its own.
    async fn fall_back(
        &self,
        partial: &Partial<MirrorError>,
        next: FallBack,
    ) -> Result<(), MirrorError> {
        let Self(job) = self;
        if let Some(wrong) = next.wrong {
            job.origins.distrust(wrong);
        }
        if next.without_ranges {
            job.origins.ignores_range(next.only);
        }
        {
            let mut state = job.state();
            state.over = job.means.tasks.suspending().child_token();
            state.budget = Budget::new(job.upstream.retry_delay());
            let reliability = &mut state.reliability;
            reliability.only = Some(next.only);
            reliability.plain.retain(|origin| *origin != next.only);
            if next.without_ranges {
                reliability.plain.push(next.only);
            }
        }
        Ok(partial.doubt(next.keep).await?)
    }

    /// The digest is right: origins whose bytes had to be replaced are not asked for it again.
    pub(super) fn confirmed(&self) {
        let Self(job) = self;
        for origin in job.state().reliability.provenance.proven_wrong() {
            job.origins.distrust(origin);
        }
    }

    /// An origin has something of another size: is there one that has what is wanted?
    pub(super) fn wrong_size(&self, origin: Origin, why: String) -> Failure {
        let Self(job) = self;
        let digest = job.digest;
        job.origins.distrust(origin);
        if origin.has_authority() {
            let others = job.origins.endpoints();
            if job.in_doubt() || others.contains(&origin) {
                return MirrorError::WrongContent { digest, why }.into();
            }
            let endpoint = job.origins.name(origin);
            tracing::warn!(upstream = %job.source.upstream, %endpoint, %digest, %why, "asking another endpoint");
        }
        Failure::Broken {
            error: FetchError::Protocol(why),
            bytes: 0,
        }
    }
}

/// The error for clients when bytes are not what the digest promises.
fn wrong_content(digest: Digest, error: VerifyError) -> MirrorError {
    match error {
        VerifyError::Size { .. } | VerifyError::Digest { .. } => MirrorError::WrongContent {
            digest,
            why: error.to_string(),
        },
        VerifyError::Store(error) => error.into(),
    }
}
