//! Whole repositories and namespaces: deleted, and restored. Nothing of them is served any more when the delete is
//! acknowledged; until their time to be restored is over their names are nobody else's, an upstream's neither.

use super::{Hosted, HostedError};
use crate::catalogue::hosted::{Act, DeletedRow, Refused, Removal};
use crate::oci::Repository;

/// The longest list of what can be restored.
const LIST_MAX: usize = 1_000;

impl Hosted {
    /// Deletes a repository. `forever`: it cannot be restored, and its name is free; also one that was deleted before.
    ///
    /// # Errors
    /// [`HostedError`]; nothing has changed.
    pub async fn drop_repository(
        &self,
        repository: &Repository,
        forever: bool,
        by: &str,
    ) -> Result<(), HostedError> {
        let removal = self.removal(forever, true);
        let act = Act::DropRepository(repository.clone(), removal);
        self.act(act, by).await.map(drop)
    }

    /// Has a repository that was deleted be there again.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn restore_repository(
        &self,
        repository: &Repository,
        by: &str,
    ) -> Result<(), HostedError> {
        let act = Act::RestoreRepository(repository.clone());
        self.act(act, by).await.map(drop)
    }

    /// Deletes a namespace. `content`: also one that has manifests.
    ///
    /// # Errors
    /// [`HostedError`]; nothing has changed.
    pub async fn drop_namespace(
        &self,
        name: &str,
        content: bool,
        forever: bool,
        by: &str,
    ) -> Result<(), HostedError> {
        let removal = self.removal(forever, content);
        let done = self.act(Act::DropNamespace(name.to_owned(), removal), by);
        let done = done.await;
        self.learn().await?;
        done.map(drop)
    }

    /// Has a namespace that was deleted be there again, with the repositories that were deleted with it.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn restore_namespace(&self, name: &str, by: &str) -> Result<(), HostedError> {
        let done = self.act(Act::RestoreNamespace(name.to_owned()), by).await;
        self.learn().await?;
        done.map(drop)
    }

    /// What can be restored as a whole, by name, behind this one.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn deleted(&self, after: &str) -> Result<Vec<DeletedRow>, HostedError> {
        let catalogue = &self.inner.catalogue;
        Ok(catalogue.hosted_deleted(after, LIST_MAX).await?)
    }

    /// The refusal of a name that is kept for what was deleted.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn kept(&self, repository: &Repository) -> Result<Option<Refused>, HostedError> {
        Ok(self.inner.catalogue.hosted_kept(repository).await?)
    }

    fn removal(&self, forever: bool, content: bool) -> Removal {
        Removal {
            until: (!forever).then(|| self.undelete()),
            content,
            kept: self.config().kept(),
        }
    }
}
