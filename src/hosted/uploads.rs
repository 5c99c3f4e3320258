//! From the first byte of an upload to a blob of a repository.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedMutexGuard;

use super::sessions::{Session, SessionInfo, random_id};
use super::{Hosted, HostedError, Inner};
use crate::catalogue::hosted::{Act, Refused};
use crate::clock::Timestamp;
use crate::oci::push::ChunkRange;
use crate::oci::{Algorithm, Digest, Repository};
use crate::store::{Blob, FinishError, Stored};

/// A writer to whom nothing has come for so long leaves its upload to another request: its connection may be gone
/// without a word.
const SILENT_MIN: Duration = Duration::from_secs(3);

/// Abandoned uploads that are ended for a new one.
const PLACES_MAX: usize = 16;

/// Time that a writer has to leave.
const LEAVE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Writes to an upload, alone.
#[derive(Debug)]
pub struct Writer {
    hosted: Hosted,
    session: Arc<Session>,
    /// Bytes that have come.
    length: u64,
    _alone: OwnedMutexGuard<()>,
}

impl Writer {
    /// Bytes that have come.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Its upload.
    #[must_use]
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Adds bytes. To be awaited to its end before the next.
    ///
    /// # Errors
    /// [`HostedError`]; then they are not there.
    pub async fn write(&mut self, chunks: Vec<Bytes>) -> Result<(), HostedError> {
        let upload = self.hosted.file(&self.session).await?;
        if upload.length() != self.length {
            // What a request has left that was given up in the middle of a write.
            return Err(HostedError::Offset(upload.length()));
        }
        let bytes = chunks.iter().map(|it| it.len() as u64).sum();
        if let Err(error) = self.hosted.has_room(&self.session.repository, bytes).await {
            // It can never be finished, and what has come of it would keep others out.
            self.hosted.forget(&self.session).await;
            return Err(error);
        }
        match upload.append(chunks).await {
            Ok(length) => self.length = length,
            // Somebody has ended it meanwhile.
            Err(_) if self.hosted.is_over(&self.session) => return Err(HostedError::NoUpload),
            Err(error) => return Err(error.into()),
        }
        self.session.touch(self.hosted.inner.clock.now());
        Ok(())
    }

    /// Makes what has come a blob of the repository. Goes on if the caller does not wait.
    ///
    /// # Errors
    /// [`HostedError`]; after a wrong digest the upload is gone, else it is as before.
    pub async fn finish(self, digest: Digest, by: &str) -> Result<(), HostedError> {
        let (hosted, by) = (self.hosted.clone(), by.to_owned());
        let all = hosted.clone();
        let finishing = async move {
            let Self {
                session, _alone, ..
            } = self;
            let done = match hosted.finish(&session, digest, &by).await {
                Err(HostedError::Store(_)) if hosted.is_over(&session) => {
                    Err(HostedError::NoUpload)
                }
                done => done,
            };
            // Also where its blob was published and not entered: it has nothing left to be finished.
            let is_over = session.upload.get().is_some_and(|it| it.is_over());
            if is_over || matches!(done, Err(HostedError::Digest(_))) {
                hosted.forget(&session).await;
            }
            done
        };
        all.to_its_end("the upload was not finished", finishing)
            .await
    }
}

