//! What the rules say of tags. Pure.

use std::collections::VecDeque;
use std::fmt::Write as _;

use super::super::config::{Config, Expire, matches};
use crate::catalogue::hosted::TagPush;
use crate::clock::Timestamp;
use crate::oci::Repository;

/// Tags that go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Going {
    /// The numbers of their rules, and they, the oldest first.
    pub(super) tags: Vec<(usize, TagPush)>,
    /// There are more than were asked for.
    pub(super) more: bool,
}

impl Expire {
    /// True if a tag goes that this many of the rule's were pushed after.
    fn takes(&self, push: &TagPush, newer: u64, at: Timestamp) -> bool {
        let by_number = self.keep_newest.is_none_or(|keep| newer >= keep);
        let by_age = self
            .older_than
            .is_none_or(|age| at.since(push.pushed) > age);
        by_number && by_age && (self.keep_newest.is_some() || self.older_than.is_some())
    }
}

impl Config {
    /// True if a rule is about the repository.
    pub(super) fn may_expire_in(&self, repository: &Repository) -> bool {
        let mut rules = self.expire.iter();
        rules.any(|rule| matches(&rule.repository, repository.as_str()))
    }

    /// A rule, for people.
    pub(super) fn expire_rule(&self, number: usize) -> String {
        let Some(rule) = self.expire.get(number) else {
            return String::new();
        };
        let mut text = format!("hosted.expire[{number}] {}:{}", rule.repository, rule.tag);
        // Writing to a string does not fail.
        if let Some(keep) = rule.keep_newest {
            write!(text, " keep_newest={keep}").ok();
        }
        if let Some(age) = rule.older_than {
            let age = humantime::format_duration(age);
            write!(text, " older_than={age}").ok();
        }
        text
    }

    /// The tags of a repository that go at a time, at most so many of the oldest. `pushes`: all its tags, the newest first.
    pub(super) fn going(
        &self,
        repository: &Repository,
        pushes: &mut dyn Iterator<Item = TagPush>,
        at: Timestamp,
        most: usize,
    ) -> Going {
        let rules = self.expire.iter();
        let rules = rules.map(|it| matches(&it.repository, repository.as_str()).then_some(it));
        let rules: Vec<Option<&Expire>> = rules.collect();
        let mut newer = vec![0_u64; rules.len()];
        let mut going = VecDeque::new();
        let mut more = false;
        for push in pushes {
            // Neither goes by a rule, nor counts as one that is kept for being new.
            if push.follows || self.keeps(repository, &push.name) {
                continue;
            }
            let mut numbered = rules.iter().enumerate();
            let decides = numbered.find_map(|(number, rule)| {
                let rule = rule.filter(|rule| matches(&rule.tag, &push.name))?;
                Some((number, rule))
            });
            let Some((number, rule)) = decides else {
                continue;
            };
            let Some(newer) = newer.get_mut(number) else {
                continue;
            };
            if rule.takes(&push, *newer, at) {
                going.push_back((number, push));
                if going.len() > most {
                    going.pop_front();
                    more = true;
                }
            }
            *newer = newer.saturating_add(1);
        }
        Going {
            tags: going.into_iter().rev().collect(),
            more,
        }
    }
}

#[cfg(test)]
mod tests;
