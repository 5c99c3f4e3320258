//! Log lines on their way to standard error.
//!
//! A busy mirror writes tens of thousands of access lines a second, and a system call for each would be a good part
//! of what a small answer costs. So these wait a moment for each other. All other lines go out at once, and take
//! along what waits, so that the order stays as it was.

use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// How long a line may wait for others: short for who reads along, and all that a kill can lose.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// How much may wait: some 200 lines. Whoever fills it up writes it out, and waits if standard error does.
const WAITING_BYTES_MAX: usize = 64 * 1024;

/// Where all lines go.
#[derive(Debug, Default)]
pub(super) struct Sink {
    waiting: Mutex<Vec<u8>>,
    /// Something waits that did not before.
    filled: Condvar,
    /// Held while lines are written, so that they keep their order. In it is room for the next ones.
    writing: Mutex<Vec<u8>>,
}

/// Writes lines at once.
#[derive(Debug)]
pub(super) struct AtOnce(&'static Sink);

impl Sink {
    /// A line that can wait a moment.
    pub(super) fn push(&self, line: &[u8]) {
        let (first, full) = {
            let mut waiting = lock(&self.waiting);
            let first = waiting.is_empty();
            waiting.extend_from_slice(line);
            (first, waiting.len() >= WAITING_BYTES_MAX)
        };
        if full {
            self.flush();
        } else if first {
            self.filled.notify_one();
        }
    }

    /// Writes out what waits.
    pub(super) fn flush(&self) {
        let mut writing = lock(&self.writing);
        std::mem::swap(&mut *lock(&self.waiting), &mut *writing);
        // There is nowhere else to complain.
        let _lost = io::stderr().write_all(&writing).is_err();
        writing.clear();
    }

    /// Writes out what waits, again and again. Never returns.
    pub(super) fn run(&self) {
        loop {
            let waiting = lock(&self.waiting);
            let filled = self
                .filled
                .wait_while(waiting, |waiting| waiting.is_empty());
            drop(filled);
            std::thread::sleep(WAIT_MAX);
            self.flush();
        }
    }
}

impl Write for AtOnce {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        lock(&self.0.waiting).extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush();
        Ok(())
    }
}

impl Drop for AtOnce {
    fn drop(&mut self) {
        self.0.flush();
    }
}

impl MakeWriter<'_> for &'static Sink {
    type Writer = AtOnce;

    fn make_writer(&self) -> AtOnce {
        AtOnce(self)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Bytes are appended, taken or written: nothing is left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