impl Hosted {
    /// Begins an upload. `owner`: whoever may go on with it.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn begin(
        &self,
        repository: &Repository,
        owner: &str,
        client: IpAddr,
        algorithm: Option<Algorithm>,
    ) -> Result<Arc<Session>, HostedError> {
        self.inner.catalogue.must_be_writable()?;
        self.has_room(repository, 0).await?;
        if let Some(refused) = self.kept(repository).await? {
            return Err(refused.into());
        }
        let algorithm = algorithm.unwrap_or(Algorithm::Sha256);
        let now = self.inner.clock.now();
        let session = Arc::new(Session::new(repository, owner, client, algorithm, now)?);
        self.make_place(&session).await?;
        match self.file(&session).await {
            Ok(_) => Ok(session),
            Err(error) => {
                self.inner.sessions.leave(&session.id);
                Err(error)
            }
        }
    }

    /// Takes an upload in. Where there are too many, those give their places that were abandoned.
    async fn make_place(&self, session: &Arc<Session>) -> Result<(), HostedError> {
        let sessions = &self.inner.sessions;
        for _ in 0..PLACES_MAX {
            let entered = sessions.enter(Arc::clone(session));
            if entered.is_ok() {
                return entered;
            }
            let Some(abandoned) = sessions.abandoned(session.client, self.inner.clock.now()) else {
                return entered;
            };
            tracing::warn!(
                upload = abandoned.id,
                repository = %abandoned.repository,
                client = %abandoned.client,
                bytes = abandoned.length(),
                "too many uploads: one that was idle for minutes was ended for a new one"
            );
            self.forget(&abandoned).await;
        }
        sessions.enter(Arc::clone(session))
    }

    /// Sees that what is on its way into a namespace would not be more than its quota by itself. What the namespace has
    /// already counts when it is known what the bytes are: content that is there is no more for being pushed again.
    async fn has_room(&self, repository: &Repository, bytes: u64) -> Result<(), HostedError> {
        let namespace = self.inner.names.of(repository);
        let Some((namespace, quota)) = namespace.and_then(|it| Some((it.name, it.quota?))) else {
            return Ok(());
        };
        for _ in 0..PLACES_MAX {
            let coming = self.inner.sessions.bytes_of(&namespace);
            if coming.saturating_add(bytes) <= quota {
                return Ok(());
            }
            let now = self.inner.clock.now();
            let Some(abandoned) = self.inner.sessions.abandoned_in(&namespace, now) else {
                return Err(HostedError::OverQuota {
                    namespace,
                    coming,
                    quota,
                });
            };
            self.forget(&abandoned).await;
        }
        Ok(())
    }

    /// True if an upload has ended.
    #[must_use]
    pub fn is_over(&self, session: &Session) -> bool {
        self.inner.sessions.any(&session.id).is_none()
    }

    /// An upload of a repository, and of nobody else.
    ///
    /// # Errors
    /// [`HostedError::NoUpload`].
    pub fn session(
        &self,
        repository: &Repository,
        id: &str,
        owner: &str,
    ) -> Result<Arc<Session>, HostedError> {
        self.inner.sessions.find(id, repository, owner)
    }

    /// The right to write to an upload, from where it is now. `range`: the place of what is to come, if the client says.
    ///
    /// # Errors
    /// [`HostedError::Offset`], and nothing has changed; [`HostedError::Writing`].
    pub async fn writer(
        &self,
        session: Arc<Session>,
        range: Option<ChunkRange>,
    ) -> Result<Writer, HostedError> {
        let alone = Arc::clone(&session.writer);
        let alone = match alone.clone().try_lock_owned() {
            Ok(alone) => alone,
            Err(_busy) => {
                let now = self.inner.clock.now();
                if now.since(session.last()) < SILENT_MIN {
                    return Err(HostedError::Writing(session.length()));
                }
                session.interrupt.notify_waiters();
                let left = tokio::time::timeout(LEAVE_WAIT_MAX, alone.lock_owned()).await;
                left.map_err(|_elapsed| HostedError::Writing(session.length()))?
            }
        };
        // It may have been finished meanwhile.
        if self.inner.sessions.any(&session.id).is_none() {
            return Err(HostedError::NoUpload);
        }
        let length = self.file(&session).await?.length();
        if range.is_some_and(|range| range.first != length) {
            return Err(HostedError::Offset(length));
        }
        session.touch(self.inner.clock.now());
        Ok(Writer {
            hosted: self.clone(),
            session,
            length,
            _alone: alone,
        })
    }

    /// Ends an upload without a blob.
    ///
    /// # Errors
    /// [`HostedError::NoUpload`].
    pub async fn cancel(&self, session: &Arc<Session>) -> Result<(), HostedError> {
        if self.inner.sessions.any(&session.id).is_none() {
            return Err(HostedError::NoUpload);
        }
        self.forget(session).await;
        Ok(())
    }

    /// Ends an upload, whoever has begun it.
    ///
    /// # Errors
    /// [`HostedError::NoUpload`].
    pub async fn cancel_any(&self, id: &str) -> Result<(), HostedError> {
        let session = self.inner.sessions.any(id).ok_or(HostedError::NoUpload)?;
        self.forget(&session).await;
        Ok(())
    }

    /// All uploads.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.inner.sessions.infos()
    }

    /// Number of uploads.
    #[must_use]
    pub fn sessions_len(&self) -> usize {
        self.inner.sessions.len()
    }

    /// Makes a blob of another store, that its repository's client may pull, a blob of a repository.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn mount_stored(
        &self,
        repository: &Repository,
        blob: Blob,
        by: &str,
    ) -> Result<(), HostedError> {
        self.inner.catalogue.must_be_writable()?;
        let (hosted, repository, by) = (self.clone(), repository.clone(), by.to_owned());
        let mounting = async move {
            let digest = *blob.digest();
            let _locked = hosted.lock(&digest).await;
            let stored = hosted
                .inner
                .store
                .uploads()
                .adopt(&random_id()?, blob)
                .await;
            hosted.enter(&repository, digest, stored, &by).await
        };
        self.to_its_end("the blob was not taken over", mounting)
            .await
    }

    async fn finish(
        &self,
        session: &Arc<Session>,
        digest: Digest,
        by: &str,
    ) -> Result<(), HostedError> {
        self.inner.catalogue.must_be_writable()?;
        let upload = self.file(session).await?;
        // Others who push the same wait for none of it.
        upload.verify(digest).await?;
        let _locked = self.lock(&digest).await;
        let stored = upload.finish(digest).await;
        self.enter(&session.repository, digest, stored, by).await
    }

    /// Enters a blob whose file is durable. The digest's lock is held.
    async fn enter(
        &self,
        repository: &Repository,
        digest: Digest,
        stored: Result<Stored, FinishError>,
        by: &str,
    ) -> Result<(), HostedError> {
        let stored = stored?;
        let act = Act::Link {
            repository: repository.clone(),
            digest,
            size: Some(stored.size),
            until: self.lease(),
        };
        let entered = self.act(act, by).await;
        if let Err(HostedError::Refused(_)) = &entered {
            drop(stored);
            self.drop_stray(&digest).await;
        }
        entered.map(drop)
    }

    /// Until when a blob stays that no manifest names yet.
    pub(super) fn lease(&self) -> Timestamp {
        let expiry = self.config().upload_expiry;
        self.inner.clock.now().plus(expiry)
    }

    /// The file of an upload, which is opened the first time.
    pub(super) async fn file(
        &self,
        session: &Session,
    ) -> Result<Arc<crate::store::Upload>, HostedError> {
        let uploads = self.inner.store.uploads();
        let opened = session.upload.get_or_try_init(|| async {
            let upload = if session.is_left() {
                uploads.take_up(&session.id, session.algorithm).await
            } else {
                let note = session.note();
                uploads.begin(&session.id, note, session.algorithm).await
            };
            upload.map(Arc::new)
        });
        Ok(Arc::clone(opened.await?))
    }

    /// Takes an upload out, and deletes its file.
    pub(super) async fn forget(&self, session: &Arc<Session>) {
        self.inner.sessions.leave(&session.id);
        // Whoever waits for more of it need not.
        session.interrupt.notify_waiters();
        match session.upload.get() {
            Some(upload) => upload.discard().await,
            None => self.inner.store.uploads().discard(&session.id).await,
        }
    }

    /// Finds the uploads that an earlier process has left.
    pub(super) async fn find_sessions(&self) {
        let Inner {
            store, sessions, ..
        } = &*self.inner;
        let left = match store.uploads().left().await {
            Ok(left) => left,
            Err(error) => {
                tracing::warn!(%error, "uploads of an earlier process cannot be looked for; their clients begin again");
                return;
            }
        };
        for left in left {
            let session = Session::left(&left).map(Arc::new);
            let entered = session.map(|session| sessions.enter(session));
            if !matches!(entered, Some(Ok(()))) {
                store.uploads().discard(&left.id).await;
            }
        }
    }
}

impl From<FinishError> for HostedError {
    fn from(error: FinishError) -> Self {
        match error {
            FinishError::Digest(got) => Self::Digest(got),
            FinishError::Store(error) => Self::Store(error),
        }
    }
}

impl HostedError {
    /// True if there is no such blob to be had.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(
            self,
            Self::Refused(Refused::NoBlob | Refused::NoRepository | Refused::NoManifest)
        )
    }
}
