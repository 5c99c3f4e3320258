//! A new configuration for a server that runs.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::FileTypeExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::StartError;
use super::upstreams::Made;
use crate::access::Guard;
use crate::clock::Clock;
use crate::config::{Changes, Config, Overrides, Snapshot};
use crate::hosted::Hosted;
use crate::mirror::Mirror;
use crate::otlp::Exporter;
use crate::server::{Certificates, KeyChange, ReloadError, Reloaded, Reloader};
use crate::store::Store;
use crate::telemetry::{Metrics, logging};
use crate::upstream::{self, OwnListeners};

/// Reads the configuration again when it is asked to.
#[derive(Debug)]
pub struct Reload {
    snapshot: Snapshot,
    /// `None`: the configuration was given by a program, and is nowhere to be read.
    flags: Option<Overrides>,
    parts: Running,
    /// One reload waits for the one that runs; further ones would read the same.
    is_waited_for: AtomicBool,
    /// The upstreams in use. Whoever holds it reloads.
    made: Mutex<Made>,
}

/// The parts of a server that take something over.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) guard: Guard,
    pub(super) certificates: Certificates,
    pub(super) mirror: Mirror,
    pub(super) store: Store,
    pub(super) metrics: Metrics,
    pub(super) own: OwnListeners,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) exporter: Exporter,
    pub(super) hosted: Option<Hosted>,
}

impl Reload {
    /// Reloads of a server that was started with these flags.
    pub(super) fn new(
        snapshot: Snapshot,
        flags: Option<Overrides>,
        parts: Running,
        made: Made,
    ) -> Self {
        parts
            .metrics
            .reload()
            .succeeded(parts.clock.now().0 / 1000, false);
        Self {
            snapshot,
            flags,
            parts,
            is_waited_for: AtomicBool::new(false),
            made: Mutex::new(made),
        }
    }

    /// The certificates in use.
    pub(super) fn certificates(&self) -> &Certificates {
        &self.parts.certificates
    }

    /// The export of traces.
    pub(super) fn exporter(&self) -> &Exporter {
        &self.parts.exporter
    }

    /// Reads the flags, the environment and the file as at the start, and takes over what can change while requests
    /// run. With an error in it nothing is changed. Logs what became of it. Blocks: files are read.
    ///
    /// # Errors
    /// [`ReloadError`]: all is as it was.
    pub fn run(&self) -> Result<Reloaded, ReloadError> {
        if self.is_waited_for.swap(true, Ordering::AcqRel) {
            return Err(ReloadError::Busy);
        }
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_waited_for.store(false, Ordering::Release);
        let reloaded = self.reload(&mut made);
        match &reloaded {
            Ok(reloaded) => {
                let needs_restart = !reloaded.after_restart.is_empty();
                let now = self.parts.clock.now();
                self.parts
                    .metrics
                    .reload()
                    .succeeded(now.0 / 1000, needs_restart);
                tell(reloaded);
            }
            Err(error) => {
                self.parts.metrics.reload().failed();
                for line in error.lines() {
                    tracing::error!("{line}");
                }
            }
        }
        reloaded
    }

    fn reload(&self, made: &mut MutexGuard<'_, Made>) -> Result<Reloaded, ReloadError> {
        // Each pair by itself, whatever the file says.
        let unusable = self.parts.certificates.reload().into_iter();
        let unusable_certificates =
            unusable.map(|why| format!("{why}: the certificates from before stay in use"));
        let flags = self.flags.as_ref().ok_or_else(|| {
            let why = "the configuration was not read from a file, and cannot be read again";
            ReloadError::Unreadable(why.to_owned())
        })?;
        if came_through_a_pipe(flags) {
            let why = "the configuration came through a pipe and cannot be read again: restart, or name a file with --config";
            return Err(ReloadError::Unreadable(why.to_owned()));
        }
        let loaded = Config::load_with_notes(flags)
            .map_err(|error| ReloadError::Invalid(error.lines().to_vec()))?;
        for note in &loaded.notes {
            tracing::warn!("{note}");
        }
        let mut new = loaded.config;
        let before = self.snapshot.now();
        new.access = std::mem::take(&mut new.access).keeping_of(&before.access);
        let changes = self.snapshot.compare(&new);
        let unusable = |error: StartError| ReloadError::Invalid(vec![error.to_string()]);
        self.take_over(&before, &new, &changes, made)
            .map_err(unusable)?;
        self.snapshot.replace(&new);
        Ok(Reloaded {
            applied: changes.applied,
            after_restart: changes.after_restart,
            notes: loaded
                .notes
                .into_iter()
                .chain(unusable_certificates)
                .collect(),
        })
    }

