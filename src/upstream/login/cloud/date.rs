//! Dates in UTC, as signatures want them written.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::Timestamp;

/// `2016-02-23T12:46:24Z` (RFC 3339).
pub(super) fn rfc3339(at: Timestamp) -> String {
    humantime::format_rfc3339_seconds(system_time(at)).to_string()
}

/// `2019-02-25`.
pub(super) fn day(at: Timestamp) -> String {
    let mut text = rfc3339(at);
    if let Some(end) = text.find('T') {
        text.truncate(end);
    }
    text
}

/// `20150830T123600Z` (ISO 8601, basic format).
pub(super) fn basic(at: Timestamp) -> String {
    rfc3339(at)
        .chars()
        .filter(|c| !matches!(c, '-' | ':'))
        .collect()
}

/// `Tue, 23 Feb 2016 12:46:24 GMT` (RFC 9110 section 5.6.7).
pub(super) fn http(at: Timestamp) -> String {
    httpdate::fmt_http_date(system_time(at))
}

/// The instant, not later than the year 9999: the formats have four digits, and the formatters panic
/// or fail beyond.
fn system_time(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(at.0.min(LAST_MILLISECOND))
}

/// 9999-12-31T23:59:59.999Z.
const LAST_MILLISECOND: u64 = 253_402_300_799_999;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_in_four_ways() {
        let at = Timestamp(1_456_231_584_999);
        assert_eq!(rfc3339(at), "2016-02-23T12:46:24Z");
        assert_eq!(day(at), "2016-02-23");
        assert_eq!(basic(at), "20160223T124624Z");
        assert_eq!(http(at), "Tue, 23 Feb 2016 12:46:24 GMT");
        assert_eq!(basic(Timestamp(1_709_164_800_000)), "20240229T000000Z");
    }

    #[test]
    fn no_instant_is_too_far() {
        assert_eq!(rfc3339(Timestamp(0)), "1970-01-01T00:00:00Z");
        assert_eq!(day(Timestamp(u64::MAX)), "9999-12-31");
        assert_eq!(http(Timestamp(u64::MAX)), "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
