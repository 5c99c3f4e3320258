//! Blobs of hosted repositories: reading, mounts, deletes.

use super::{Hosted, HostedError};
use crate::catalogue::hosted::{Act, Found, Refused};
use crate::oci::{Digest, Repository};
use crate::store::Blob;

/// Repositories that are looked at for one from which a blob may be mounted.
const HOLDERS_MAX: usize = 200;

impl Hosted {
    /// A blob.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Blob, HostedError> {
        let store = &self.inner.store;
        if store.quarantine().is_rotten(digest) {
            return Err(HostedError::Damaged(*digest));
        }
        if self.inner.caches.link(repository, digest).is_some()
            && let Some(blob) = store.open_blob(digest)
        {
            return Ok(blob);
        }
        self.size(repository, digest, false).await?;
        let found = store.blob(digest).await;
        found.ok_or_else(|| {
            tracing::error!(%repository, %digest, "a hosted blob cannot be read: its file is missing or damaged; push the image again, or restore a backup");
            HostedError::Damaged(*digest)
        })
    }

    /// The size of a blob. Whoever hears it may count on the blob for as long as an upload may take.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn blob_size(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<u64, HostedError> {
        if self.is_lost(digest) {
            // Whoever hears that it is there does not push it again, and nobody can pull it.
            return Err(Refused::NoBlob.into());
        }
        if let Some(size) = self.inner.caches.link(repository, digest) {
            return Ok(size);
        }
        self.size(repository, digest, true).await
    }

    /// True if there is no file of a blob for certain, or a wrong one, whatever the catalogue says.
    fn is_lost(&self, digest: &Digest) -> bool {
        let store = &self.inner.store;
        let is_gone = || {
            store.contains(digest).is_none() && store.scan().is_done() && store.trouble().is_none()
        };
        store.quarantine().is_rotten(digest) || is_gone()
    }

    async fn size(
        &self,
        repository: &Repository,
        digest: &Digest,
        leases: bool,
    ) -> Result<u64, HostedError> {
        let before = self.inner.caches.before(repository);
        let row = match self.inner.catalogue.hosted_blob(repository, digest).await? {
            Found::NoRepository => return Err(Refused::NoRepository.into()),
            Found::Deleted(refused) => return Err(refused.into()),
            Found::Nothing => return Err(Refused::NoBlob.into()),
            Found::This(row) => row,
        };
        if row.is_used {
            let caches = &self.inner.caches;
            caches.put_link(repository, digest, row.size, before);
            return Ok(row.size);
        }
        let expiry = self.config().upload_expiry;
        // Not for each of many who ask at the same time.
        let enough = self.inner.clock.now().plus(expiry / 8 * 7);
        if leases && row.lease < enough {
            let act = Act::Lease {
                repository: repository.clone(),
                digest: *digest,
                until: self.lease(),
            };
            self.act(act, "").await?;
        }
        Ok(row.size)
    }

    /// Makes a blob of one repository one of another, too.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn mount(
        &self,
        repository: &Repository,
        from: &Repository,
        digest: &Digest,
        by: &str,
    ) -> Result<(), HostedError> {
        self.size(from, digest, false).await?;
        let _locked = self.lock(digest).await;
        let act = Act::Link {
            repository: repository.clone(),
            digest: *digest,
            size: None,
            until: self.lease(),
        };
        self.act(act, by).await.map(drop)
    }

    /// Some repositories that have a blob.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn holders(&self, digest: &Digest) -> Result<Vec<Repository>, HostedError> {
        let catalogue = &self.inner.catalogue;
        Ok(catalogue.hosted_holders(digest, HOLDERS_MAX).await?)
    }

    /// Takes a blob out of a repository.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn delete_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        by: &str,
    ) -> Result<(), HostedError> {
        let act = Act::DeleteBlob {
            repository: repository.clone(),
            digest: *digest,
            until: self.undelete(),
        };
        self.act(act, by).await.map(drop)
    }

    /// Until when what is deleted now can be restored.
    pub(super) fn undelete(&self) -> crate::clock::Timestamp {
        self.inner.clock.now().plus(self.config().undelete)
    }
}
