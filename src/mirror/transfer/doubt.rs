//! Doubt about a fill's bytes: which endpoint is believed once they are wrong.

use super::budget::Budget;
use super::job::{Failure, Job};
use super::trust::Again;
use super::wrong_content;
use crate::mirror::MirrorError;
use crate::store::{Partial, VerifyError};
use crate::upstream::{EndpointId, FetchError};

/// What is done about a fill whose bytes are, or may be, wrong.
pub(super) struct Doubt<'a, 'j>(pub(super) &'a Job<'j>);

impl Doubt<'_, '_> {
    /// The bytes that are there are wrong: whom to believe now.
    ///
    /// # Errors
    /// What the readers are told when there is nobody.
    pub(super) async fn again(
        &self,
        partial: &Partial<MirrorError>,
        error: VerifyError,
    ) -> Result<(), MirrorError> {
        let digest = self.0.digest;
        let (upstream, repository) = (&self.0.source.upstream, &self.0.source.repository);
        let again = match &error {
            VerifyError::Size { .. } | VerifyError::Digest { .. } => {
                let endpoints = self.0.upstream.endpoints_for(&digest);
                self.0.state().givers.trust.again(&endpoints)
            }
            VerifyError::Store(_) => None,
        };
        let Some(again) = again else {
            tracing::error!(
                %upstream, %repository, %digest, %error,
                "upstream sent wrong content; nothing of it is kept, and its readers are cut off"
            );
            return Err(wrong_content(digest, error));
        };
        tracing::error!(
            %upstream, %repository, %digest, %error,
            wrong = again.wrong.map(|id| self.0.upstream.endpoint_host(id)),
            next = self.0.upstream.endpoint_host(again.only), without_ranges = again.plainly,
            "upstream sent wrong content; fetching it again before anybody gets the end of it"
        );
        self.believe(partial, again).await
    }

    /// The one endpoint that was believed could not give the rest: another one may give everything.
    ///
    /// # Errors
    /// The same error, when there is none.
    pub(super) async fn without_the_believed(
        &self,
        partial: &Partial<MirrorError>,
        error: MirrorError,
    ) -> Result<(), MirrorError> {
        let Some(only) = self.0.state().givers.only else {
            return Err(error);
        };
        let endpoints = self.0.upstream.endpoints_for(&self.0.digest);
        let Some(again) = self.0.state().givers.trust.deserted(only, &endpoints) else {
            return Err(error);
        };
        tracing::warn!(
            upstream = %self.0.source.upstream, repository = %self.0.source.repository,
            digest = %self.0.digest, %error, endpoint = self.0.upstream.endpoint_host(only),
            next = self.0.upstream.endpoint_host(again.only),
            "the endpoint that was believed about a blob does not go on with it; asking another for all of it"
        );
        self.believe(partial, again).await
    }

    /// From now on only one endpoint is asked, with a budget of its own.
    async fn believe(
        &self,
        partial: &Partial<MirrorError>,
        again: Again,
    ) -> Result<(), MirrorError> {
        if let Some(wrong) = again.wrong {
            self.0.upstream.distrust(wrong, &self.0.digest);
        }
        if again.plainly {
            self.0.upstream.ignores_range(again.only);
        }
        {
            let mut state = self.0.state();
            state.givers.only = Some(again.only);
            state.over = self.0.transfers.tasks.stopping().child_token();
            state.budget = Budget::new(self.0.upstream.retry_delay());
            state.givers.plain.retain(|id| *id != again.only);
            if again.plainly {
                state.givers.plain.push(again.only);
            }
        }
        Ok(partial.doubt(again.keep).await?)
    }

    /// The digest is right: endpoints whose bytes had to be replaced are not asked for it again.
    pub(super) fn was_right(&self) {
        for endpoint in self.0.state().givers.trust.convicted() {
            self.0.upstream.distrust(endpoint, &self.0.digest);
        }
    }

    /// An endpoint has something of another size: is there one that has what is wanted?
    pub(super) fn other_size(&self, endpoint: EndpointId, why: String) -> Failure {
        let digest = self.0.digest;
        self.0.upstream.distrust(endpoint, &digest);
        let others = self.0.upstream.endpoints_for(&digest);
        if self.0.state().givers.only.is_some() || others.contains(&endpoint) {
            return MirrorError::WrongContent { digest, why }.into();
        }
        let host = self.0.upstream.endpoint_host(endpoint);
        tracing::warn!(upstream = %self.0.source.upstream, endpoint = host, %digest, %why, "asking another endpoint");
        Failure::Broken {
            error: FetchError::Protocol(why),
            bytes: 0,
        }
    }
}
