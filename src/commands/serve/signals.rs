//! The signals that a server gets. The default of most of them is to end the process at once, in the middle of
//! bodies: those that mean the end drain it, and all others are named and passed over.

use std::ffi::c_int;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that mean the end.
const ENDS: &[(c_int, &str)] = &[
    (libc::SIGINT, "SIGINT"),
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGQUIT, "SIGQUIT"),
    // The processor time is used up: after some more of it the kernel kills.
    (libc::SIGXCPU, "SIGXCPU"),
    #[cfg(target_os = "linux")]
    (libc::SIGPWR, "SIGPWR"),
];

/// Signals that mean nothing here. The terminal's end is not a server's, and a limit on the size of files (SIGXFSZ) is an
/// error of the write that met it.
const PASSED_OVER: &[(c_int, &str)] = &[
    (libc::SIGUSR2, "SIGUSR2"),
    (libc::SIGALRM, "SIGALRM"),
    (libc::SIGVTALRM, "SIGVTALRM"),
    (libc::SIGPROF, "SIGPROF"),
    (libc::SIGIO, "SIGIO"),
    (libc::SIGXFSZ, "SIGXFSZ"),
    #[cfg(target_os = "linux")]
    (libc::SIGSTKFLT, "SIGSTKFLT"),
];

/// All that a server takes notice of.
pub(super) struct Signals {
    all: Vec<(Signal, Meaning)>,
    /// The action for SIGHUP, once there is something to reload.
    reload: Option<Box<dyn FnMut() + Send>>,
    /// The action for SIGUSR1, once there are files that can be opened again.
    reopen: Option<Box<dyn FnMut() + Send>>,
    /// One came before that.
    came_early: bool,
}

#[derive(Clone, Copy, Debug)]
enum Meaning {
    End(Stop),
    Reload,
    Reopen,
    Nothing(c_int, &'static str),
}

/// A signal that asks the server to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    number: c_int,
    name: &'static str,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        let ends = ENDS
            .iter()
            .map(|&(number, name)| (number, Meaning::End(Stop { number, name })));
        let others = PASSED_OVER
            .iter()
            .copied()
            .chain(real_time().map(|number| (number, "a real-time signal")))
            .map(|(number, name)| (number, Meaning::Nothing(number, name)));
        let actions = [
            (libc::SIGHUP, Meaning::Reload),
            (libc::SIGUSR1, Meaning::Reopen),
        ];
        let handle = |(number, meaning)| Ok((signal(SignalKind::from_raw(number))?, meaning));
        let needed = ends.chain(actions).map(handle);
        let mut all = needed.collect::<io::Result<Vec<_>>>()?;
        // Debuggers and sandboxes keep some of these for themselves, which then do not reach this process.
        all.extend(others.map(handle).filter_map(io::Result::ok));
        Ok(Self {
            all,
            reload: None,
            reopen: None,
            came_early: false,
        })
    }

    /// Does this on SIGHUP from now on. It must not block.
    pub(super) fn on_reload(&mut self, mut reload: impl FnMut() + Send + 'static) {
        if std::mem::take(&mut self.came_early) {
            reload();
        }
        self.reload = Some(Box::new(reload));
    }

    /// Does this on SIGUSR1 from now on. It must not block. What came before means nothing: files were just opened.
    pub(super) fn on_reopen(&mut self, reopen: impl FnMut() + Send + 'static) {
        self.reopen = Some(Box::new(reopen));
    }

    /// Waits for one that asks to stop.
    pub(super) async fn next(&mut self) -> Stop {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Stop> {
        for (signal, meaning) in &mut self.all {
            while let Poll::Ready(Some(())) = signal.poll_recv(context) {
                match *meaning {
                    Meaning::End(stop) => return Poll::Ready(stop),
                    Meaning::Nothing(libc::SIGXFSZ, _) => tracing::warn!(
                        "SIGXFSZ: a file met the process's limit on sizes of files (ulimit -f); what is larger passes through"
                    ),
                    Meaning::Reload => {
                        tracing::info!(
                            "SIGHUP: reading the configuration again; keys that need a restart are named"
                        );
                        match &mut self.reload {
                            Some(reload) => reload(),
                            None => self.came_early = true,
                        }
                    }
                    Meaning::Reopen => {
                        if let Some(reopen) = &mut self.reopen {
                            reopen();
                        }
                    }
                    Meaning::Nothing(number, name) => {
                        tracing::info!(signal = name, number, "this signal means nothing here");
                    }
                }
            }
        }
        Poll::Pending
    }
}

impl Stop {
    pub(super) fn as_str(self) -> &'static str {
        self.name
    }

    /// The code that a shell reports for a process that this signal ended: 128 and the signal's number.
    pub(super) fn exit_code(self) -> u8 {
        u8::try_from(self.number).map_or(u8::MAX, |number| number.saturating_add(128))
    }
}

/// For a command: a limit on the size of files is an error of the write that meets it, not the command's end.
pub(in crate::commands) fn survive_large_files() {
    if let Err(error) = signal(SignalKind::from_raw(libc::SIGXFSZ)) {
        tracing::debug!(%error, "a limit on the size of files will end the process");
    }
}

#[cfg(target_os = "linux")]
fn real_time() -> impl Iterator<Item = c_int> {
    libc::SIGRTMIN()..=libc::SIGRTMAX()
}

#[cfg(not(target_os = "linux"))]
fn real_time() -> impl Iterator<Item = c_int> {
    std::iter::empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_exit_as_shells_expect() {
        let codes = ENDS.iter().map(|&(number, name)| Stop { number, name });
        let codes: Vec<u8> = codes.take(3).map(Stop::exit_code).collect();
        assert_eq!(codes, [130, 143, 131]);
    }
}
