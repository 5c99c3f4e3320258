//! Lists of what is hosted for an operator, and the names that he writes.

use super::{Hosted, HostedError, Place};
use crate::catalogue::hosted::{AllBytes, ImageRow, ImagesWanted};
use crate::oci::{Reference, Repository};

impl Hosted {
    /// Tags, sorted, a page of them; whether there are more.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn images(
        &self,
        wanted: ImagesWanted,
        limit: usize,
    ) -> Result<(Vec<ImageRow>, bool), HostedError> {
        Ok(self.inner.catalogue.hosted_images(wanted, limit).await?)
    }

    /// The space that hosted content takes.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn space(&self) -> Result<AllBytes, HostedError> {
        Ok(self.inner.catalogue.hosted_space().await?)
    }

    /// The hosted repository that an operator means by a name without tag and digest, as a client of this server
    /// writes it: `team/app`, or behind a host name at which everything is hosted. `None`: it is no hosted one's.
    #[must_use]
    pub fn meant(&self, name: &str) -> Option<Repository> {
        let names = self.names();
        if let Some((host, rest)) = name.split_once('/')
            && names.is_host(host)
        {
            return Repository::parse(rest).ok();
        }
        match names.place(None, None, name, false) {
            Ok(Place::Hosted(repository)) => Some(repository),
            Ok(Place::Bare(_) | Place::Mirrored) | Err(_) => None,
        }
    }

    /// The name of an image, as a client of this server writes it.
    #[must_use]
    pub fn name_of(&self, repository: &Repository, reference: &Reference) -> String {
        let separator = match reference {
            Reference::Tag(_) => ':',
            Reference::Digest(_) => '@',
        };
        let is_clear = self.meant(repository.as_str()).as_ref() == Some(repository);
        let host = self.config().hosts.first().filter(|_| !is_clear).cloned();
        let host = host.map_or_else(String::new, |host| format!("{host}/"));
        format!("{host}{repository}{separator}{reference}")
    }
}
