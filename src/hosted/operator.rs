//! What an operator's pages show.

use super::{Hosted, HostedError};
use crate::catalogue::hosted::Refused;
use crate::catalogue::hosted::{Found, Looked, Namespace, Queue, RepositoryRow, Search, TagRow};
use crate::oci::Repository;

/// The state of all that is hosted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Blobs that are stored.
    pub blobs: u64,
    /// Bytes of blobs and uploads.
    pub bytes: u64,
    /// The most that they may take.
    pub max_bytes: u64,
    /// Bytes that the file system has free, if it says.
    pub free_bytes: Option<u64>,
    /// Uploads under way.
    pub uploads: usize,
    /// The garbage collector's queue.
    pub queue: Queue,
}

impl Hosted {
    /// The state of all that is hosted.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn holdings(&self) -> Result<Holdings, HostedError> {
        let figures = self.inner.store.contents().figures_async().await;
        Ok(Holdings {
            blobs: figures.blobs,
            bytes: figures.used,
            max_bytes: figures.max,
            free_bytes: figures.free,
            uploads: self.inner.sessions.len(),
            queue: self.inner.catalogue.hosted_queue_ahead().await?,
        })
    }

    /// Namespaces, a page of them.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn namespace_page(&self, search: Search) -> Result<Looked<Namespace>, HostedError> {
        Ok(self.inner.catalogue.hosted_namespace_page(search).await?)
    }

    /// Repositories, a page of them.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn repository_page(
        &self,
        search: Search,
    ) -> Result<Looked<RepositoryRow>, HostedError> {
        Ok(self.inner.catalogue.hosted_repository_page(search).await?)
    }

    /// Tags of a repository, a page of them.
    ///
    /// # Errors
    /// [`HostedError`]: for example that there is no such repository.
    pub async fn tag_page(
        &self,
        repository: &Repository,
        search: Search,
    ) -> Result<Looked<TagRow>, HostedError> {
        let found = self.inner.catalogue.hosted_tag_page(repository, search);
        if let Found::This(page) = found.await? {
            Ok(page)
        } else {
            Err(Refused::NoRepository.into())
        }
    }
}
