//! Uploads under way. Each has one writer at a time. They outlive the process: a file with what has come, and a note
//! of whose it is.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::HostedError;
use super::names::namespace_of;
use crate::clock::Timestamp;
use crate::oci::{Algorithm, Repository};
use crate::store::{LeftUpload, Upload};

/// Uploads at once. A push of an image has some; each costs an open file and a hash.
const SESSIONS_MAX: usize = 2_048;

/// Time after which an upload gives its place to a new one, if there are too many: its client is hardly there any more. One
/// without a byte has nothing to lose.
const ABANDONED_AFTER: Duration = Duration::from_mins(10);
const EMPTY_AFTER: Duration = Duration::from_mins(1);

/// Random bytes of an upload's name.
const ID_BYTES: usize = 16;

/// The note beside the file of an upload.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Note {
    repository: String,
    owner: String,
    client: IpAddr,
    sha512: bool,
    /// When it was begun; not in notes of 0.1.
    #[serde(default)]
    begun: Option<Timestamp>,
}

/// An upload.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub id: String,
    /// The repository that it is for.
    pub repository: Repository,
    /// Whoever has begun it; nobody else may go on.
    pub owner: String,
    /// The client's address, which it counts for.
    pub client: IpAddr,
    /// When it was begun.
    begun: Timestamp,
    /// The algorithm that it is hashed with as it comes.
    pub(super) algorithm: Algorithm,
    /// The length that was found at the start, of one that an earlier process has left.
    found: Option<u64>,
    /// Its file.
    pub(super) upload: tokio::sync::OnceCell<Arc<Upload>>,
    /// Whoever writes has it.
    pub(super) writer: Arc<tokio::sync::Mutex<()>>,
    /// When the last byte came, in milliseconds.
    last: AtomicU64,
    /// Ends a writer that has nothing to write.
    pub(super) interrupt: Arc<Notify>,
}

/// An upload, for an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Its name.
    pub id: String,
    /// The repository that it is for.
    pub repository: String,
    /// Whoever has begun it.
    pub owner: String,
    /// The address that it comes from.
    pub client: IpAddr,
    /// When it was begun.
    pub begun: Timestamp,
    /// Bytes that have come.
    pub bytes: u64,
    /// When the last of them came.
    pub last: Timestamp,
}

/// All uploads.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    all: HashMap<String, Arc<Session>>,
    of: HashMap<IpAddr, usize>,
}

impl Session {
    pub(super) fn new(
        repository: &Repository,
        owner: &str,
        client: IpAddr,
        algorithm: Algorithm,
        now: Timestamp,
    ) -> Result<Self, HostedError> {
        Ok(Self {
            id: random_id()?,
            repository: repository.clone(),
            owner: owner.to_owned(),
            client,
            begun: now,
            algorithm,
            found: None,
            upload: tokio::sync::OnceCell::new(),
            writer: Arc::default(),
            last: AtomicU64::new(now.0),
            interrupt: Arc::default(),
        })
    }

    /// One that an earlier process has left.
    pub(super) fn left(left: &LeftUpload) -> Option<Self> {
        let note: Note = serde_json::from_slice(&left.note).ok()?;
        Some(Self {
            id: left.id.clone(),
            repository: Repository::parse(&note.repository).ok()?,
            owner: note.owner,
            client: note.client,
            begun: note.begun.unwrap_or(left.modified),
            algorithm: if note.sha512 {
                Algorithm::Sha512
            } else {
                Algorithm::Sha256
            },
            found: Some(left.length),
            upload: tokio::sync::OnceCell::new(),
            writer: Arc::default(),
            last: AtomicU64::new(left.modified.0),
            interrupt: Arc::default(),
        })
    }

    /// The note beside its file.
    pub(super) fn note(&self) -> Vec<u8> {
        let note = Note {
            repository: self.repository.to_string(),
            owner: self.owner.clone(),
            client: self.client,
            sha512: self.algorithm == Algorithm::Sha512,
            begun: Some(self.begun),
        };
        serde_json::to_vec(&note).unwrap_or_default()
    }

    /// Bytes that have come.
    #[must_use]
    pub fn length(&self) -> u64 {
        let upload = self.upload.get();
        let found = self.found.unwrap_or_default();
        upload.map_or(found, |upload| upload.length())
    }

    /// True if an earlier process has left it.
    pub(super) fn is_left(&self) -> bool {
        self.found.is_some()
    }

    /// Returns when another request wants to go on with it.
    pub async fn interrupted(&self) {
        self.interrupt.notified().await;
    }

    /// When the last byte came.
    pub(super) fn last(&self) -> Timestamp {
        Timestamp(self.last.load(Ordering::Relaxed))
    }

    /// Something came.
    pub(super) fn touch(&self, now: Timestamp) {
        self.last.store(now.0, Ordering::Relaxed);
    }

    /// True if nobody has gone on with it for so long that its place may be another's.
    fn is_abandoned(&self, now: Timestamp) -> bool {
        let most = if self.length() == 0 {
            EMPTY_AFTER
        } else {
            ABANDONED_AFTER
        };
        now.since(self.last()) >= most && self.writer.try_lock().is_ok()
    }

    fn info(&self) -> SessionInfo {
        SessionInfo {
            id: self.id.clone(),
            repository: self.repository.to_string(),
            owner: self.owner.clone(),
            client: self.client,
            begun: self.begun,
            bytes: self.length(),
            last: self.last(),
        }
    }
}

impl Table {
    fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = &Arc<Session>> {
        let all = self.all.values();
        all.filter(move |it| namespace_of(&it.repository) == namespace)
    }
}

