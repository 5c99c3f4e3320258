use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::hosted::{Immutable, ImmutableMode};
use crate::oci::{Algorithm, Digest};

const NOW: Timestamp = Timestamp(1_790_000_000_000);
const DAY: Duration = Duration::from_hours(24);

fn push(name: &str, seq: i64, age: Duration) -> TagPush {
    TagPush {
        name: name.to_owned(),
        digest: Digest::of(Algorithm::Sha256, name.as_bytes()),
        pushed: NOW.before(age),
        seq,
        follows: false,
    }
}

fn rule(tag: &str, keep_newest: Option<u64>, days: Option<u32>) -> Expire {
    Expire {
        repository: "team/*".to_owned(),
        tag: tag.to_owned(),
        keep_newest,
        older_than: days.map(|days| DAY * days),
    }
}

fn config(expire: Vec<Expire>, kept: &[&str]) -> Config {
    let kept = kept.iter().map(|tag| Immutable {
        repository: "*".to_owned(),
        tag: (*tag).to_owned(),
        mode: ImmutableMode::NoMoveNoDelete,
    });
    Config {
        expire,
        immutable: kept.collect(),
        ..Config::default()
    }
}

fn going(config: &Config, pushes: &[TagPush], most: usize) -> Vec<String> {
    let repository = Repository::parse("team/app").unwrap();
    let going = config.going(&repository, &mut pushes.iter().cloned(), NOW, most);
    going.tags.into_iter().map(|(_, push)| push.name).collect()
}

/// Tags of these names, the first of them the newest, a day apart.
fn tags(names: &[&str]) -> Vec<TagPush> {
    let numbered = names.iter().zip(0_u32..);
    numbered
        .map(|(name, days)| push(name, i64::from(1000 - days), DAY * days))
        .collect()
}

#[test]
fn all_that_a_rule_says_must_be_so() {
    let all = tags(&["d", "c", "b", "a"]);
    let none: [&str; 0] = [];
    for (keep, days, expected) in [
        (Some(1), None, &["a", "b", "c"][..]),
        (Some(0), None, &["a", "b", "c", "d"]),
        (Some(9), None, &none),
        (None, Some(2), &["a"]),
        (None, Some(9), &none),
        (Some(2), Some(2), &["a"]),
        (Some(4), Some(1), &none),
        (Some(1), Some(1), &["a", "b"]),
        // The configuration has no such rule.
        (None, None, &none),
    ] {
        let config = config(vec![rule("*", keep, days)], &[]);
        assert_eq!(going(&config, &all, 99), expected, "{keep:?} {days:?}");
    }
}

#[test]
fn the_first_rule_that_a_tag_matches_decides_alone() {
    let all = tags(&["2.0", "ci-3", "1.1", "ci-2", "dev", "1.0", "ci-1"]);
    let rules = vec![
        rule("*.*", Some(100), None),
        rule("ci-*", Some(1), None),
        rule("*", None, Some(3)),
    ];
    assert_eq!(
        going(&config(rules, &[]), &all, 99),
        ["ci-1", "dev", "ci-2"]
    );
}

#[test]
fn what_must_stay_stays_and_takes_nobodys_place() {
    let mut all = tags(&["v3", "c", "v2", "sig", "b", "v1", "a"]);
    all[3].follows = true;
    let config = config(vec![rule("*", Some(1), None)], &["v*"]);
    assert_eq!(going(&config, &all, 99), ["a", "b"]);
}

#[test]
fn the_oldest_go_first_where_there_are_too_many() {
    let all = tags(&["d", "c", "b", "a"]);
    let config = config(vec![rule("*", Some(0), None)], &[]);
    assert_eq!(going(&config, &all, 2), ["a", "b"]);
}

#[test]
fn a_clock_that_was_ahead_takes_nothing_that_is_new() {
    // Pushed while the clock was ten years ahead, and before the others.
    let mut all = tags(&["new", "newer", "strange"]);
    all[2].pushed = NOW.plus(DAY * 3650);
    let by_age = config(vec![rule("*", None, Some(0))], &[]);
    assert_eq!(going(&by_age, &all, 99), ["newer"]);
    let by_number = config(vec![rule("*", Some(2), None)], &[]);
    assert_eq!(going(&by_number, &all, 99), ["strange"]);
}

fn any_rule() -> impl Strategy<Value = Expire> {
    let tag = prop::sample::select(vec!["*", "a*", "b*", "*1", "a1"]);
    let number = prop::option::of(0_u64..6);
    let days = prop::option::of(0_u32..30);
    let repository = prop::sample::select(vec!["*", "team/*", "other/*"]);
    (tag, number, days, repository).prop_map(|(tag, keep, days, repository)| Expire {
        repository: repository.to_owned(),
        ..rule(tag, keep, days)
    })
}

fn any_tags() -> impl Strategy<Value = Vec<TagPush>> {
    let tag = ("[abc][0-3]{1,2}", 0_u32..40, prop::bool::weighted(0.1));
    prop::collection::vec(tag, 0..40).prop_map(|found| {
        let mut tags: Vec<TagPush> = Vec::new();
        for ((name, days, follows), seq) in found.into_iter().zip((0..1000).rev()) {
            if tags.iter().all(|it| it.name != name) {
                // The order of pushes is not that of the clock.
                let pushed = push(&name, seq, DAY * days);
                tags.push(TagPush { follows, ..pushed });
            }
        }
        tags
    })
}

proptest! {
    #[test]
    fn what_is_kept_is_all_that_the_rules_protect(
        rules in prop::collection::vec(any_rule(), 0..4), all in any_tags(),
        kept in prop::sample::subsequence(vec!["a1", "b*", "*3"], 0..3), most in 0_usize..50,
    ) {
        let config = config(rules.clone(), &kept);
        let gone = going(&config, &all, usize::MAX);
        let team = |rule: &Expire| matches(&rule.repository, "team/app");
        let decides = |push: &TagPush| rules.iter().position(|it| team(it) && matches(&it.tag, &push.name));
        let is_protected = |push: &TagPush| push.follows || kept.iter().any(|it| matches(it, &push.name));
        for (number, rule) in rules.iter().enumerate() {
            let of: Vec<&TagPush> = all.iter().filter(|it| !is_protected(it) && decides(it) == Some(number)).collect();
            for (place, push) in of.iter().enumerate() {
                let is_new = rule.keep_newest.is_some_and(|keep| (place as u64) < keep);
                let is_young = rule.older_than.is_some_and(|age| NOW.since(push.pushed) <= age);
                let says_nothing = rule.keep_newest.is_none() && rule.older_than.is_none();
                let stays = is_new || is_young || says_nothing;
                prop_assert_eq!(gone.contains(&push.name), !stays, "{:?} {:?}", rule, push);
            }
        }
        for push in all.iter().filter(|it| is_protected(it) || decides(it).is_none()) {
            prop_assert!(!gone.contains(&push.name), "{:?}", push);
        }
        // A run that is cut short takes the oldest of them, and the runs after it no more than these.
        let some = going(&config, &all, most);
        prop_assert_eq!(&some[..], &gone[..most.min(gone.len())]);
        let left: Vec<TagPush> = all.iter().filter(|it| !some.contains(&it.name)).cloned().collect();
        prop_assert!(going(&config, &left, usize::MAX).iter().all(|it| gone.contains(it)));
        let left: Vec<TagPush> = all.iter().filter(|it| !gone.contains(&it.name)).cloned().collect();
        prop_assert!(going(&config, &left, usize::MAX).is_empty());
    }
}
