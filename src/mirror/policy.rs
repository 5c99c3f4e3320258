//! The policy of a tag: how long it is believed, and what happens when upstream cannot, or will
//! not, say what it names. One policy for all, and rules for the tags that a pattern means. Pure.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::access::{Access, Constant};

use super::Source;
use crate::oci::Tag;

/// The longest pattern: longer than the longest name there is (a host name of 253 characters, a
/// repository of 255, a tag of 128, and what stands between them), so that a match costs little.
const PATTERN_CHARS_MAX: usize = 640;

/// The policies of all tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The policy where no rule says otherwise.
    pub defaults: Policy,
    /// The first one that means a tag decides about it, as a whole.
    pub rules: Vec<Rule>,
    /// The images that are never evicted.
    pub pins: Vec<Pattern>,
}

/// The policies in use. They may be replaced while requests run: each looks at them anew. Cheap to clone.
#[derive(Clone)]
pub struct Policies(Arc<dyn InUse>);

/// The place that policies are read from: a policy is copied out, where a reference would take a box for its guard.
trait InUse: Send + Sync {
    fn now(&self) -> Config;
    fn of_tag(&self, source: &Source, tag: &Tag) -> Policy;
    fn of_repository(&self, source: &Source) -> Policy;
}

impl<A: Access<Config> + Send + Sync> InUse for A {
    fn now(&self) -> Config {
        self.load().clone()
    }

    fn of_tag(&self, source: &Source, tag: &Tag) -> Policy {
        self.load().of_tag(source, tag)
    }

    fn of_repository(&self, source: &Source) -> Policy {
        self.load().of_repository(source)
    }
}

impl Policies {
    /// Those that are read from here.
    pub fn new(access: impl Access<Config> + Send + Sync + 'static) -> Self {
        Self(Arc::new(access))
    }

    /// All of them, as they are now.
    pub(super) fn now(&self) -> Config {
        self.0.now()
    }

    /// As [`Config::of_tag`].
    pub(super) fn of_tag(&self, source: &Source, tag: &Tag) -> Policy {
        self.0.of_tag(source, tag)
    }

    /// As [`Config::of_repository`].
    pub(super) fn of_repository(&self, source: &Source) -> Policy {
        self.0.of_repository(source)
    }
}

impl From<Config> for Policies {
    /// Policies that stay as they are.
    fn from(config: Config) -> Self {
        Self::new(Constant(config))
    }
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Policies").field(&self.0.now()).finish()
    }
}

/// The policy of the tags that a pattern means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The tags that it means.
    pub pattern: Pattern,
    /// Their policy.
    pub policy: Policy,
}

/// The policy of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Time that it is believed.
    pub ttl: Ttl,
    /// The treatment of a client while upstream is asked about a tag that is no longer fresh.
    pub revalidate: Revalidate,
    /// Time past its `ttl` that the old answer may be served.
    pub stale_if_error: Duration,
    /// The failures that the old answer is served for.
    pub stale_on: StaleOn,
    /// True if a tag that upstream has deleted is served on as what it last named.
    pub keep_deleted: bool,
    /// Time that upstream's "there is no such thing" is believed; zero: not at all.
    pub negative_ttl: Duration,
}

/// Time that a tag is believed without asking upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// This long.
    For(Duration),
    /// Once known, upstream is never asked again what it names: the tag is pinned.
    Forever,
}

/// The treatment of a client who asks for a tag that is known but no longer fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revalidate {
    /// It waits for upstream's answer.
    Blocking,
    /// It gets the old answer at once, and upstream is asked for the sake of the next one.
    Background,
}

/// The reason why upstream did not say what a tag names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It could not be asked, did not answer in time or in full, or answered nonsense; or something
    /// of ours failed that is needed to ask.
    Unreachable,
    /// It answered 5xx.
    ServerError,
    /// It limits us: 429.
    RateLimited,
    /// It refuses us: 401 or 403.
    Denied,
    /// It says that there is no such tag: 404.
    Deleted,
}

/// A set of failures for which the old answer is served. [`Failure::Deleted`] is never among them:
/// `keep_deleted` decides about that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaleOn(u8);