impl Sessions {
    /// Takes a new one in. One address may have half of what is left: who takes more leaves room for the others.
    pub(super) fn enter(&self, session: Arc<Session>) -> Result<(), HostedError> {
        let mut table = self.table();
        let own = table.of.get(&session.client).copied().unwrap_or_default();
        if own >= SESSIONS_MAX.saturating_sub(table.all.len()) {
            return Err(HostedError::TooMany);
        }
        *table.of.entry(session.client).or_default() += 1;
        table.all.insert(session.id.clone(), session);
        Ok(())
    }

    /// The one that has been abandoned longest: of the client, or else of the address that has most.
    pub(super) fn abandoned(&self, client: IpAddr, now: Timestamp) -> Option<Arc<Session>> {
        let table = self.table();
        let most = table.of.iter().max_by_key(|(_, number)| **number);
        let most = most.map(|(client, _)| *client);
        let of = |client: IpAddr| {
            let own = table.all.values().filter(|it| it.client == client);
            let own = own.filter(|it| it.is_abandoned(now));
            own.min_by_key(|it| it.last()).cloned()
        };
        of(client).or_else(|| of(most?))
    }

    /// The one of a namespace that has been abandoned longest.
    pub(super) fn abandoned_in(&self, namespace: &str, now: Timestamp) -> Option<Arc<Session>> {
        let table = self.table();
        let abandoned = table.of_namespace(namespace);
        let abandoned = abandoned.filter(|it| it.is_abandoned(now));
        abandoned.min_by_key(|it| it.last()).cloned()
    }

    /// Bytes that are on their way into the repositories of a namespace.
    pub(super) fn bytes_of(&self, namespace: &str) -> u64 {
        let table = self.table();
        table.of_namespace(namespace).map(|it| it.length()).sum()
    }

    /// An upload of a repository.
    pub(super) fn find(
        &self,
        id: &str,
        repository: &Repository,
        owner: &str,
    ) -> Result<Arc<Session>, HostedError> {
        let table = self.table();
        let found = table.all.get(id);
        let own = found.filter(|it| it.repository == *repository && it.owner == owner);
        own.cloned().ok_or(HostedError::NoUpload)
    }

    /// Any upload, for an operator.
    pub(super) fn any(&self, id: &str) -> Option<Arc<Session>> {
        self.table().all.get(id).cloned()
    }

    /// Takes one out.
    pub(super) fn leave(&self, id: &str) -> Option<Arc<Session>> {
        let mut table = self.table();
        let session = table.all.remove(id)?;
        if let Some(own) = table.of.get_mut(&session.client) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                table.of.remove(&session.client);
            }
        }
        Some(session)
    }

    /// Number of uploads.
    pub(super) fn len(&self) -> usize {
        self.table().all.len()
    }

    /// Those to which nothing has come since.
    pub(super) fn idle_since(&self, then: Timestamp) -> Vec<Arc<Session>> {
        let table = self.table();
        let idle = table.all.values().filter(|it| it.last() < then);
        idle.cloned().collect()
    }

    /// The repositories that somebody pushes to.
    pub(super) fn repositories(&self) -> impl Iterator<Item = String> {
        let table = self.table();
        let all = table.all.values().map(|it| it.repository.to_string());
        all.collect::<Vec<_>>().into_iter()
    }

    pub(super) fn infos(&self) -> Vec<SessionInfo> {
        let mut infos: Vec<_> = self.table().all.values().map(|it| it.info()).collect();
        infos.sort_by(|one, other| one.id.cmp(&other.id));
        infos
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing in between can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name that nobody can guess.
pub(super) fn random_id() -> Result<String, HostedError> {
    let mut bytes = [0; ID_BYTES];
    let filled = aws_lc_rs::rand::fill(&mut bytes);
    let failed = |_| HostedError::Name("the system gives no random numbers".to_owned());
    filled.map_err(failed)?;
    let mut id = String::with_capacity(2 * ID_BYTES);
    for byte in bytes {
        // Writing to a string does not fail.
        write!(id, "{byte:02x}").ok();
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_room_for_others() {
        let sessions = Sessions::default();
        let repository = Repository::parse("team/app").unwrap();
        let begin = |client: [u8; 4]| {
            let now = Timestamp(1);
            let session = Session::new(&repository, "", client.into(), Algorithm::Sha256, now);
            sessions.enter(Arc::new(session.unwrap()))
        };
        let mut number = 0;
        while begin([10, 0, 0, 1]).is_ok() {
            number += 1;
        }
        assert_eq!(number, SESSIONS_MAX / 2);
        begin([10, 0, 0, 2]).unwrap();
        let id = sessions.infos()[0].id.clone();
        assert!(sessions.find(&id, &repository, "alice").is_err());
        sessions.leave(&id).unwrap();
        assert_eq!(sessions.len(), SESSIONS_MAX / 2);
        // Nobody gives a place before its time, and then the one does that has most.
        let after = |passed: Duration| Timestamp(1).plus(passed);
        let soon = after(EMPTY_AFTER / 2);
        assert!(sessions.abandoned([10, 0, 0, 3].into(), soon).is_none());
        let late = after(EMPTY_AFTER);
        let victim = sessions.abandoned([10, 0, 0, 3].into(), late).unwrap();
        assert_eq!(victim.client, IpAddr::from([10, 0, 0, 1]));
        let writing = victim.writer.try_lock().unwrap();
        let other = sessions.abandoned([10, 0, 0, 3].into(), late).unwrap();
        assert_ne!(victim.id, other.id, "somebody writes to it");
        drop(writing);
    }
}
