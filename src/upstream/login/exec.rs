//! Programs that give logins: the protocol of `docker-credential-helpers`, and what a run of one may cost.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::Login;
use super::issued::Issued;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::upstream::{Credentials, FetchError, Secret};

/// A program that is asked for a login.
pub(super) struct Helper {
    /// The program and its arguments; no shell reads them.
    pub(super) command: Vec<OsString>,
    /// Longer, and it is killed.
    pub(super) timeout: Duration,
    /// Time for which its login is used, unless it says that itself.
    pub(super) ttl: Duration,
}

impl Helper {
    /// Its name, for errors: without its arguments, which may hold secrets.
    pub(super) fn program(&self) -> String {
        let program = self
            .command
            .first()
            .map_or(OsStr::new(""), OsString::as_os_str);
        let name = Path::new(program).file_name().unwrap_or(program);
        name.to_string_lossy().into_owned()
    }

    /// Asks for the login to `server`.
    ///
    /// # Errors
    /// [`FetchError::Login`], naming the program: never what it wrote, which may hold a secret.
    pub(super) async fn ask(&self, server: &str) -> Result<Issued, FetchError> {
        let wrong = |why: &str| FetchError::Login(format!("{}: {why}", self.program()));
        let (status, output) = self.run(server).await?;
        if !status.success() {
            // The message is part of the protocol: it is the only sign of this case.
            return if String::from_utf8_lossy(&output).contains(NOT_FOUND) {
                Ok(self.given(None, None))
            } else {
                Err(wrong(&format!("failed with {status}")))
            };
        }
        let answer: Answer = serde_json::from_slice(&output)
            .map_err(|_| wrong("its output is not the JSON of a login"))?;
        let life = answer.life(SystemClock.now()).map_err(wrong)?;
        Ok(self.given(answer.login(), life))
    }

    fn given(&self, login: Option<Login>, life: Option<Duration>) -> Issued {
        Issued {
            login,
            good_for: Some(life.unwrap_or(self.ttl)),
        }
    }

    /// Runs the program to its end, or kills it and whatever it has started.
    async fn run(&self, server: &str) -> Result<(ExitStatus, Vec<u8>), FetchError> {
        let wrong = |why: &str| FetchError::Login(format!("{}: {why}", self.program()));
        let (program, arguments) = self
            .command
            .split_first()
            .ok_or_else(|| wrong("no program is named"))?;
        let mut child = Command::new(program)
            .args(arguments)
            // Of our sockets: it has them not.
            .env_remove("LISTEN_FDNAMES")
            // The service manager would take its word for ours.
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // It may hold a secret, so nobody reads it.
            .stderr(Stdio::null())
            // A group of its own, so that what it starts can be killed with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| wrong(&format!("cannot be started: {}", error.kind())))?;
        let talk = tokio::time::timeout(self.timeout, talk(&mut child, server)).await;
        let ended = match talk {
            Ok(Ok(Some(ended))) => return Ok(ended),
            Ok(Ok(None)) => wrong(&format!("wrote more than {OUTPUT_BYTES_MAX} bytes")),
            Ok(Err(error)) => wrong(&format!("cannot be read: {}", error.kind())),
            Err(_elapsed) => wrong(&format!("gave nothing within {:?}", self.timeout)),
        };
        kill(&mut child).await;
        Err(ended)
    }
}

/// Writes what is asked and reads the answer; `None` when that is too long.
async fn talk(child: &mut Child, server: &str) -> std::io::Result<Option<(ExitStatus, Vec<u8>)>> {
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let write = async {
        if let Some(mut input) = input {
            // A program that knows what it is for need not read it.
            input.write_all(server.as_bytes()).await.ok();
        }
    };
    let read = async {
        let mut bytes = Vec::new();
        if let Some(output) = output {
            let mut output = output.take(OUTPUT_BYTES_MAX + 1);
            output.read_to_end(&mut bytes).await?;
        }
        Ok::<_, std::io::Error>(bytes)
    };
    let ((), bytes) = tokio::join!(write, read);
    let bytes = bytes?;
    if bytes.len() as u64 > OUTPUT_BYTES_MAX {
        return Ok(None);
    }
    Ok(Some((child.wait().await?, bytes)))
}

/// Kills the child's group, and waits a moment for the child, so that it leaves no zombie. What cannot be
/// killed has ended already, or is stuck in the kernel: tokio waits for that one later.
async fn kill(child: &mut Child) {
    // The id is there until the child has been waited for, so it cannot be another process's.
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(group) = id.and_then(Pid::from_raw) {
        kill_process_group(group, Signal::KILL).ok();
    }
    tokio::time::timeout(KILL_WAIT, child.kill()).await.ok();
}

/// The output of a helper on success. Go's readers take the names in any case; these are the ones in use.
#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username", alias = "username", default)]
    username: String,
    #[serde(rename = "Secret", alias = "secret")]
    secret: String,
    /// Ours: when the login ends (RFC 3339).
    #[serde(rename = "ExpiresAt", default)]
    expires_at: Option<String>,
    /// Ours: in how many seconds the login ends.
    #[serde(rename = "ExpiresIn", default)]
    expires_in: Option<u64>,
}

impl Answer {
    /// Time for which it may be used, if it says so.
    fn life(&self, now: Timestamp) -> Result<Option<Duration>, &'static str> {
        let life = match (&self.expires_at, self.expires_in) {
            (Some(text), _) => {
                let end =
                    Timestamp::of_rfc3339(text).ok_or("its ExpiresAt is no time of RFC 3339")?;
                end.since(now)
            }
            (None, Some(seconds)) => Duration::from_secs(seconds),
            (None, None) => return Ok(None),
        };
        if life == Duration::ZERO {
            return Err("the login that it gave has expired");
        }
        Ok(Some(life))
    }

    /// The login; `None` when it is empty, which stands for nobody in particular.
    fn login(self) -> Option<Login> {
        if self.secret.is_empty() {
            return None;
        }
        let secret = Secret::new(self.secret);
        if self.username == IDENTITY_TOKEN_USER {
            return Some(Login::Refresh(secret));
        }
        Some(Login::Basic(Credentials {
            username: self.username,
            password: secret,
        }))
    }
}

/// The user name under which a helper gives an identity token (docker/cli, native credential store).
const IDENTITY_TOKEN_USER: &str = "<token>";
/// The output of a helper when it has no login for a registry (docker-credential-helpers,
/// `credentials.NewErrCredentialsNotFound`: "credentials not found in native keychain").
const NOT_FOUND: &str = "credentials not found";
/// Time for which a killed program is waited for: it is gone at once, unless a disk holds it.
const KILL_WAIT: Duration = Duration::from_secs(1);
/// A login with a token in it is some KiB; ECR's are 4.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024;

#[cfg(test)]
pub(super) mod tests;
