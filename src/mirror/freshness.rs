//! Whether what is known of a tag may be served. Pure.

use std::time::Duration;

use super::Config;
use crate::clock::Timestamp;
use crate::oci::AcceptClass;
use crate::store::TagRecord;

/// After upstream could not answer, a stale tag is served for this long
/// without asking again: a fleet's pulls must not each wait for a dead upstream.
const STALE_RETRY: Duration = Duration::from_secs(5);

/// What to do about a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict<'a> {
    /// Serve it.
    Fresh(&'a TagRecord),
    /// Serve it as stale without asking: upstream failed a moment ago.
    StaleForNow(&'a TagRecord),
    /// Ask upstream whether it still names the same digest.
    Revalidate(&'a TagRecord),
    /// Nothing is known: ask.
    Absent,
}

/// Judges what is known of a tag for a client that accepts `class`.
pub(super) fn judge<'a>(
    records: &'a [TagRecord],
    class: AcceptClass,
    policy: &Config,
    failed: Option<Timestamp>,
    now: Timestamp,
) -> Verdict<'a> {
    let Some(record) = answer_for(records, class) else {
        return Verdict::Absent;
    };
    // A clock that was set back makes a record look as if it came from the
    // future: then it is asked again, not kept for ever.
    if record.checked <= now && now.since(record.checked) < policy.ttl {
        Verdict::Fresh(record)
    } else if failed.is_some_and(|at| at <= now && now.since(at) < STALE_RETRY)
        && may_be_stale(record, policy, now)
    {
        Verdict::StaleForNow(record)
    } else {
        Verdict::Revalidate(record)
    }
}

/// What may be served although upstream cannot confirm it. Here the answer that
/// any client got will do, if this client can read it: it is that or nothing.
pub(super) fn fallback<'a>(
    records: &'a [TagRecord],
    class: AcceptClass,
    policy: &Config,
    now: Timestamp,
) -> Option<&'a TagRecord> {
    let readable = records.iter().filter(|r| class.allows(&r.media_type));
    let newest = || readable.clone().max_by_key(|r| r.checked);
    answer_for(records, class)
        .or_else(newest)
        .filter(|record| may_be_stale(record, policy, now))
}

fn may_be_stale(record: &TagRecord, policy: &Config, now: Timestamp) -> bool {
    now.since(record.checked) < policy.ttl.saturating_add(policy.stale_if_error)
}

/// The newest answer that upstream would have given to `class` too: one for the
/// same formats, or one that a client accepting more got in a format that this
/// one accepts.
fn answer_for(records: &[TagRecord], class: AcceptClass) -> Option<&TagRecord> {
    let covers = |r: &&TagRecord| {
        r.class == class
            || (r.class.bits() & class.bits() == class.bits() && class.allows(&r.media_type))
    };
    records.iter().filter(covers).max_by_key(|r| r.checked)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Digest;
    use crate::oci::manifest::media;

    const POLICY: Config = Config {
        ttl: Duration::from_mins(1),
        stale_if_error: Duration::from_mins(10),
    };

    fn class(types: &str) -> AcceptClass {
        AcceptClass::from_headers(std::iter::once(types))
    }

    fn record(class: AcceptClass, media_type: &str, checked: u64) -> TagRecord {
        TagRecord {
            class,
            digest: Digest::Sha256([1; 32]),
            media_type: media_type.to_owned(),
            checked: Timestamp(checked * 1000),
        }
    }

    fn judged(
        records: &[TagRecord],
        class: AcceptClass,
        failed: Option<u64>,
        now: u64,
    ) -> &'static str {
        match judge(
            records,
            class,
            &POLICY,
            failed.map(|s| Timestamp(s * 1000)),
            Timestamp(now * 1000),
        ) {
            Verdict::Fresh(_) => "fresh",
            Verdict::StaleForNow(_) => "stale",
            Verdict::Revalidate(_) => "revalidate",
            Verdict::Absent => "absent",
        }
    }

    #[test]
    fn a_tag_is_fresh_for_its_ttl_and_is_asked_after_it() {
        let all = class("*/*");
        let known = [record(all, media::OCI_INDEX, 100)];
        assert_eq!(judged(&[], all, None, 100), "absent");
        assert_eq!(judged(&known, all, None, 100), "fresh");
        assert_eq!(judged(&known, all, None, 159), "fresh");
        assert_eq!(judged(&known, all, None, 160), "revalidate");
        assert_eq!(
            judged(&known, all, None, 99),
            "revalidate",
            "a clock set back"
        );
    }

    #[test]
    fn a_dead_upstream_is_not_asked_by_every_pull() {
        let all = class("*/*");
        let known = [record(all, media::OCI_INDEX, 100)];
        assert_eq!(judged(&known, all, Some(200), 204), "stale");
        assert_eq!(judged(&known, all, Some(200), 205), "revalidate");
        assert_eq!(
            judged(&known, all, Some(759), 760),
            "revalidate",
            "past stale_if_error"
        );
    }

    #[test]
    fn formats_are_kept_apart_unless_the_answer_must_be_the_same() {
        let (all, image) = (class("*/*"), class(media::OCI_MANIFEST));
        let index_for_all = [record(all, media::OCI_INDEX, 100)];
        assert_eq!(judged(&index_for_all, image, None, 100), "absent");
        let image_for_all = [record(all, media::OCI_MANIFEST, 100)];
        assert_eq!(judged(&image_for_all, image, None, 100), "fresh");
        let image_for_image = [record(image, media::OCI_MANIFEST, 100)];
        assert_eq!(
            judged(&image_for_image, all, None, 100),
            "absent",
            "all may get an index"
        );
        let now = Timestamp(100_000);
        assert!(
            fallback(&image_for_image, all, &POLICY, now).is_some(),
            "but better than nothing"
        );
        assert!(
            fallback(&index_for_all, image, &POLICY, now).is_none(),
            "this client cannot read it"
        );
    }

    proptest! {
        #[test]
        fn once_not_fresh_never_fresh_again(checked in 0_u64..500, now in 0_u64..2000, later in 0_u64..2000) {
            let all = class("*/*");
            let known = [record(all, media::OCI_INDEX, checked)];
            if now >= checked && judged(&known, all, None, now) != "fresh" {
                prop_assert_ne!(judged(&known, all, None, now + later), "fresh");
                let stale_later = fallback(&known, all, &POLICY, Timestamp((now + later) * 1000)).is_some();
                let stale_now = fallback(&known, all, &POLICY, Timestamp(now * 1000)).is_some();
                prop_assert!(stale_now || !stale_later);
            }
        }
    }
}
