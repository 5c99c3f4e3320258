//! A new configuration for a server that runs.

use std::os::unix::fs::FileTypeExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::StartError;
use crate::access::Guard;
use crate::config::{Config, Overrides, Snapshot};
use crate::server::Certificates;
use crate::server::transparent::TransparentConfig;

/// Reads the configuration again when it is asked to.
#[derive(Debug)]
pub struct Reload {
    snapshot: Snapshot,
    flags: Overrides,
    guard: Guard,
    certificates: Certificates,
    /// One reload waits for the one that runs; further ones would read the same.
    is_waited_for: AtomicBool,
    running: Mutex<()>,
}

impl Reload {
    /// Reloads of a server that was started with these flags.
    #[must_use]
    pub fn new(
        snapshot: Snapshot,
        flags: Overrides,
        guard: Guard,
        certificates: Certificates,
    ) -> Self {
        Self {
            snapshot,
            flags,
            guard,
            certificates,
            is_waited_for: AtomicBool::new(false),
            running: Mutex::new(()),
        }
    }

    /// Reads the flags, the environment and the file as at the start, and takes over what can change while requests
    /// run. With an error in it nothing is changed. Blocks: files are read.
    pub fn run(&self) {
        if self.is_waited_for.swap(true, Ordering::AcqRel) {
            return;
        }
        // Nothing is left half done by a panic: the swap is one.
        let _running = self
            .running
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        self.is_waited_for.store(false, Ordering::Release);
        // Each pair by itself, whatever the file says.
        self.certificates.reload();
        if self.came_through_a_pipe() {
            tracing::error!(
                "the configuration came through a pipe and cannot be read again: nothing is changed; restart, or name a file with --config"
            );
            return;
        }
        let mut loaded = match Config::load_with_notes(&self.flags) {
            Ok(loaded) => loaded,
            Err(error) => {
                for line in error.lines() {
                    tracing::error!("{line}");
                }
                tracing::error!(
                    "the new configuration has errors: nothing is changed; correct it and send SIGHUP again"
                );
                return;
            }
        };
        for note in &loaded.notes {
            tracing::warn!("{note}");
        }
        if let Err(error) = self.take_over(&mut loaded.config) {
            tracing::error!(
                %error,
                "the new configuration cannot be used: nothing is changed; correct it and send SIGHUP again"
            );
            return;
        }
        let changes = self.snapshot.replace(&loaded.config);
        if changes.applied.is_empty() && changes.after_restart.is_empty() {
            tracing::info!("configuration reloaded: nothing has changed");
            return;
        }
        if !changes.applied.is_empty() {
            tracing::info!(
                changed = changes.applied.join(","),
                "configuration reloaded"
            );
        }
        if !changes.after_restart.is_empty() {
            tracing::warn!(
                keys = changes.after_restart.join(","),
                "these keys of the new configuration are not used before a restart"
            );
        }
    }

    /// Gives transparent mode and the guard what is new for them.
    ///
    /// # Errors
    /// An authority cannot be used, or a file of users cannot be read: everything is as it was.
    fn take_over(&self, new: &mut Config) -> Result<(), StartError> {
        let before = self.snapshot.now();
        new.access = std::mem::take(&mut new.access).keeping_of(&before.access);
        let transparent = transparent(&before, new);
        let has_other_names = transparent.is_some();
        if let Some(transparent) = transparent {
            self.certificates.set_transparent(transparent)?;
        }
        self.guard.reload(new.access.clone()).map_err(|error| {
            if has_other_names {
                self.stand_in_as(&before);
            }
            StartError::from(error)
        })
    }

    /// Puts transparent mode back to what it was.
    fn stand_in_as(&self, before: &Config) {
        let tls = before.server.tls.as_ref();
        let transparent = tls.and_then(|tls| tls.transparent.as_ref());
        let put_back = transparent.map(|it| self.certificates.set_transparent(it));
        if let Some(Err(error)) = put_back {
            tracing::error!(%error, "transparent mode has the new configuration all the same");
        }
    }

    fn came_through_a_pipe(&self) -> bool {
        let file = self.flags.config.as_ref();
        let file = file.and_then(|file| file.metadata().ok());
        file.is_some_and(|file| file.file_type().is_fifo())
    }
}

/// The new table of transparent mode, if it says something else. Upstreams that are not there before a restart have no
/// names before it.
fn transparent<'n>(old: &Config, new: &'n mut Config) -> Option<&'n TransparentConfig> {
    let before = old.server.tls.as_ref()?.transparent.as_ref()?;
    let now = new.server.tls.as_mut()?.transparent.as_mut()?;
    now.hosts.retain(|host| {
        let mut known = old.upstreams.iter();
        known.any(|upstream| upstream.name == host.upstream)
    });
    (before != now).then_some(now)
}
