//! Pushing the images of a layout to hosted repositories.

use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use url::Url;

use super::AirgapError;
use super::progress::Reporter;
use super::reading::Part;
use crate::commands::adopt::{Begun, CHUNK_BYTES, Pusher};
use crate::oci::{Digest, Reference, Repository, Tag};

/// Hosted repositories of a server.
pub(super) struct Hosted {
    pusher: Pusher,
}

impl Hosted {
    pub(super) fn new(server: &Url, ca_file: Option<PathBuf>) -> Result<Self, String> {
        let pusher = Pusher::new(server, ca_file)?;
        Ok(Self { pusher })
    }

    /// Checks that a registry answers.
    pub(super) async fn ping(&self) -> Result<(), AirgapError> {
        self.pusher.ping().await.map_err(AirgapError)
    }

    /// Sees that a repository can be pushed to.
    pub(super) async fn check(&self, repository: &Repository) -> Result<(), String> {
        let checked = self.pusher.check(repository).await;
        checked.map_err(|refusal| refusal.to_string())
    }

    /// Has a blob there; true if it was sent. `part`: `None` where the layout does not have it.
    pub(super) async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        part: Option<Part>,
        reporter: &Reporter,
    ) -> Result<bool, String> {
        let size = part.as_ref().map_or(0, |part| part.size);
        reporter.progress.expect(size);
        let pusher = &self.pusher;
        let there = pusher.has_blob(repository, digest).await;
        if there.map_err(|refusal| refusal.to_string())? {
            reporter.progress.advance(size);
            return Ok(false);
        }
        let Some(part) = part else {
            return Err("is missing".to_owned());
        };
        let begun = pusher.begin(repository, digest).await;
        let mut upload = match begun.map_err(|refusal| refusal.to_string())? {
            Begun::Mounted => {
                reporter.progress.advance(size);
                return Ok(false);
            }
            Begun::At(upload) => upload,
        };
        let sent = async {
            let (mut at, mut chunk) = (0, BytesMut::new());
            while at < part.size {
                let bytes = part.read_at(at).map_err(|error| error.to_string())?;
                at += bytes.len() as u64;
                chunk.extend_from_slice(&bytes);
                reporter.progress.advance(bytes.len() as u64);
                if chunk.len() >= CHUNK_BYTES {
                    let full = chunk.split().freeze();
                    let sent = pusher.send(&mut upload, full).await;
                    sent.map_err(|refusal| refusal.to_string())?;
                }
            }
            let rest = chunk.freeze();
            let finished = pusher.finish(repository, &upload, digest, rest).await;
            finished.map_err(|refusal| refusal.to_string())
        };
        let sent = sent.await;
        if sent.is_err() {
            pusher.cancel(&upload).await;
        }
        sent.map(|()| true)
    }

    /// Has a manifest there, and a tag that names it; true if it was not there.
    pub(super) async fn manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
        (media_type, bytes): (&str, Vec<u8>),
        tag: Option<&Tag>,
    ) -> Result<bool, String> {
        let reference = Reference::Digest(*digest);
        let there = self.pusher.manifest(repository, &reference);
        let there = there.await.map_err(|refusal| refusal.to_string())?;
        if there.is_none() || tag.is_some() {
            let put = (media_type, Bytes::from(bytes));
            let put = self.pusher.put_manifest(repository, digest, put, tag);
            put.await.map_err(|refusal| refusal.to_string())?;
        }
        Ok(there.is_none())
    }
}
