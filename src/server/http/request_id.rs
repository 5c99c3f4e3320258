//! The ids of requests.

use crate::clock::Clock;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes request ids.
#[derive(Debug)]
pub(crate) struct RequestIds {
    /// The low bits of the start time, so that ids of two runs do not meet in one log.
    run: u32,
    next: AtomicU64,
}

impl RequestIds {
    /// Ids of the run that begins now.
    pub(crate) fn new(clock: &dyn Clock) -> Self {
        let low_bits = clock.now().0 & u64::from(u32::MAX);
        Self {
            run: u32::try_from(low_bits).unwrap_or_default(),
            next: AtomicU64::new(1),
        }
    }

    /// An id that no other request of this run has.
    pub(crate) fn next(&self) -> RequestId {
        RequestId {
            run: self.run,
            number: self.next.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// The id of a request: `X-Request-Id`, and `request_id` in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestId {
    run: u32,
    number: u64,
}

impl RequestId {
    /// The run in 8 hex digits, a dash, the number in as many as it needs.
    pub(crate) fn with_text<T>(self, take: impl FnOnce(&str) -> T) -> T {
        let mut text = *b"00000000-0000000000000000";
        let (run, number) = text.split_at_mut(9);
        let mut rest = u64::from(self.run);
        for digit in run.iter_mut().take(8).rev() {
            *digit = hex_digit(rest);
            rest >>= 4;
        }
        let mut rest = self.number;
        let mut used = 0;
        for digit in number.iter_mut().rev() {
            *digit = hex_digit(rest);
            rest >>= 4;
            used += 1;
            if rest == 0 {
                break;
            }
        }
        let unused = number.len() - used;
        number.copy_within(unused.., 0);
        let text = text.get(..9 + used).unwrap_or_default();
        // Hex digits and a dash.
        take(str::from_utf8(text).unwrap_or_default())
    }
}

/// The lowest digit.
fn hex_digit(number: u64) -> u8 {
    let digit = b"0123456789abcdef".get((number & 0xf) as usize);
    digit.copied().unwrap_or_default()
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.write_str(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    #[test]
    fn an_id_is_the_run_and_a_number() {
        for (run, number, expected) in [
            (0xab, 1, "000000ab-1"),
            (u32::MAX, u64::MAX, "ffffffff-ffffffffffffffff"),
            (0x1234_5678, 0x10, "12345678-10"),
            (0, 0, "00000000-0"),
        ] {
            assert_eq!(RequestId { run, number }.to_string(), expected);
        }
    }

    #[test]
    fn ids_differ() {
        let ids = RequestIds::new(&ManualClock::new(Timestamp(1 << 40)));
        assert_ne!(ids.next().to_string(), ids.next().to_string());
    }
}
