//! The parts of a sorted list of repositories that somebody may see something of, so that the rest is not looked at: of ten
//! thousand namespaces most people see some.

use super::{NamespaceWanted, Visibility};

/// The character behind the slash: what begins with a namespace and a slash is before the namespace and this.
const BEHIND_SLASH: char = '0';

/// A character before all that names have. A name and this is before all names that begin with it, and behind it.
const BEFORE_ALL: char = ' ';

/// Names from one to before another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRange {
    /// The first that may be in it.
    pub(super) from: String,
    /// The first behind it.
    pub(super) to: String,
}

/// The beginnings of names, sorted.
#[derive(Debug, Default)]
pub(super) struct Ordered(Vec<Beginning>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Beginning {
    /// A namespace: a repository of that name, at a host of its own. A namespace and a slash: all others in it.
    text: String,
    is_public: bool,
}

impl NameRange {
    /// Of sorted ranges, what is behind a name.
    #[must_use]
    pub fn behind(ranges: Vec<Self>, name: &str) -> Vec<Self> {
        let least = format!("{name}{BEFORE_ALL}");
        let left = ranges.into_iter().filter(|it| it.to > least);
        let cut = left.map(|it| Self {
            from: it.from.max(least.clone()),
            ..it
        });
        cut.collect()
    }
}

impl Ordered {
    pub(super) fn of<'a>(namespaces: impl Iterator<Item = &'a NamespaceWanted>) -> Self {
        let both = namespaces.flat_map(|it| {
            let texts = [it.name.clone(), format!("{}/", it.name)];
            texts.map(|text| Beginning {
                text,
                is_public: it.visibility == Visibility::Public,
            })
        });
        let mut all: Vec<_> = both.collect();
        all.sort_unstable();
        Self(all)
    }

    /// The ranges of names that begin with one of these, of public namespaces or all.
    pub(super) fn ranges(&self, beginnings: &[String], with_private: bool) -> Vec<NameRange> {
        let mut reached = vec![false; self.0.len()];
        for beginning in beginnings {
            for at in self.reached_by(beginning) {
                if let Some(it) = reached.get_mut(at) {
                    *it = true;
                }
            }
        }
        let mut ranges: Vec<NameRange> = Vec::new();
        let mut is_on = false;
        for (it, is_reached) in self.0.iter().zip(reached) {
            let is_seen = is_reached && (with_private || it.is_public);
            match (is_seen, is_on, ranges.last_mut()) {
                (true, true, Some(last)) => last.to = it.end(),
                (true, _, _) => ranges.push(NameRange {
                    from: it.text.clone(),
                    to: it.end(),
                }),
                (false, _, _) => {}
            }
            is_on = is_seen;
        }
        ranges
    }

    /// The places of all that names may begin with which begin like this.
    fn reached_by(&self, beginning: &str) -> std::ops::Range<usize> {
        // Of `team/app` those of the namespace are reached, and nothing else.
        let whole = beginning
            .find('/')
            .and_then(|at| beginning.get(..=at))
            .unwrap_or(beginning);
        let first = self.0.partition_point(|it| it.text.as_str() < whole);
        let rest = self.0.get(first..).unwrap_or_default();
        first..first + rest.partition_point(|it| it.text.starts_with(whole))
    }
}

impl Beginning {
    /// The first text behind all names that it means.
    fn end(&self) -> String {
        match self.text.strip_suffix('/') {
            Some(name) => format!("{name}{BEHIND_SLASH}"),
            None => format!("{}{BEFORE_ALL}", self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(names: &[&str]) -> Ordered {
        let namespace = |name: &&str| NamespaceWanted {
            name: name.trim_end_matches('!').to_owned(),
            visibility: if name.ends_with('!') {
                Visibility::Private
            } else {
                Visibility::Public
            },
            quota: None,
            sparse: false,
        };
        let all: Vec<_> = names.iter().map(namespace).collect();
        Ordered::of(all.iter())
    }

    /// The names of these that are in a range.
    fn seen<'n>(ranges: &[NameRange], names: &[&'n str]) -> Vec<&'n str> {
        let is_in = |name: &str| {
            ranges
                .iter()
                .any(|it| it.from.as_str() <= name && name < it.to.as_str())
        };
        names.iter().copied().filter(|it| is_in(it)).collect()
    }

    const NAMES: [&str; 8] = ["a", "a-b", "a-b/x", "a-c/y", "a/x", "a/x/y", "b/x", "c"];

    #[test]
    fn what_nobody_may_see_is_in_no_range() {
        let all = ordered(&["a", "a-b!", "a-c", "b!", "c"]);
        for (beginnings, with_private, expected) in [
            (&[""][..], true, &NAMES[..]),
            (&[""], false, &["a", "a-c/y", "a/x", "a/x/y", "c"]),
            (&["a/"], true, &["a/x", "a/x/y"]),
            (&["a/x/"], true, &["a/x", "a/x/y"]),
            (
                &["a"],
                true,
                &["a", "a-b", "a-b/x", "a-c/y", "a/x", "a/x/y"],
            ),
            (&["a-"], true, &["a-b", "a-b/x", "a-c/y"]),
            (&["c", "b/x"], true, &["b/x", "c"]),
            (&["b/", "zzz", "a-b/q"], true, &["a-b/x", "b/x"]),
            (&["b/"], false, &[]),
            (&[], true, &[]),
        ] {
            let beginnings: Vec<String> = beginnings.iter().map(|&it| it.to_owned()).collect();
            let ranges = all.ranges(&beginnings, with_private);
            assert_eq!(seen(&ranges, &NAMES), expected, "{beginnings:?}");
            assert!(ranges.is_sorted_by(|one, next| one.to <= next.from));
        }
        let everything = all.ranges(&[String::new()], true);
        assert_eq!(everything.len(), 1, "one look for who sees all");
    }

    #[test]
    fn a_list_goes_on_behind_a_name() {
        let all = ordered(&["a", "b!", "c"]);
        let ranges = all.ranges(&[String::new()], false);
        for (at, name) in NAMES.iter().enumerate() {
            let behind = NameRange::behind(ranges.clone(), name);
            let before: Vec<_> = seen(&ranges, &NAMES[at + 1..]);
            assert_eq!(seen(&behind, &NAMES), before, "behind {name}");
        }
    }
}