    /// Gives the parts what is new for them: first all is made and read, and then nothing can fail any more.
    ///
    /// # Errors
    /// Something cannot be used: everything is as it was.
    fn take_over(
        &self,
        before: &Config,
        new: &Config,
        changes: &Changes,
        made: &mut MutexGuard<'_, Made>,
    ) -> Result<(), StartError> {
        let Running {
            guard,
            certificates,
            mirror,
            store,
            metrics,
            own,
            clock: _,
            exporter,
            hosted,
        } = &self.parts;
        let has_changed = |table: &str| {
            let mut applied = changes.applied.iter();
            applied.any(|change| change.key.starts_with(table))
        };
        let upstreams = Made::of(new, made, metrics, own)?;
        let collector = exporter.prepare(new.otlp.as_deref());
        let collector = collector.map_err(StartError::Otlp)?;
        let tls = has_changed("server.").then(|| certificates.prepare(&new.server));
        let tls = tls.transpose()?;
        guard.reload(new.access.clone())?;
        if let Err(error) = store.quotas().replace(&new.cache) {
            // A part of a file system that could be measured a moment ago.
            tracing::error!(%error, "the bounds of the cache are as they were: its file system cannot be measured");
        }
        if let Some(tls) = tls {
            certificates.replace(tls);
        }
        if before.upstreams != new.upstreams
            || new.upstreams.iter().any(upstream::Config::reads_files)
        {
            let endpoints: HashMap<&str, Vec<String>> = new
                .upstreams
                .iter()
                .map(|it| (it.name.as_str(), it.authorities()))
                .collect();
            metrics.upstreams_are(&endpoints);
            mirror.in_use().replace(upstreams.set());
            **made = upstreams;
        }
        exporter.replace(collector);
        if let (Some(hosted), Some(config)) = (hosted, &new.hosted)
            && config.enabled
            && has_changed("hosted.")
        {
            hosted.reload((**config).clone());
        }
        if before.log_level != new.log_level {
            logging::set_level(&new.log_level);
        }
        Ok(())
    }
}

impl Reloader for Reload {
    fn reload(&self) -> Result<Reloaded, ReloadError> {
        self.run()
    }
}

fn came_through_a_pipe(flags: &Overrides) -> bool {
    let file = flags.config.as_ref();
    let file = file.and_then(|file| file.metadata().ok());
    file.is_some_and(|file| file.file_type().is_fifo())
}

/// Says what has changed.
fn tell(reloaded: &Reloaded) {
    let names = |changes: &[KeyChange]| {
        let names: BTreeSet<&str> = changes.iter().map(|it| it.key.as_str()).collect();
        Vec::from_iter(names).join(",")
    };
    if reloaded.applied.is_empty() && reloaded.after_restart.is_empty() {
        tracing::info!("configuration reloaded: nothing has changed");
        return;
    }
    if !reloaded.applied.is_empty() {
        tracing::info!(changed = names(&reloaded.applied), "configuration reloaded");
    }
    if !reloaded.after_restart.is_empty() {
        tracing::warn!(
            keys = names(&reloaded.after_restart),
            "these keys of the new configuration are not used before a restart"
        );
    }
}
