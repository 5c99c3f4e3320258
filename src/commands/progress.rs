//! The progress of a command: a bar on a terminal, elsewhere a line on standard error every ten seconds, so that a job's log
//! shows that something goes on, how fast, and until when.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::output::{self, Output};
use crate::format::{harmless, size};

/// The look of every bar that counts bytes.
pub(super) const BYTES: &str = "[{bar:30}] {decimal_bytes:>9}/{decimal_total_bytes:9} {decimal_bytes_per_sec:>12} {eta:>4}  {wide_msg}";

/// Shows that something is alive, while no byte comes.
pub(super) const TICK: Duration = Duration::from_millis(200);

/// Between two lines where there is no terminal: a long transfer leaves some hundred in a job's log.
const LINE_EACH: Duration = Duration::from_secs(10);

/// Bytes of a whole that is known, or grows.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    lines: Option<Lines>,
}

/// Lines instead of a bar.
#[derive(Debug)]
pub(super) struct Lines {
    begun: Instant,
    /// Milliseconds after the beginning at which the next line is due.
    due: AtomicU64,
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Nothing is done yet, and nothing expected.
    pub(super) fn new(output: Output) -> Self {
        let bar = (output == Output::Human && output::is_watched()).then(|| {
            let bar = ProgressBar::new(0).with_style(style(BYTES));
            bar.enable_steady_tick(TICK);
            bar
        });
        let lines = (bar.is_none()).then(|| Lines::new(output)).flatten();
        Self { bar, lines }
    }

    /// So many bytes more are to come.
    pub(super) fn expect(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc_length(bytes);
        }
        if let Some(lines) = &self.lines {
            lines.total.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// So many have come.
    pub(super) fn advance(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
        if let Some(lines) = &self.lines {
            lines.done.fetch_add(bytes, Ordering::Relaxed);
            lines.show("");
        }
    }

    /// So many count no more.
    pub(super) fn take_back(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.dec(bytes);
        }
        if let Some(lines) = &self.lines {
            lines.done.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// So many of so many, and what is said beside it.
    pub(super) fn set(&self, done: u64, total: u64, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(total.max(done));
            bar.set_position(done);
        }
        self.doing(what);
        if let Some(lines) = &self.lines {
            lines.done.store(done, Ordering::Relaxed);
            lines.total.store(total.max(done), Ordering::Relaxed);
            lines.show(what);
        }
    }

    /// Names the work that is being done.
    pub(super) fn doing(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(harmless(what).into_owned());
        }
    }

    /// Writes something; the bar stays below it.
    pub(super) fn show(&self, write: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Lines {
    /// None where nobody wants them.
    pub(super) fn new(output: Output) -> Option<Self> {
        let wanted = output == Output::Human && !output::is_quiet() && !output::is_watched();
        wanted.then(|| Self {
            begun: Instant::now(),
            due: AtomicU64::new(millis(LINE_EACH)),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
        })
    }

    /// So many bytes have come, or (negative) count no more; `what` is said beside them.
    pub(super) fn change(&self, bytes: i64, what: &str) {
        // Wraps around to less where the number is negative.
        self.done
            .fetch_add(bytes.cast_unsigned(), Ordering::Relaxed);
        self.show(what);
    }

    /// Writes a line, if one is due.
    fn show(&self, what: &str) {
        let elapsed = self.begun.elapsed();
        let (now, due) = (millis(elapsed), self.due.load(Ordering::Relaxed));
        let next = now + millis(LINE_EACH);
        let mine = || {
            let swapped =
                self.due
                    .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed);
            swapped.is_ok()
        };
        if now < due || !mine() {
            return;
        }
        let done = self.done.load(Ordering::Relaxed);
        let total = self.total.load(Ordering::Relaxed);
        output::note(&line(done, total, elapsed, what));
    }
}

/// `1.2 GB of 3.4 GB, 80.0 MB/s, 28 s left`.
fn line(done: u64, total: u64, elapsed: Duration, what: &str) -> String {
    let seconds = elapsed.as_secs().max(1);
    let rate = done / seconds;
    let mut line = size(done);
    if total > 0 {
        line = format!("{line} of {}", size(total));
    }
    line = format!("{line}, {}/s", size(rate));
    if total > done && rate > 0 {
        line = format!("{line}, {} s left", (total - done).div_ceil(rate));
    }
    if !what.is_empty() {
        line = format!("{line}  {}", harmless(what));
    }
    line
}

/// A bar's style.
pub(super) fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_until_when() {
        let at = |done, total, seconds| line(done, total, Duration::from_secs(seconds), "");
        assert_eq!(
            at(500_000_000, 2_000_000_000, 10),
            "500.0 MB of 2.0 GB, 50.0 MB/s, 30 s left"
        );
        assert_eq!(at(0, 100, 10), "0 B of 100 B, 0 B/s");
        assert_eq!(at(100, 100, 0), "100 B of 100 B, 100 B/s");
        assert_eq!(at(3000, 0, 3), "3.0 kB, 1.0 kB/s");
        let named = line(10, 0, Duration::from_secs(1), "a\u{1b}b");
        assert_eq!(named, "10 B, 10 B/s  a\u{fffd}b");
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_is_due_every_ten_seconds() {
        let lines = Lines {
            begun: Instant::now(),
            due: AtomicU64::new(millis(LINE_EACH)),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
        };
        let due = |lines: &Lines| lines.due.load(Ordering::Relaxed);
        lines.change(5, "");
        assert_eq!(due(&lines), 10_000);
        tokio::time::advance(Duration::from_secs(11)).await;
        lines.change(-2, "");
        assert_eq!(
            (due(&lines), lines.done.load(Ordering::Relaxed)),
            (21_000, 3)
        );
    }
}
