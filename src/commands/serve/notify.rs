//! Messages to the service manager (`sd_notify(3)`): ready, reloading, stopping, and that requests are still answered.
//!
//! Nothing here waits for the manager: a message that it does not take is logged at `debug` and lost, for a server must
//! not hang because its manager does.

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::SocketAddr;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{self as unix, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::net::near;

/// The checks in one interval of the watchdog: two may be missed before the manager ends the process.
const CHECKS: u32 = 3;

/// The least time between two checks, whatever interval somebody has set.
const CHECK_EVERY_MIN: Duration = Duration::from_millis(100);

/// The time beyond the drain's own bound after which the manager may kill: for the exit itself.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// The request of a check. A listener with a certificate refuses it, which is an answer as well.
const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// The service manager, if there is one that listens. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Manager {
    socket: Option<Arc<unix::SocketAddr>>,
    /// The longest time that the manager waits for a sign of life.
    watchdog: Option<Duration>,
}

impl Manager {
    /// The manager that the environment names.
    pub(super) fn of_environment() -> Self {
        let of = |name: &str| {
            let mut all = std::env::vars_os();
            all.find_map(|(variable, value)| (variable == name).then_some(value))
        };
        let Some(socket) = of("NOTIFY_SOCKET").filter(|it| !it.is_empty()) else {
            return Self::default();
        };
        let socket = match address(&socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(?socket, %error, "NOTIFY_SOCKET cannot be used: the service manager is told nothing");
                return Self::default();
            }
        };
        let number = |value: OsString| value.to_str()?.parse::<u64>().ok();
        let own = u64::from(std::process::id());
        let is_for_us = of("WATCHDOG_PID").is_none_or(|pid| number(pid) == Some(own));
        let watchdog = of("WATCHDOG_USEC").and_then(number);
        let watchdog = watchdog.filter(|micros| *micros > 0 && is_for_us);
        Self {
            socket: Some(Arc::new(socket)),
            watchdog: watchdog.map(Duration::from_micros),
        }
    }

    /// Requests are answered.
    pub(super) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}\n"));
    }

    /// This process has taken over from the one that the manager has started.
    pub(super) fn is_main(&self) {
        self.tell(&format!("MAINPID={}\n", std::process::id()));
    }

    /// The configuration is being read again, until [`Manager::ready`].
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.tell(&format!(
            "RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reading the configuration again\n"
        ));
    }

    /// The end has begun, and takes no longer than this. The manager waits for it, whatever its own bound is.
    pub(super) fn stopping(&self, wait_max: Duration) {
        let extended = wait_max.saturating_add(STOP_MARGIN).as_micros();
        let seconds = wait_max.as_secs();
        self.tell(&format!(
            "STOPPING=1\nEXTEND_TIMEOUT_USEC={extended}\nSTATUS=draining, for at most {seconds} s\n"
        ));
    }

    /// Tells the manager that the server lives for as long as `check` ends in time. Ends at once where it does not watch.
    /// To be run by the runtime that serves: when that hangs, so does this.
    pub(super) async fn watch<Checked: Future<Output = ()>>(
        self,
        mut check: impl FnMut() -> Checked,
    ) {
        let Some(interval) = self.watchdog else {
            return;
        };
        let every = (interval / CHECKS).max(CHECK_EVERY_MIN);
        let mut has_answered = false;
        loop {
            match tokio::time::timeout(every, check()).await {
                Ok(()) => {
                    has_answered = true;
                    self.tell("WATCHDOG=1\n");
                }
                // One that never answered is out of reach from here, by a firewall: its silence proves nothing.
                Err(_silent) if !has_answered => self.tell("WATCHDOG=1\n"),
                Err(_silent) => {
                    tracing::error!(
                        "the admin listener does not answer this process itself: the service manager restarts it if that goes on"
                    );
                    continue;
                }
            }
            tokio::time::sleep(every).await;
        }
    }

    fn tell(&self, message: &str) {
        let Some(socket) = &self.socket else {
            return;
        };
        let told = || {
            let sender = UnixDatagram::unbound()?;
            sender.set_nonblocking(true)?;
            sender.send_to_addr(message.as_bytes(), socket)
        };
        if let Err(error) = told() {
            tracing::debug!(%error, message, "the service manager cannot be told");
        }
    }
}

