//! The state that the writer and those who ask have between them.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use rusqlite::{Connection, Row};

use super::hosted::Act;
use crate::oci::directory::Source;
use crate::oci::{Repository, UpstreamName};
use crate::telemetry::Metrics;

/// The state that the writer and those who ask have between them.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) metrics: Metrics,
    trouble: Mutex<Option<String>>,
    pub(super) repositories: RwLock<Repositories>,
    /// Told of each act that is durable, before whoever asked for it is: that one may have gone.
    pub(super) watch: OnceLock<Watch>,
}

/// Whoever remembers what the catalogue says, and forgets it with an act.
pub(super) struct Watch(pub(super) Box<dyn Fn(&Act) + Send + Sync>);

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// The repositories that something was imported into.
#[derive(Debug)]
pub(super) enum Repositories {
    These(HashSet<Source>),
    /// Too many to be known by heart.
    Any,
}

impl Shared {
    pub(super) fn new(metrics: Metrics) -> Self {
        metrics.catalogue().degraded(false);
        Self {
            metrics,
            trouble: Mutex::default(),
            repositories: RwLock::new(Repositories::These(HashSet::new())),
            watch: OnceLock::new(),
        }
    }

    pub(super) fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        self.metrics.catalogue().degraded(trouble.is_some());
        *self.trouble() = trouble;
    }

    /// Learns by heart which repositories something was imported into.
    pub(super) fn learn(&self, connection: &Connection) -> rusqlite::Result<()> {
        let known = repositories(connection, REPOSITORIES_MAX)?;
        let known = known.map_or(Repositories::Any, Repositories::These);
        *self
            .repositories
            .write()
            .unwrap_or_else(PoisonError::into_inner) = known;
        Ok(())
    }

    /// Something was imported into a repository.
    pub(super) fn has_one_more(&self, source: &Source) {
        let repositories = self.repositories.write();
        let mut repositories = repositories.unwrap_or_else(PoisonError::into_inner);
        if let Repositories::These(these) = &mut *repositories {
            these.insert(source.clone());
            if these.len() > REPOSITORIES_MAX {
                *repositories = Repositories::Any;
            }
        }
    }
}

/// Repositories with imports that are known by heart, so that no other is asked about: some 10 MB. With more, every
/// question is asked.
const REPOSITORIES_MAX: usize = 100_000;

/// The repositories that something was imported into; `None` for more than `most`.
fn repositories(from: &Connection, most: usize) -> rusqlite::Result<Option<HashSet<Source>>> {
    let sql = "SELECT upstream, repository FROM imported_tags UNION SELECT upstream, repository FROM imported_links";
    let mut statement = from.prepare(sql)?;
    let mut found = HashSet::new();
    for source in statement.query_map([], source_in)? {
        found.extend(source?);
        if found.len() > most {
            return Ok(None);
        }
    }
    Ok(Some(found))
}

pub(super) fn source_in(row: &Row<'_>) -> rusqlite::Result<Option<Source>> {
    let (upstream, repository): (String, String) = (row.get(0)?, row.get(1)?);
    let parsed = (
        UpstreamName::parse(&upstream),
        Repository::parse(&repository),
    );
    Ok(match parsed {
        (Ok(upstream), Ok(repository)) => Some(Source {
            upstream,
            repository,
        }),
        _ => None,
    })
}
