//! Log lines on their way to standard error.
//!
//! Nobody waits for them: standard error may be a pipe that nobody reads, a terminal that was stopped, a file on a disk
//! that hangs. A thread of its own writes, and what comes while it cannot is kept up to a bound, then dropped and
//! counted.
//!
//! A busy mirror writes tens of thousands of access lines a second, and a system call for each would be a good part
//! of what a small answer costs. So these wait a moment for each other. All other lines go out at once, and take
//! along what waits, so that the order stays as it was.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use tracing_subscriber::fmt::MakeWriter;

use super::access;
use super::format::LogFormat;

/// The longest time that a line may wait for others: short for who reads along, and all that a kill can lose.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// When so much waits, some 200 lines, it is written at once.
const BATCH_BYTES: usize = 64 * 1024;

/// The most bytes of access lines that may wait: some 4,000 access lines.
const ACCESS_BYTES_MAX: usize = 1024 * 1024;

/// The most bytes that may wait at all: what an operator must hear has room when access lines have taken theirs.
const BYTES_MAX: usize = ACCESS_BYTES_MAX + 256 * 1024;

/// Time for which a descriptor that does not block, and is full, is left alone. Others may have made it so.
const FULL_REST: Duration = Duration::from_millis(20);

/// Lines that were never written: of the process, which has one standard error.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Number of lines that were never written.
pub(super) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// The sink of all lines.
#[derive(Debug)]
pub(super) struct Sink {
    format: LogFormat,
    queue: Mutex<Queue>,
    /// There is something to do for the thread.
    filled: Condvar,
    /// The thread has written something.
    written: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    lines: u64,
    /// Not to wait for more lines.
    urgent: bool,
    /// Lines that had no room since the last that had.
    dropped: u64,
    /// The thread is at it.
    writing: bool,
}

/// Takes the log library's lines, each in one piece.
#[derive(Debug)]
pub(super) struct AtOnce(&'static Sink);

impl Sink {
    pub(super) fn new(format: LogFormat) -> Self {
        Self {
            format,
            queue: Mutex::default(),
            filled: Condvar::new(),
            written: Condvar::new(),
        }
    }

    /// The format of lines.
    pub(super) fn format(&self) -> LogFormat {
        self.format
    }

    /// An access line: it can wait a moment.
    pub(super) fn push(&self, line: &[u8]) {
        self.take(line, ACCESS_BYTES_MAX, false);
    }

    /// A line that goes out at once.
    pub(super) fn push_now(&self, line: &[u8]) {
        self.take(line, BYTES_MAX, true);
    }

    fn take(&self, line: &[u8], limit: usize, now: bool) {
        let wake = {
            let mut queue = self.lock();
            if queue.bytes.len().saturating_add(line.len()) > limit {
                queue.dropped += 1;
                DROPPED.fetch_add(1, Ordering::Relaxed);
                false
            } else {
                let first = queue.bytes.is_empty();
                queue.bytes.extend_from_slice(line);
                queue.lines += 1;
                let hurry = !queue.urgent && (now || queue.bytes.len() >= BATCH_BYTES);
                queue.urgent |= hurry;
                first || hurry
            }
        };
        if wake {
            self.filled.notify_one();
        }
    }

    /// Waits until all is written, but no longer than this.
    pub(super) fn flush(&self, wait_max: Duration) {
        let mut queue = self.lock();
        queue.urgent = true;
        self.filled.notify_one();
        let waiting = |queue: &mut Queue| queue.writing || !queue.bytes.is_empty();
        drop(
            self.written
                .wait_timeout_while(queue, wait_max, waiting)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Writes what waits, again and again. Never returns: for a thread of its own.
    pub(super) fn run(&self) {
        let mut batch = Vec::new();
        loop {
            let (lines, dropped) = self.next(&mut batch);
            if write_all(&batch).is_err() {
                DROPPED.fetch_add(lines, Ordering::Relaxed);
            } else if dropped > 0 {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a line has the time of all other lines, which is the system's"
                )]
                let now = SystemTime::now();
                // They had no room behind the ones that were just written. There is nowhere else to complain.
                let said = access::dropped(self.format, now, dropped);
                let _lost = write_all(said.as_bytes()).is_err();
            }
            batch.clear();
            self.lock().writing = false;
            self.written.notify_all();
        }
    }

    /// Waits for lines and takes them; says how many they are, and how many were dropped behind them.
    fn next(&self, batch: &mut Vec<u8>) -> (u64, u64) {
        let queue = self
            .filled
            .wait_while(self.lock(), |queue| queue.bytes.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        let (mut queue, _) = self
            .filled
            .wait_timeout_while(queue, WAIT_MAX, |queue| !queue.urgent)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut queue.bytes, batch);
        queue.urgent = false;
        queue.writing = true;
        (
            std::mem::take(&mut queue.lines),
            std::mem::take(&mut queue.dropped),
        )
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Bytes are appended or taken: nothing is left half done.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl io::Write for AtOnce {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push_now(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for &'static Sink {
    type Writer = AtOnce;

    fn make_writer(&self) -> AtOnce {
        AtOnce(self)
    }
}

/// Writes to standard error, past the library's lock: who holds that while a write stands still would hold up
/// everybody else who has something to say. Blocks for as long as nobody reads.
fn write_all(mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(io::stderr(), bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => std::thread::sleep(FULL_REST),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_counted_and_warnings_have_more_than_access_lines() {
        let sink = Sink::new(LogFormat::Text);
        let line = [b'x'; 1000];
        for _ in 0..2000 {
            sink.push(&line);
        }
        assert_eq!(sink.lock().lines, 1048);
        assert_eq!(sink.lock().dropped, 952);
        sink.push_now(&line);
        assert_eq!(sink.lock().lines, 1049);
        for _ in 0..2000 {
            sink.push_now(&line);
        }
        assert!(sink.lock().bytes.len() <= BYTES_MAX);
        // Nobody writes: it is waited for no longer than was said.
        sink.flush(Duration::from_millis(1));
        let mut batch = Vec::new();
        let (lines, dropped) = sink.next(&mut batch);
        assert_eq!(
            (lines + dropped, batch.len()),
            (4001, usize::try_from(lines).unwrap() * 1000)
        );
        assert!(sink.lock().bytes.is_empty());
    }
}
