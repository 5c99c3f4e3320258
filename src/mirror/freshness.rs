//! The decision if a tag may be served. Pure.

use std::time::Duration;

use super::{Policy, Revalidate, Ttl};
use crate::clock::Timestamp;
use crate::oci::AcceptClass;
use crate::store::{Origin, TagRecord};

/// After upstream could not answer, a stale tag is served for this long
/// without asking again: a fleet's pulls must not each wait for a dead upstream.
const STALE_RETRY: Duration = Duration::from_secs(5);

/// The end of the last question about a tag, if it was not a good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastFailure {
    /// The old answer was served for it, at this time.
    ServedStale(Timestamp),
    /// It is no reason to serve the old answer.
    Refused,
}

/// The decision about a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict<'a> {
    /// Serve it.
    Fresh(&'a TagRecord),
    /// Serve it as stale without asking: upstream failed a moment ago.
    StaleForNow(&'a TagRecord),
    /// Serve it as stale, and ask upstream meanwhile.
    StaleMeanwhile(&'a TagRecord),
    /// Ask upstream whether it still names the same digest.
    Revalidate(&'a TagRecord),
    /// Nothing is known: ask.
    Absent,
}

/// Judges what is known of a tag for a client that accepts `class`.
pub(super) fn judge<'a>(
    records: &'a [TagRecord],
    class: AcceptClass,
    policy: &Policy,
    failed: Option<LastFailure>,
    now: Timestamp,
) -> Verdict<'a> {
    let Some(record) = answer_for(records, class) else {
        return Verdict::Absent;
    };
    let ttl = match policy.ttl {
        Ttl::Forever => return Verdict::Fresh(record),
        Ttl::For(ttl) => ttl,
    };
    // A clock that was set back makes a record look as if it came from the
    // future: then it is asked again, not kept for ever.
    if record.checked <= now && now.since(record.checked) < ttl {
        return Verdict::Fresh(record);
    }
    if !may_be_stale(record, policy, now) {
        return Verdict::Revalidate(record);
    }
    match failed {
        Some(LastFailure::ServedStale(at)) if at <= now && now.since(at) < STALE_RETRY => {
            Verdict::StaleForNow(record)
        }
        // Nobody is told any more what upstream would not tell.
        Some(LastFailure::Refused) => Verdict::Revalidate(record),
        Some(LastFailure::ServedStale(_)) | None => match policy.revalidate {
            Revalidate::Blocking => Verdict::Revalidate(record),
            Revalidate::Background => Verdict::StaleMeanwhile(record),
        },
    }
}

/// The record that may be served although upstream cannot confirm it. Here the answer that
/// any client got will do, if this client can read it: it is that or nothing.
pub(super) fn fallback<'a>(
    records: &'a [TagRecord],
    class: AcceptClass,
    policy: &Policy,
    now: Timestamp,
) -> Option<&'a TagRecord> {
    last_known(records, class).filter(|record| may_be_stale(record, policy, now))
}

/// The record of what the tag last named for this client, however long ago.
pub(super) fn last_known(records: &[TagRecord], class: AcceptClass) -> Option<&TagRecord> {
    let readable = records.iter().filter(|r| class.allows(&r.media_type));
    let newest = || readable.clone().max_by_key(|r| r.checked);
    answer_for(records, class).or_else(newest)
}

fn may_be_stale(record: &TagRecord, policy: &Policy, now: Timestamp) -> bool {
    // What was imported is carried to where upstream may never be reached: there its time does not run out.
    if record.origin == Origin::Import {
        return true;
    }
    match policy.ttl {
        Ttl::Forever => true,
        Ttl::For(ttl) => now.since(record.checked) < ttl.saturating_add(policy.stale_if_error),
    }
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

    use super::super::StaleOn;
    use super::*;
    use crate::oci::Digest;
    use crate::oci::manifest::media;

    const POLICY: Policy = Policy {
        ttl: Ttl::For(Duration::from_mins(1)),
        revalidate: Revalidate::Blocking,
        stale_if_error: Duration::from_mins(10),
        stale_on: StaleOn::NOTHING,
        keep_deleted: false,
        negative_ttl: Duration::ZERO,
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
            origin: Origin::Upstream,
        }
    }

    fn judged(
        records: &[TagRecord],
        class: AcceptClass,
        failed: Option<u64>,
        now: u64,
    ) -> &'static str {
        let failed = failed.map(|s| LastFailure::ServedStale(Timestamp(s * 1000)));
        judged_by(&POLICY, records, class, failed, now)
    }

    fn judged_by(
        policy: &Policy,
        records: &[TagRecord],
        class: AcceptClass,
        failed: Option<LastFailure>,
        now: u64,
    ) -> &'static str {
        match judge(records, class, policy, failed, Timestamp(now * 1000)) {
            Verdict::Fresh(_) => "fresh",
            Verdict::StaleForNow(_) => "stale",
            Verdict::StaleMeanwhile(_) => "stale meanwhile",
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
    fn in_the_background_the_old_answer_comes_first_while_it_may() {
        let all = class("*/*");
        let known = [record(all, media::OCI_INDEX, 100)];
        let policy = Policy {
            revalidate: Revalidate::Background,
            ..POLICY
        };
        let judged = |failed, now| judged_by(&policy, &known, all, failed, now);
        assert_eq!(judged(None, 159), "fresh");
        assert_eq!(judged(None, 160), "stale meanwhile");
        assert_eq!(judged(None, 759), "stale meanwhile");
        assert_eq!(judged(None, 760), "revalidate", "past stale_if_error");
        let served = Some(LastFailure::ServedStale(Timestamp(200_000)));
        assert_eq!(judged(served, 204), "stale", "it failed a moment ago");
        assert_eq!(judged(served, 205), "stale meanwhile");
        let refused = Some(LastFailure::Refused);
        assert_eq!(judged(refused, 205), "revalidate");
        assert_eq!(judged_by(&policy, &[], all, None, 200), "absent");
    }

    #[test]
    fn a_pinned_tag_is_fresh_for_ever() {
        let all = class("*/*");
        let known = [record(all, media::OCI_INDEX, 100)];
        let policy = Policy {
            ttl: Ttl::Forever,
            stale_if_error: Duration::ZERO,
            ..POLICY
        };
        for now in [0, 100, 1_000_000_000] {
            assert_eq!(judged_by(&policy, &known, all, None, now), "fresh");
        }
        let image = class(media::OCI_MANIFEST);
        assert_eq!(judged_by(&policy, &known, image, None, 100), "absent");
    }

    #[test]
    fn an_imported_tag_is_asked_for_when_its_ttl_is_over_and_serves_for_ever_if_nobody_answers() {
        let all = class("*/*");
        let mut imported = record(all, media::OCI_INDEX, 100);
        imported.origin = Origin::Import;
        let known = [imported];
        assert_eq!(judged(&known, all, None, 159), "fresh");
        assert_eq!(judged(&known, all, None, 160), "revalidate");
        let years_later = 1_000_000_000;
        assert_eq!(judged(&known, all, None, years_later), "revalidate");
        let now = Timestamp(years_later * 1000);
        assert!(fallback(&known, all, &POLICY, now).is_some());
        assert_eq!(
            judged(&known, all, Some(years_later - 1), years_later),
            "stale"
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
