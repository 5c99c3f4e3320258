//! The configuration of hosted repositories, resolved.

use std::time::Duration;

use super::{NamespaceWanted, Visibility};
use crate::oci::{Repository, Tag};
use crate::store::Amount;

/// Time for which what was deleted can be restored.
const UNDELETE: Duration = Duration::from_hours(7 * 24);

/// Time between two looks at what nothing refers to.
const GC_GRACE: Duration = Duration::from_hours(24);

/// Time for which an upload waits for its next byte, and a blob for its manifest.
const UPLOAD_EXPIRY: Duration = Duration::from_hours(24);

/// Hosted repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// They are served.
    pub enabled: bool,
    /// Host names at which all names are hosted.
    pub hosts: Vec<String>,
    /// A namespace is made when somebody pushes to it.
    pub create_on_push: bool,
    /// Bytes that all content may take.
    pub max_size: Amount,
    /// Time for which what was deleted can be restored.
    pub undelete: Duration,
    /// Time between two looks at what nothing refers to.
    pub gc_grace: Duration,
    /// Time for which an upload waits for its next byte, and a blob for its manifest.
    pub upload_expiry: Duration,
    /// Namespaces of the file.
    pub namespaces: Vec<NamespaceWanted>,
    /// Tags that stay.
    pub immutable: Vec<Immutable>,
    /// Rules by which tags go.
    pub expire: Vec<Expire>,
    /// Names of upstreams that hosted repositories come before.
    pub overlays: Vec<Overlay>,
}

/// Tags that stay what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Immutable {
    /// A pattern of repositories, in which `*` stands for anything.
    pub repository: String,
    /// A pattern of tags.
    pub tag: String,
    /// How they stay.
    pub mode: ImmutableMode,
}

/// Tags that go when all that is said here of them is so. One of both is given at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expire {
    /// A pattern of repositories, in which `*` stands for anything.
    pub repository: String,
    /// A pattern of tags.
    pub tag: String,
    /// It is none of so many of a repository that were pushed last.
    pub keep_newest: Option<u64>,
    /// It was pushed longer ago.
    pub older_than: Option<Duration>,
}

/// The way in which a tag stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImmutableMode {
    /// It names nothing else; it can be deleted.
    #[default]
    NoMove,
    /// Nor can it be deleted.
    NoMoveNoDelete,
}

/// A name of an upstream that a hosted namespace comes before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// The name: an upstream's, a slash, and the beginning of repositories there.
    pub name: String,
    /// The namespace.
    pub hosted: String,
    /// When the upstream is asked.
    pub fall: Fall,
}

/// When an upstream is asked behind an overlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fall {
    /// Never.
    Never,
    /// Where there is no such repository here.
    #[default]
    Repository,
    /// Where there is no such tag or digest here, too.
    Tag,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: false,
            hosts: Vec::new(),
            create_on_push: false,
            max_size: Amount::Percent(90),
            undelete: UNDELETE,
            gc_grace: GC_GRACE,
            upload_expiry: UPLOAD_EXPIRY,
            namespaces: Vec::new(),
            immutable: Vec::new(),
            expire: Vec::new(),
            overlays: Vec::new(),
        }
    }
}

impl Config {
    /// The rule by which a tag stays.
    #[must_use]
    pub fn immutable(&self, repository: &Repository, tag: &str) -> Option<&Immutable> {
        let mut rules = self.immutable.iter();
        rules.find(|rule| matches(&rule.repository, repository.as_str()) && matches(&rule.tag, tag))
    }

    /// True if a tag may not name anything else once it names something.
    #[must_use]
    pub fn stays(&self, repository: &Repository, tag: &Tag) -> bool {
        self.immutable(repository, tag.as_str()).is_some()
    }

    /// Patterns of repositories and of their tags that may not be deleted.
    #[must_use]
    pub fn kept(&self) -> Vec<(String, String)> {
        let rules = self.immutable.iter();
        let rules = rules.filter(|rule| rule.mode == ImmutableMode::NoMoveNoDelete);
        rules
            .map(|rule| (rule.repository.clone(), rule.tag.clone()))
            .collect()
    }

    /// True if a tag may not be deleted.
    #[must_use]
    pub fn keeps(&self, repository: &Repository, tag: &str) -> bool {
        let mut rules = self.immutable.iter();
        rules.any(|rule| {
            rule.mode == ImmutableMode::NoMoveNoDelete
                && matches(&rule.repository, repository.as_str())
                && matches(&rule.tag, tag)
        })
    }
}

impl Visibility {
    /// Its name in the configuration and in answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
        }
    }
}

/// True if a pattern, in which `*` stands for any characters, means all of a text.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, expected) in [
            ("v*", "v1.2", true),
            ("v*", "w", false),
            ("*", "", true),
            ("team/*", "team/a/b", true),
            ("team/*", "teams/a", false),
            ("a*b*c", "axbxc", true),
            ("a*b*c", "axc", false),
            ("ab*ba", "aba", false),
            ("same", "same", true),
            ("same", "same2", false),
            ("*-rc*", "1.0-rc1", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
