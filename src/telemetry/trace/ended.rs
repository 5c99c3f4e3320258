//! A span whose work has ended.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use super::context::Context;

/// So much of a text is told: the longest path that is no nonsense, as in the access line.
const TEXT_BYTES_MAX: usize = 512;

/// Memory that a span takes beside its texts, roughly.
const SPAN_BYTES: usize = 256;
/// The same for an attribute and a link.
const ATTRIBUTE_BYTES: usize = 48;
const LINK_BYTES: usize = 64;

/// The side of a request that a span is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Work within roadstead.
    Internal,
    /// A request that roadstead answers.
    Server,
    /// A request that roadstead sends.
    Client,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(Cow<'static, str>),
    /// A whole number.
    Number(i64),
}

/// A span whose work has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its identity.
    pub context: Context,
    /// The span that caused it.
    pub parent: Option<Parent>,
    /// The side of a request that it is about.
    pub kind: SpanKind,
    /// When its work began.
    pub start: SystemTime,
    /// The time that it took.
    pub took: Duration,
    /// What is known of it.
    pub facts: Facts,
}

/// The span that caused another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its identity in the same trace.
    pub span_id: u64,
    /// True if it is a client's.
    pub is_remote: bool,
}

/// Facts about a span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The name: one of few.
    pub name: Cow<'static, str>,
    /// Keys and values.
    pub attributes: Vec<(&'static str, Value)>,
    /// Spans of other work that this one waited for.
    pub links: Vec<Context>,
    /// Links that there was no room for.
    pub links_dropped: u32,
    /// Why it failed, if it did; may be empty.
    pub failure: Option<String>,
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(cut(text).to_owned().into())
    }
}

/// So much of a text as is told.
pub(super) fn cut(text: &str) -> &str {
    let end = text.floor_char_boundary(TEXT_BYTES_MAX);
    text.get(..end).unwrap_or_default()
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl Value {
    /// A text of the program's own, which is not copied.
    #[must_use]
    pub const fn fixed(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Number(_) => 0,
        }
    }
}

impl Ended {
    /// Memory that it takes, roughly.
    pub(super) fn bytes(&self) -> usize {
        let attributes = self.facts.attributes.iter();
        let attributes = attributes.map(|(_, value)| ATTRIBUTE_BYTES + value.bytes());
        let failure = self.facts.failure.as_ref().map_or(0, String::len);
        let state = self.context.state().map_or(0, str::len);
        let links = self.facts.links.len() * LINK_BYTES;
        SPAN_BYTES + failure + state + links + attributes.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut() {
        let long = "é".repeat(TEXT_BYTES_MAX);
        let Value::Text(text) = Value::from(long.as_str()) else {
            panic!("no text")
        };
        assert_eq!(text.len(), TEXT_BYTES_MAX);
        assert_eq!(Value::from("short"), Value::fixed("short"));
        assert_eq!(Value::from(u64::MAX), Value::Number(i64::MAX));
    }
}