/// The address of a socket in the file system, or of an abstract one (`@…`).
fn address(socket: &OsStr) -> io::Result<unix::SocketAddr> {
    match socket.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => unix::SocketAddr::from_abstract_name(name),
        [b'/', ..] => unix::SocketAddr::from_pathname(socket),
        _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
    }
}

/// Asks the admin listener of this process for an answer, whatever it is. An error is one, too: the kernel or a rule of this
/// machine has given it, and a restart would change nothing.
pub(super) async fn ask(admin: SocketAddr) {
    let asked = async {
        let mut stream = TcpStream::connect(near(admin)).await?;
        stream.write_all(REQUEST).await?;
        stream.read(&mut [0; 64]).await
    };
    if let Err(error) = asked.await {
        tracing::debug!(%error, "the admin listener's answer to the watchdog's check");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::time::Instant;

    const INTERVAL: Duration = Duration::from_mins(1);

    /// A manager that watches, and what it hears.
    fn manager() -> (Manager, UnixDatagram, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let heard = UnixDatagram::bind(&path).unwrap();
        heard.set_nonblocking(true).unwrap();
        let manager = Manager {
            socket: Some(Arc::new(address(path.as_os_str()).unwrap())),
            watchdog: Some(INTERVAL),
        };
        (manager, heard, dir)
    }

    fn next(heard: &UnixDatagram) -> Option<String> {
        let mut message = [0; 512];
        let length = heard.recv(&mut message).ok()?;
        Some(String::from_utf8(message[..length].to_vec()).unwrap())
    }

    fn signs(heard: &UnixDatagram) -> usize {
        std::iter::from_fn(|| next(heard))
            .inspect(|it| assert_eq!(it, "WATCHDOG=1\n"))
            .count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_has_answered_and_is_silent_gives_no_sign_of_life() {
        let (manager, heard, _dir) = manager();
        let asked = AtomicU32::new(0);
        let check = || {
            let is_silent = asked.fetch_add(1, Ordering::Relaxed) >= 3;
            async move {
                if is_silent {
                    pending::<()>().await;
                }
            }
        };
        let watching = manager.watch(check);
        tokio::time::timeout(INTERVAL * 10, watching)
            .await
            .unwrap_err();
        assert_eq!(signs(&heard), 3);
        assert!(asked.load(Ordering::Relaxed) > 20, "it went on to ask");
    }

    #[tokio::test(start_paused = true)]
    async fn signs_of_life_come_more_often_than_the_manager_asks_for() {
        let (manager, heard, _dir) = manager();
        let begun = Instant::now();
        let watching = manager.watch(|| async {});
        tokio::time::timeout(INTERVAL, watching).await.unwrap_err();
        assert_eq!(begun.elapsed(), INTERVAL);
        assert!(signs(&heard) >= 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_silence_of_a_listener_that_never_answered_is_not_the_servers() {
        let (manager, heard, _dir) = manager();
        let watching = manager.watch(pending::<()>);
        tokio::time::timeout(INTERVAL, watching).await.unwrap_err();
        assert!(signs(&heard) > 0);
    }

    #[tokio::test]
    async fn a_refusal_is_an_answer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        // As a listener with a certificate does, to which the request is no greeting.
        let hang_up = async { drop(listener.accept().await.unwrap()) };
        tokio::join!(hang_up, ask(at));
        drop(listener);
        ask(at).await;
    }

    #[test]
    fn abstract_sockets_are_told_too() {
        let name = format!("@roadstead-test-{}", std::process::id());
        let address = address(OsStr::new(&name)).unwrap();
        let heard = UnixDatagram::bind_addr(&address).unwrap();
        let manager = Manager {
            socket: Some(Arc::new(address)),
            watchdog: None,
        };
        manager.stopping(Duration::from_secs(28));
        let said = "STOPPING=1\nEXTEND_TIMEOUT_USEC=33000000\nSTATUS=draining, for at most 28 s\n";
        assert_eq!(next(&heard).unwrap(), said);
    }

    #[test]
    fn other_sockets_are_refused() {
        for socket in ["vsock:2:1234", "notify"] {
            assert!(address(OsStr::new(socket)).is_err(), "{socket}");
        }
    }
}