/// The tags that a rule means: `docker.io/library/*:latest`.
///
/// Matched against the upstream's name, `/`, the repository, `:` and the tag. `*` stands for any
/// characters within a path component or the tag, `**` for any number of whole components, none
/// included. A pattern without a tag means every tag.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    path: Vec<Step>,
    /// `None`: every tag.
    tag: Option<Glob>,
}

/// The reason why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is longer than any name.
    #[error("is longer than {PATTERN_CHARS_MAX} characters")]
    TooLong,
    /// `//`, or a slash or colon with nothing beside it.
    #[error("has an empty part")]
    Empty,
    /// `**` beside other characters, or in the tag.
    #[error("has a ** that does not stand alone between slashes")]
    Stars,
    /// A character that no upstream, repository or tag has.
    #[error("has a character that no name has there: {0:?}")]
    Character(char),
    /// An upstream without a repository.
    #[error("names no repository; write an upstream's name, a slash and the repository, or **")]
    NoRepository,
}

/// A condition on one component of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// `**`.
    Any,
    /// One component.
    One(Glob),
}

/// A text with `*`: the pieces between the stars.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Glob(Vec<String>);

impl Config {
    /// One policy for all tags.
    #[must_use]
    pub fn of(defaults: Policy) -> Self {
        Self {
            defaults,
            rules: Vec::new(),
            pins: Vec::new(),
        }
    }

    /// The policy of a tag.
    pub(super) fn of_tag(&self, source: &Source, tag: &Tag) -> Policy {
        self.first(source, |pattern| {
            pattern
                .tag
                .as_ref()
                .is_none_or(|glob| glob.matches(tag.as_str()))
        })
    }

    /// The policy of all that a repository has beside its tags: that of the first rule that
    /// means all its tags.
    pub(super) fn of_repository(&self, source: &Source) -> Policy {
        self.first(source, |pattern| pattern.tag.is_none())
    }

    fn first(&self, source: &Source, means_tag: impl Fn(&Pattern) -> bool) -> Policy {
        if self.rules.is_empty() {
            return self.defaults;
        }
        let path = path_of(source);
        let means = |rule: &&Rule| means_tag(&rule.pattern) && rule.pattern.means_path(&path);
        let rule = self.rules.iter().find(means);
        rule.map_or(self.defaults, |rule| rule.policy)
    }
}

impl Policy {
    /// True if what a tag last named is served when this is why upstream did not say.
    #[must_use]
    pub fn serves_stale(&self, failure: Failure) -> bool {
        match failure {
            Failure::Deleted => self.keep_deleted,
            Failure::Unreachable
            | Failure::ServerError
            | Failure::RateLimited
            | Failure::Denied => self.stale_on.contains(failure),
        }
    }
}

impl Default for Policy {
    /// A minute, so that a tag that has moved is soon followed; a month past that, in which an outage or
    /// a blocked registry is dealt with; ten seconds for what is not there, in which a whole cluster
    /// asks for a misspelt name and nobody waits for a push.
    fn default() -> Self {
        Self {
            ttl: Ttl::For(Duration::from_mins(1)),
            revalidate: Revalidate::Blocking,
            stale_if_error: Duration::from_hours(30 * 24),
            stale_on: StaleOn::default(),
            keep_deleted: false,
            negative_ttl: Duration::from_secs(10),
        }
    }
}

impl StaleOn {
    /// None.
    pub const NOTHING: Self = Self(0);

    /// The set with this failure added.
    #[must_use]
    pub fn with(self, failure: Failure) -> Self {
        Self(self.0 | bit(failure))
    }

    /// True if this failure is among them.
    #[must_use]
    pub fn contains(self, failure: Failure) -> bool {
        self.0 & bit(failure) != 0
    }
}

impl Default for StaleOn {
    /// Whatever is no answer. That upstream refuses us is one.
    fn default() -> Self {
        Self::NOTHING
            .with(Failure::Unreachable)
            .with(Failure::ServerError)
            .with(Failure::RateLimited)
    }
}

