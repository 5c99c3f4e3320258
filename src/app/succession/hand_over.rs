//! The old process's part.

use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::channel::{Channel, DESCRIPTORS_MAX};
use super::{GO, RELEASED, SERVING, SUCCESSOR_WAIT_MAX, WORD_WAIT_MAX, socket_of};
use crate::access::{Guard, Registrar};
use crate::hosted::Hosted;
use crate::mirror::Mirror;
use crate::server::{Leaving, Passed, Role, unix};

/// The time in which clients that are at work ask for something more, and are told to connect anew: no connection is
/// closed while its client sends a request.
const LINGER: Duration = Duration::from_millis(750);

/// The time that the last client which was let in has for its first request.
const LATE_WAIT: Duration = Duration::from_secs(1);

/// The time that the disk may take for what is under way of hosted repositories.
const HAND_OVER_WAIT_MAX: Duration = Duration::from_secs(5);

/// The wait after an accept that failed, so that it does not spin.
const RETRY_WAIT: Duration = Duration::from_millis(500);

/// Hands a server over to the process that asks for it.
#[derive(Debug)]
pub(in crate::app) struct HandOver {
    pub(in crate::app) sockets: Vec<Passed>,
    pub(in crate::app) leaving: Leaving,
    pub(in crate::app) mirror: Mirror,
    pub(in crate::app) guard: Guard,
    pub(in crate::app) hosted: Option<Hosted>,
    /// True from the word on after which the other process has nobody else to wait for.
    pub(in crate::app) is_under_way: AtomicBool,
}

/// The reason why another process did not take over.
#[derive(Debug)]
enum Failed {
    /// Before anything was done: all is as before.
    Before(String),
    /// The store was let go of.
    After(String),
}

impl HandOver {
    /// Waits for processes that take over, until one has or `stop` is cancelled. The sockets are closed on return.
    pub(in crate::app) async fn run(self, state_dir: PathBuf, stop: CancellationToken) {
        // An earlier process may listen there, which does not have the directory any more.
        let listener = match unix::bind_over(&socket_of(&state_dir), unix::is_socket) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(
                    state_dir = %state_dir.display(), %error,
                    "no other process can take over from this one: a socket cannot be made in the state directory"
                );
                return;
            }
        };
        let mut handing = pin!(self.hand_over_at(listener, &stop));
        tokio::select! {
            () = &mut handing => {}
            () = stop.cancelled() => {
                // Another process has the sockets by now, and waits for what this one lets go of: who ends the old one with a
                // signal, as the new one is started, is to have the new one.
                if self.is_under_way.load(Ordering::Acquire) {
                    handing.await;
                }
            }
        }
    }

    async fn hand_over_at(&self, listener: UnixListener, stop: &CancellationToken) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _unnamed)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a process that takes over, waiting");
                    tokio::time::sleep(RETRY_WAIT).await;
                    continue;
                }
            };
            let handed = self.hand_over_to(stream).await;
            self.is_under_way.store(false, Ordering::Release);
            match handed {
                Ok(()) => return,
                Err(Failed::Before(_) | Failed::After(_)) if stop.is_cancelled() => return,
                Err(Failed::Before(why)) => {
                    tracing::warn!(
                        why,
                        "another process came to take over, and did not; nothing has changed"
                    );
                }
                Err(Failed::After(why)) => {
                    self.leaving.come_back();
                    tracing::error!(
                        why,
                        "the process that was to take over is gone, and this one has let go of its store: it serves what is stored and passes all else through. Start roadstead again with --take-over"
                    );
                }
            }
        }
    }

    async fn hand_over_to(&self, stream: UnixStream) -> Result<(), Failed> {
        let before = |error: io::Error| Failed::Before(error.to_string());
        if !unix::is_operator(&stream) {
            let why = "it is neither root's nor of this user";
            return Err(Failed::Before(why.to_owned()));
        }
        let mut channel = Channel::of(stream);
        if self.sockets.len() > DESCRIPTORS_MAX {
            let why = format!("more than {DESCRIPTORS_MAX} listeners cannot be passed");
            // It hears why, if it still listens.
            drop(channel.send(&why, &[], WORD_WAIT_MAX).await);
            return Err(Failed::Before(why));
        }
        let roles: Vec<&Role> = self.sockets.iter().map(|it| &it.role).collect();
        let roles = serde_json::to_string(&roles).map_err(|error| before(error.into()))?;
        let descriptors: Vec<_> = self.sockets.iter().map(|it| it.socket.as_fd()).collect();
        let sent = channel.send(&roles, &descriptors, WORD_WAIT_MAX).await;
        sent.map_err(before)?;
        let (word, _) = channel.receive(SUCCESSOR_WAIT_MAX).await.map_err(before)?;
        if word != GO {
            return Err(Failed::Before("it said something else than go".to_owned()));
        }
        self.is_under_way.store(true, Ordering::Release);
        tracing::info!(
            "another process takes over: clients are asked to connect anew, and downloads are suspended"
        );
        self.leave().await.map_err(Failed::After)?;
        let after = |error: io::Error| Failed::After(error.to_string());
        let told = channel.send(RELEASED, &[], WORD_WAIT_MAX).await;
        told.map_err(after)?;
        let late = async {
            tokio::time::sleep(LATE_WAIT).await;
            self.leaving.end_late();
        };
        let (heard, ()) = tokio::join!(channel.receive(SUCCESSOR_WAIT_MAX), late);
        match heard {
            Ok((word, _)) if word == SERVING => {
                tracing::info!("another process serves; what is under way here is finished");
                self.leaving.is_over();
                Ok(())
            }
            Ok(_) => Err(Failed::After(
                "it said something else than serving".to_owned(),
            )),
            Err(error) => Err(after(error)),
        }
    }

    /// Lets nobody in any more, and lets go of all that the other process needs.
    async fn leave(&self) -> Result<(), String> {
        self.leaving.close_after_answers();
        tokio::time::sleep(LINGER).await;
        self.leaving.shut();
        if let Err(error) = Registrar::of(&self.guard).note_uses().await {
            tracing::debug!(%error, "when tokens were last used could not be written down");
        }
        self.guard.audit().leave_rotating_to_others();
        if let Some(hosted) = self.hosted.clone() {
            let handing = tokio::task::spawn_blocking(move || hosted.hand_over());
            let handed = tokio::time::timeout(HAND_OVER_WAIT_MAX, handing).await;
            if !matches!(handed, Ok(Ok(()))) {
                return Err("the disk of hosted repositories does not answer".to_owned());
            }
        }
        self.mirror
            .hand_over()
            .await
            .map_err(|error| error.to_string())
    }
}
