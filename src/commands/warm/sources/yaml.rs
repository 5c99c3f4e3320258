//! YAML documents as trees that know their lines.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Options, Spanned};
use std::fmt;

use super::Fault;

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Node {
    /// The first line is 1. Of an alias, where it is used.
    pub(super) line: u64,
    pub(super) value: Value,
}

/// A value, as far as it can lead to an image.
#[derive(Debug)]
pub(super) enum Value {
    Null,
    Text(String),
    List(Vec<Node>),
    /// In the order of the document; members whose key is no text are left out.
    Map(Vec<(String, Node)>),
    /// A number or a boolean.
    Other,
}

/// The documents of a text. Aliases and merge keys (`<<`) are resolved.
///
/// # Errors
/// It is no YAML, or is larger than the bounds below.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, Fault> {
    serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| {
        let line = error.location().map(|location| location.line());
        let why = error.without_snippet().to_string();
        Fault::new(line, why.lines().next().unwrap_or("is no YAML"))
    })
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: NODES_MAX * 2,
            max_nodes: NODES_MAX,
            max_documents: DOCUMENTS_MAX,
        },
    }
}

impl Node {
    /// The member of a mapping with this key.
    pub(super) fn member(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(members) => member(members, key),
            Value::Null | Value::Text(_) | Value::List(_) | Value::Other => None,
        }
    }

    /// The elements of a list; none of anything else.
    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            Value::Null | Value::Text(_) | Value::Map(_) | Value::Other => &[],
        }
    }

    /// A text.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            Value::Null | Value::List(_) | Value::Map(_) | Value::Other => None,
        }
    }

    /// The name of an image: `None` where there is none.
    ///
    /// # Errors
    /// It is no text, as in `image: 3`.
    pub(super) fn image(&self) -> Result<Option<&str>, Fault> {
        match &self.value {
            Value::Text(text) if text.trim().is_empty() => Ok(None),
            Value::Text(text) => Ok(Some(text.trim())),
            Value::Null => Ok(None),
            Value::List(_) | Value::Map(_) | Value::Other => Err(Fault::new(
                Some(self.line),
                "an image's name must be a text",
            )),
        }
    }
}

/// The member with this key.
pub(super) fn member<'a>(members: &'a [(String, Node)], key: &str) -> Option<&'a Node> {
    let found = members.iter().find(|(name, _)| name == key);
    found.map(|(_, node)| node)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            line: spanned.referenced.line(),
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Other)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Other)
    }
    fn visit_i128<E>(self, _: i128) -> Result<Value, E> {
        Ok(Value::Other)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Other)
    }
    fn visit_u128<E>(self, _: u128) -> Result<Value, E> {
        Ok(Value::Other)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other)
    }
    fn visit_bytes<E>(self, _: &[u8]) -> Result<Value, E> {
        Ok(Value::Other)
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Vec::new();
        while let Some((key, node)) = map.next_entry::<Value, Node>()? {
            if let Value::Text(key) = key {
                members.push((key, node));
            }
        }
        Ok(Value::Map(members))
    }
}

/// Values in all documents together, aliases counted as often as they are used: more than a cluster
/// of some thousand pods has, and less than a gigabyte.
const NODES_MAX: usize = 5_000_000;
/// Documents of one file; a big Helm chart renders some hundred.
const DOCUMENTS_MAX: usize = 100_000;