fn bit(failure: Failure) -> u8 {
    match failure {
        Failure::Unreachable => 1,
        Failure::ServerError => 2,
        Failure::RateLimited => 4,
        Failure::Denied => 8,
        Failure::Deleted => 0,
    }
}

impl Pattern {
    /// Parses a pattern. Upstreams' names have no case.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.len() > PATTERN_CHARS_MAX {
            return Err(PatternError::TooLong);
        }
        // Behind a slash a colon begins the tag; before the first one it may be an upstream's port.
        let (path, tag) = match text.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            Some(_) | None => (text, None),
        };
        let mut steps = Vec::new();
        for (at, component) in path.split('/').enumerate() {
            let is_upstream = at == 0;
            steps.push(match component {
                "**" => Step::Any,
                _ if is_upstream => Step::One(Glob::parse(
                    &component.to_ascii_lowercase(),
                    is_upstream_char,
                )?),
                _ => Step::One(Glob::parse(component, is_repository_char)?),
            });
        }
        if steps.len() < 2 && !steps.contains(&Step::Any) {
            return Err(PatternError::NoRepository);
        }
        Ok(Self {
            text: text.to_owned(),
            path: steps,
            tag: match tag {
                Some("*") | None => None,
                Some(tag) => Some(Glob::parse(tag, is_tag_char)?),
            },
        })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// True if it means this tag; without one, everything that the repository has.
    #[must_use]
    pub fn means(&self, source: &Source, tag: Option<&Tag>) -> bool {
        let means_tag = match (&self.tag, tag) {
            (None, _) => true,
            (Some(glob), Some(tag)) => glob.matches(tag.as_str()),
            (Some(_), None) => false,
        };
        means_tag && self.means_path(&path_of(source))
    }

    /// True if it means this upstream and repository. Where a step does not fit, the last `**` takes
    /// one component more: at most components times steps comparisons.
    fn means_path(&self, path: &[&str]) -> bool {
        let (mut step, mut at) = (0, 0);
        let mut last_any = None;
        while let Some(component) = path.get(at) {
            match self.path.get(step) {
                Some(Step::Any) => {
                    step += 1;
                    last_any = Some((step, at));
                }
                Some(Step::One(glob)) if glob.matches(component) => {
                    step += 1;
                    at += 1;
                }
                Some(Step::One(_)) | None => {
                    let Some((after, from)) = last_any else {
                        return false;
                    };
                    step = after;
                    at = from + 1;
                    last_any = Some((after, at));
                }
            }
        }
        self.path.iter().skip(step).all(|step| *step == Step::Any)
    }
}

/// The components that a pattern's are compared with.
fn path_of(source: &Source) -> Vec<&str> {
    std::iter::once(source.upstream.as_str())
        .chain(source.repository.as_str().split('/'))
        .collect()
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl Glob {
    fn parse(text: &str, allowed: fn(char) -> bool) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.contains("**") {
            return Err(PatternError::Stars);
        }
        if let Some(other) = text.chars().find(|c| *c != '*' && !allowed(*c)) {
            return Err(PatternError::Character(other));
        }
        Ok(Self(text.split('*').map(str::to_owned).collect()))
    }

    /// Each piece is taken where it first fits, which leaves most for those behind it: no turning back,
    /// and a time linear in the text's length.
    fn matches(&self, text: &str) -> bool {
        let Some((first, rest)) = self.0.split_first() else {
            return false;
        };
        let Some(mut text) = text.strip_prefix(first.as_str()) else {
            return false;
        };
        let Some((last, middle)) = rest.split_last() else {
            return text.is_empty();
        };
        for piece in middle {
            let Some((_, behind)) = text.split_once(piece.as_str()) else {
                return false;
            };
            text = behind;
        }
        text.ends_with(last.as_str())
    }
}

/// True for the characters of an upstream's name: a host name or address and a port.
fn is_upstream_char(c: char) -> bool {
    is_repository_char(c) || matches!(c, ':' | '[' | ']')
}

/// True for the characters of a repository's component (dist-spec, "Pulling manifests").
fn is_repository_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-')
}

/// True for the characters of a tag (dist-spec, "Pulling manifests").
fn is_tag_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

#[cfg(test)]
mod tests;
