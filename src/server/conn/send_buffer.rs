//! The rate at which a client takes what it is sent, and its effect on the others.
//!
//! Left alone the kernel takes megabytes from us for a client that does not take them from it: with a thousand of
//! those, gigabytes (2.1 GB with readers of 100 KB/s on loopback). That is past what it allows all TCP connections of
//! the machine together (`net.ipv4.tcp_mem`): it then refuses buffers to the fast ones too, and before that the fast
//! ones wait while we give it all this. So it holds little for a client that has not shown to be fast. One that is
//! fast has what the kernel finds right, since to be woken for each small part costs an eighth more CPU.

use std::time::Duration;
use tokio::time::Instant;

/// The most that the kernel holds unsent (`TCP_NOTSENT_LOWAT`) for a client that is not fast. What is on its way, or
/// with the client, does not count, so no distance makes it too little; half of it is to last until we come again:
/// 3 ms for the fastest of these clients.
pub(crate) const UNSENT_BYTES_MAX: u32 = 256 * 1024;

/// The value that means to the kernel "as the system is configured" (`net.ipv4.tcp_notsent_lowat`).
pub(crate) const UNSENT_BY_SYSTEM: u32 = 0;

/// Over so much it is looked at again how fast a client is.
const SPAN_BYTES: usize = 4 << 20;

/// A client that takes [`SPAN_BYTES`] in this time (42 MB/s) is fast, until it takes them in [`SLOW_SPAN`] (14 MB/s).
const FAST_SPAN: Duration = Duration::from_millis(100);
const SLOW_SPAN: Duration = Duration::from_millis(300);

/// One client's.
#[derive(Debug)]
pub(crate) struct Pace {
    since: Instant,
    taken: usize,
    is_fast: bool,
}

impl Pace {
    /// Of a client that has shown nothing yet: not fast.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: now,
            taken: 0,
            is_fast: false,
        }
    }

    /// Notes `bytes` that were taken. `Some` when that makes another bound right for what the kernel holds unsent.
    ///
    /// A pause between two requests is part of a span like all else: after it a fast client may be slow for a span.
    pub(crate) fn took(&mut self, bytes: usize, now: impl FnOnce() -> Instant) -> Option<u32> {
        self.taken = self.taken.saturating_add(bytes);
        if self.taken < SPAN_BYTES {
            return None;
        }
        let now = now();
        let span = now.saturating_duration_since(self.since);
        (self.since, self.taken) = (now, 0);
        let is_fast = span <= if self.is_fast { SLOW_SPAN } else { FAST_SPAN };
        let changed = is_fast != self.is_fast;
        self.is_fast = is_fast;
        changed.then_some(if is_fast {
            UNSENT_BY_SYSTEM
        } else {
            UNSENT_BYTES_MAX
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result of spans that took so many milliseconds each, one after the other.
    fn said(spans: &[u64]) -> Vec<Option<u32>> {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut said = Vec::new();
        for span in spans {
            assert_eq!(
                pace.took(SPAN_BYTES - 1, || panic!("it looks at the clock")),
                None
            );
            now += Duration::from_millis(*span);
            said.push(pace.took(1, || now));
        }
        said
    }

    #[test]
    fn a_client_is_fast_once_it_shows_it_and_until_it_is_clearly_slow() {
        let (fast, slow) = (Some(UNSENT_BY_SYSTEM), Some(UNSENT_BYTES_MAX));
        assert_eq!(
            said(&[40_000, 101, 100, 300, 301, 300, 1]),
            [None, None, fast, None, slow, None, fast]
        );
    }
}
