//! Failures of pulls, and their groups: a fleet's failures are a few, many times.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::upstream::FetchError;

/// The part of a pull that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// A manifest or index.
    Manifest,
    /// The configuration or a layer.
    Blob,
    /// The pull as a whole.
    Pull,
}

/// The cause of a failure. A closed set, so that there are as many groups at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// An answer with this status.
    Status(u16),
    /// The bytes came whole, and are not those that the digest names; or they are more than the manifest says.
    DigestMismatch,
    /// The connection broke, or the body ended before its end.
    Cut,
    /// There was no connection.
    Connect,
    /// It took too long.
    Timeout,
    /// The token server gave no token.
    Token,
    /// The credentials could not be had.
    Credentials,
    /// The answer makes no sense, or is over a bound.
    Nonsense,
    /// The body is no manifest.
    NotAManifest,
    /// The image is not there for the platform.
    Platform,
    /// The client itself failed.
    Client,
}

/// The failure of one pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The part of it.
    pub stage: Stage,
    /// The cause.
    pub cause: Cause,
    /// The manifest or blob, and the cause in its own words.
    pub detail: String,
}

/// Pulls that failed in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// `manifest`, `blob` or `pull`.
    pub what: String,
    /// `status 404`, `digest mismatch`, `cut` …
    pub why: String,
    /// Number of pulls.
    pub pulls: u64,
    /// Details of some of them, each text once.
    pub examples: Vec<String>,
}

/// Failures by what failed and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    groups: BTreeMap<(Stage, Cause), Counted>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counted {
    pulls: u64,
    examples: Vec<String>,
}

impl Failure {
    /// A request for `what` failed.
    pub(super) fn of_fetch(stage: Stage, what: &impl fmt::Display, error: &FetchError) -> Self {
        let cause = Cause::of(error);
        Self {
            stage,
            cause,
            detail: match cause {
                // The error's own words are about an upstream; the status says as much.
                Cause::Status(_) => format!("{what}: {cause}"),
                Cause::DigestMismatch
                | Cause::Cut
                | Cause::Connect
                | Cause::Timeout
                | Cause::Token
                | Cause::Credentials
                | Cause::Nonsense
                | Cause::NotAManifest
                | Cause::Platform
                | Cause::Client => format!("{what}: {error}"),
            },
        }
    }
}

impl Cause {
    fn of(error: &FetchError) -> Self {
        match error {
            FetchError::NotFound { .. } => Self::Status(404),
            FetchError::Unauthorized | FetchError::Challenged(_) => Self::Status(401),
            FetchError::Denied => Self::Status(403),
            FetchError::RateLimited { .. } => Self::Status(429),
            FetchError::Unavailable { .. } => Self::Status(503),
            FetchError::RangeNotSatisfiable => Self::Status(416),
            FetchError::Loop(_) => Self::Status(508),
            FetchError::Status(status) => Self::Status(*status),
            FetchError::Connect(_) | FetchError::Busy | FetchError::Limited => Self::Connect,
            FetchError::Timeout(_) => Self::Timeout,
            FetchError::Broken(_) => Self::Cut,
            FetchError::TooLarge { .. }
            | FetchError::Protocol(_)
            | FetchError::Inside(_)
            | FetchError::Ourselves(_) => Self::Nonsense,
            FetchError::Login(_) | FetchError::LoginRefused(_) => Self::Credentials,
            FetchError::Token(_) => Self::Token,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Pull => "pull",
        })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::DigestMismatch => f.write_str("digest mismatch"),
            Self::Cut => f.write_str("cut"),
            Self::Connect => f.write_str("no connection"),
            Self::Timeout => f.write_str("timeout"),
            Self::Token => f.write_str("token server"),
            Self::Credentials => f.write_str("credentials"),
            Self::Nonsense => f.write_str("nonsense"),
            Self::NotAManifest => f.write_str("not a manifest"),
            Self::Platform => f.write_str("no such platform"),
            Self::Client => f.write_str("the client failed"),
        }
    }
}

impl Tally {
    /// One more.
    pub(super) fn add(&mut self, failure: Failure) {
        let counted = self.groups.entry((failure.stage, failure.cause));
        let counted = counted.or_default();
        counted.pulls += 1;
        counted.note(failure.detail);
    }

    /// The groups, the largest first.
    pub(super) fn groups(self) -> Vec<Group> {
        let groups = self.groups.into_iter();
        let mut groups: Vec<Group> = groups
            .map(|((stage, cause), counted)| Group {
                what: stage.to_string(),
                why: cause.to_string(),
                pulls: counted.pulls,
                examples: counted.examples,
            })
            .collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.pulls));
        groups
    }
}

impl Counted {
    fn note(&mut self, text: String) {
        if self.examples.len() < EXAMPLES_MAX && !self.examples.contains(&text) {
            self.examples.push(text);
        }
    }
}

/// The groups of several rounds as those of one.
pub(super) fn merge<'a>(groups: impl Iterator<Item = &'a Group>) -> Vec<Group> {
    let mut merged: Vec<Group> = Vec::new();
    for group in groups {
        let same = |other: &&mut Group| other.what == group.what && other.why == group.why;
        let Some(found) = merged.iter_mut().find(same) else {
            merged.push(group.clone());
            continue;
        };
        found.pulls += group.pulls;
        for example in &group.examples {
            if found.examples.len() < EXAMPLES_MAX && !found.examples.contains(example) {
                found.examples.push(example.clone());
            }
        }
    }
    merged.sort_by_key(|group| std::cmp::Reverse(group.pulls));
    merged
}

/// Enough to see whether it is always the same blob.
const EXAMPLES_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(cause: Cause, detail: &str) -> Failure {
        Failure {
            stage: Stage::Blob,
            cause,
            detail: detail.to_owned(),
        }
    }

    #[test]
    fn equal_failures_are_one_group_with_a_few_examples() {
        let mut tally = Tally::default();
        tally.add(failure(Cause::Status(404), "a"));
        for detail in ["b", "b", "c", "d", "e"] {
            tally.add(failure(Cause::Cut, detail));
        }
        let groups = tally.groups();
        let shown: Vec<String> = groups
            .iter()
            .map(|group| format!("{} {} {}", group.what, group.why, group.pulls))
            .collect();
        assert_eq!(shown, ["blob cut 5", "blob status 404 1"]);
        assert_eq!(groups[0].examples, ["b", "c", "d"]);

        let mut tally = Tally::default();
        for _ in 0..9 {
            tally.add(failure(Cause::Status(404), "f"));
        }
        let merged = merge(groups.iter().chain(&tally.groups()));
        assert_eq!((&*merged[0].why, merged[0].pulls), ("status 404", 10));
        assert_eq!(merged[0].examples, ["a", "f"]);
        assert_eq!(merged.len(), 2);
    }

    #[test]
    fn a_refusal_is_told_by_its_status() {
        let missing = FetchError::NotFound { code: None };
        let failure = Failure::of_fetch(Stage::Manifest, &"1.27", &missing);
        assert_eq!(failure.cause, Cause::Status(404));
        assert_eq!(failure.detail, "1.27: status 404");
        let broken = FetchError::Broken("reset".to_owned());
        let failure = Failure::of_fetch(Stage::Blob, &"sha256:1", &broken);
        assert_eq!(failure.cause, Cause::Cut);
        assert_eq!(failure.detail, "sha256:1: connection broken: reset");
    }
}
