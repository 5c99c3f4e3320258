//! The new process's part.

use std::io;
use std::path::Path;

use tokio::net::UnixStream;

use super::channel::Channel;
use super::{GO, RELEASE_WAIT_MAX, RELEASED, SERVING, WORD_WAIT_MAX, socket_of};
use crate::server::{Passed, Role, unix};

/// The reason why nothing was taken over.
#[derive(Debug, thiserror::Error)]
#[error("cannot take over from the process that runs: {0}; it goes on")]
pub struct TakeOverError(String);

/// The other process, from which this one takes over.
#[derive(Debug)]
pub(in crate::app) struct Taken {
    channel: Channel,
}

impl Taken {
    /// Asks the process that has this state directory for its sockets. Neither: there is none, or nothing is taken over.
    ///
    /// # Errors
    /// [`TakeOverError`]; it goes on as before.
    pub(in crate::app) async fn ask(
        takes_over: bool,
        state_dir: &Path,
    ) -> Result<(Option<Self>, Vec<Passed>), TakeOverError> {
        if !takes_over {
            return Ok((None, Vec::new()));
        }
        let failed = |error: io::Error| TakeOverError(error.to_string());
        let stream = match UnixStream::connect(socket_of(state_dir)).await {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    // A path that is too long for a socket: nobody can listen there.
                    io::ErrorKind::NotFound
                        | io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::InvalidInput
                ) =>
            {
                tracing::info!(
                    state_dir = %state_dir.display(),
                    "there is no process to take over from: starting as without --take-over"
                );
                return Ok((None, Vec::new()));
            }
            Err(error) => return Err(failed(error)),
        };
        if !unix::may_be_followed(&stream) {
            let why = "it is neither root's nor of this user";
            return Err(TakeOverError(why.to_owned()));
        }
        let mut channel = Channel::of(stream);
        let (line, descriptors) = channel.receive(WORD_WAIT_MAX).await.map_err(failed)?;
        let roles: Vec<Role> = serde_json::from_str(&line)
            .map_err(|_| TakeOverError(format!("it says {:?}", shortened(&line))))?;
        if roles.len() != descriptors.len() {
            let why = "not all of its sockets came: the limit of open files may be reached";
            return Err(TakeOverError(why.to_owned()));
        }
        let passed = roles.into_iter().zip(descriptors);
        let passed = passed.map(|(role, socket)| Passed { role, socket });
        Ok((Some(Self { channel }), passed.collect()))
    }

    /// Has the other process let go of its store. From here on it has to be opened soon.
    ///
    /// # Errors
    /// [`TakeOverError`].
    pub(in crate::app) async fn release(&mut self) -> Result<(), TakeOverError> {
        let released = async {
            self.channel.send(GO, &[], WORD_WAIT_MAX).await?;
            self.channel.receive(RELEASE_WAIT_MAX).await
        };
        match released.await {
            Ok((line, _)) if line == RELEASED => Ok(()),
            Ok((line, _)) => Err(TakeOverError(shortened(&line))),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::BrokenPipe
                ) =>
            {
                // Its sockets are here, and if it is dead so are its locks.
                tracing::warn!("the process to take over from has ended in the middle of it");
                Ok(())
            }
            Err(error) => Err(TakeOverError(error.to_string())),
        }
    }

    /// Tells the other process that this one serves.
    pub(in crate::app) async fn serves(self) {
        if let Err(error) = self.channel.send(SERVING, &[], WORD_WAIT_MAX).await {
            tracing::warn!(%error, "the process that this one has taken over from is gone already");
        }
    }
}

/// Words of the other process, for an error.
fn shortened(line: &str) -> String {
    line.chars().take(200).collect()
}
