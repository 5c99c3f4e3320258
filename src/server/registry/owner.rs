//! The owner of a request's credentials: this mirror, or the upstream that the request is for.
//!
//! A request has one `Authorization`. Where an upstream decides for each client (`visibility = "upstream"`) it is that
//! upstream's, on a host name of its own, and wherever clients are not asked who they are here. Elsewhere clients have
//! credentials of this mirror's for the same host, and an upstream's challenge would have them sent to its token server.
//! Tokens of this mirror, and of issuers that it believes, are nobody else's anywhere.

use super::door::Door;
use crate::mirror::{ClientCredential, Mirror};
use crate::oci::UpstreamName;
use crate::oci::route::Route;
use crate::server::http::context::Request;
use crate::server::http::error::ApiError;
use http::header;

/// The owner of a request's credentials.
#[derive(Debug, Default)]
pub(crate) enum Owner {
    /// This mirror: they say who its client is, if anything.
    #[default]
    Us,
    /// An upstream that decides for each client, and what the client has sent for it.
    Upstream(UpstreamName, Option<ClientCredential>),
}

impl Owner {
    /// The owner of the credentials of a request.
    ///
    /// # Errors
    /// They are longer than any that make sense.
    pub(crate) fn of(
        request: &Request<'_>,
        mirror: &Mirror,
        door: &Door,
    ) -> Result<Self, ApiError> {
        if !mirror.visibility().shows_credentials() || door.asks_nobody() {
            return Ok(Self::Us);
        }
        let path = match &request.route {
            Route::Ping | Route::Catalog(_) => None,
            Route::Manifest { path, .. }
            | Route::Blob { path, .. }
            | Route::Upload { path, .. }
            | Route::Tags { path, .. }
            | Route::Referrers { path, .. } => Some(path.as_str()),
        };
        // As the repository is found: the upstream whose own name the host is counts as `ns`, unless there is another.
        let own = request.stands_in_for.as_ref();
        let ns = request.ns().or(own.map(UpstreamName::as_str));
        let directory = mirror.directory();
        let Some(addressed) = directory.addressed(ns, request.host, path) else {
            return Ok(Self::Us);
        };
        let is_its_host = addressed.by_host || own == Some(addressed.upstream);
        if !mirror.visibility().shows_credentials_to(addressed.upstream)
            || (door.is_asking() && !is_its_host)
        {
            return Ok(Self::Us);
        }
        let upstream = addressed.upstream.clone();
        let Some(given) = request.head.headers.get(header::AUTHORIZATION) else {
            return Ok(Self::Upstream(upstream, None));
        };
        if given
            .to_str()
            .is_ok_and(|text| door.guard().settings().owns(text))
        {
            return Ok(Self::Us);
        }
        let credential = ClientCredential::new(upstream.clone(), given);
        let credential = credential
            .ok_or_else(|| ApiError::malformed("the Authorization header is longer than 16 KiB"))?;
        Ok(Self::Upstream(upstream, Some(credential)))
    }

    /// True if they are this mirror's.
    pub(crate) fn is_us(&self) -> bool {
        match self {
            Self::Us => true,
            Self::Upstream(..) => false,
        }
    }

    /// What the client has sent for an upstream.
    pub(crate) fn credential(&self) -> Option<&ClientCredential> {
        match self {
            Self::Us => None,
            Self::Upstream(_, credential) => credential.as_ref(),
        }
    }
}
