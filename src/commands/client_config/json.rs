//! dockerd's daemon.json: members of an object, changed in place, so that every other byte stays.

use std::ops::Range;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Deserializer, Value};

use super::fault::{Fault, Merged};

const MIRRORS: &str = "registry-mirrors";
const INSECURE: &str = "insecure-registries";

/// The entries that are ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Daemon {
    /// The mirror's URL, for `registry-mirrors`; `None`: dockerd has no use for it there.
    pub(super) mirror: Option<String>,
    /// The mirror's address, for `insecure-registries`.
    pub(super) insecure: Option<String>,
}

/// A member of the object, or an element of a list, by its place in the text.
#[derive(Debug)]
struct Part {
    /// The key of a member; the text of an element, where it is one.
    name: String,
    whole: Range<usize>,
    value: Range<usize>,
}

impl Daemon {
    /// The file where there is none.
    pub(super) fn fresh(&self) -> String {
        let entries = [(MIRRORS, &self.mirror), (INSECURE, &self.insecure)];
        let lines = entries.into_iter().filter_map(|(key, value)| {
            let value = quoted(value.as_ref()?);
            Some(format!("  {}: [{value}]", quoted(key)))
        });
        format!("{{\n{}\n}}\n", lines.collect::<Vec<_>>().join(",\n"))
    }

    /// The file with our entries: the mirror before all others.
    pub(super) fn merge(&self, text: &str) -> Result<Merged, Fault> {
        let mut text = text.to_owned();
        if let Some(mirror) = &self.mirror {
            text = put(&text, MIRRORS, mirror, true)?;
        }
        if let Some(insecure) = &self.insecure {
            text = put(&text, INSECURE, insecure, false)?;
        }
        object(&text)?;
        Ok(text.into())
    }

    /// The file without our entries; a list that is empty then goes, too.
    pub(super) fn remove(&self, text: &str) -> Result<String, Fault> {
        let mut text = text.to_owned();
        for (key, ours) in [(MIRRORS, &self.mirror), (INSECURE, &self.insecure)] {
            if let Some(ours) = ours {
                text = take(&text, key, ours)?;
            }
        }
        object(&text)?;
        Ok(text)
    }
}

/// True if nothing is said in it.
pub(super) fn is_empty(text: &str) -> bool {
    object(text).is_ok_and(|(_, members)| members.is_empty())
}

/// Puts an entry into a list. One that is there stays where it is, unless it must be the first.
fn put(text: &str, key: &str, entry: &str, first: bool) -> Result<String, Fault> {
    let (braces, members) = object(text)?;
    let Some(member) = members.iter().find(|it| it.name == key) else {
        let added = format!("{}: [{}]", quoted(key), quoted(entry));
        return Ok(match members.last() {
            None => {
                let close = braces.end.saturating_sub(1);
                replaced(text, braces.start + 1..close, &format!("\n  {added}\n"))
            }
            Some(last) => {
                let gap = gap(text, braces.start, &members);
                replaced(
                    text,
                    last.whole.end..last.whole.end,
                    &format!(",{gap}{added}"),
                )
            }
        });
    };
    let entries = list(text, member)?;
    let there = entries.iter().position(|it| is_same(&it.name, entry));
    match there {
        Some(0) => return Ok(text.to_owned()),
        Some(_) if !first => return Ok(text.to_owned()),
        Some(at) => {
            let without = without(text, &entries, at);
            return put(&without, key, entry, first);
        }
        None => {}
    }
    let entry = quoted(entry);
    Ok(match (entries.first(), entries.last()) {
        (Some(head), Some(_)) if first => {
            let gap = gap(text, member.value.start, &entries);
            let gap = if gap.contains('\n') { gap } else { " " };
            let at = head.whole.start;
            replaced(text, at..at, &format!("{entry},{gap}"))
        }
        (Some(_), Some(last)) => {
            let gap = gap(text, member.value.start, &entries);
            let gap = if gap.contains('\n') { gap } else { " " };
            let at = last.whole.end;
            replaced(text, at..at, &format!(",{gap}{entry}"))
        }
        _ => replaced(text, member.value.clone(), &format!("[{entry}]")),
    })
}

/// Takes an entry out of a list, however often it is there.
fn take(text: &str, key: &str, entry: &str) -> Result<String, Fault> {
    let (_, members) = object(text)?;
    let Some(at) = members.iter().position(|it| it.name == key) else {
        return Ok(text.to_owned());
    };
    let Some(member) = members.get(at) else {
        return Ok(text.to_owned());
    };
    let entries = list(text, member)?;
    let Some(ours) = entries.iter().position(|it| is_same(&it.name, entry)) else {
        return Ok(text.to_owned());
    };
    if entries.len() == 1 {
        return Ok(without(text, &members, at));
    }
    take(&without(text, &entries, ours), key, entry)
}

/// True if dockerd takes both for the same: it adds the slash itself.
fn is_same(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

/// The text without one of these parts and its comma.
fn without(text: &str, parts: &[Part], at: usize) -> String {
    let before = at.checked_sub(1).and_then(|before| parts.get(before));
    let range = match (parts.get(at), parts.get(at + 1), before) {
        (Some(part), Some(next), _) => part.whole.start..next.whole.start,
        (Some(part), None, Some(before)) => before.whole.end..part.whole.end,
        (Some(part), None, None) => part.whole.clone(),
        (None, _, _) => return text.to_owned(),
    };
    replaced(text, range, "")
}

/// The white space between a bracket and the first part, which the author has chosen.
fn gap<'a>(text: &'a str, bracket: usize, parts: &[Part]) -> &'a str {
    let first = parts.first().map_or(bracket + 1, |it| it.whole.start);
    text.get(bracket + 1..first).unwrap_or_default()
}

fn replaced(text: &str, range: Range<usize>, by: &str) -> String {
    let before = text.get(..range.start).unwrap_or_default();
    let after = text.get(range.end..).unwrap_or_default();
    format!("{before}{by}{after}")
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The object that a text is: the place of its braces, and its members.
fn object(text: &str) -> Result<(Range<usize>, Vec<Part>), Fault> {
    // A file without a word is none to dockerd.
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        let why = format!("is no JSON: {error}; correct it first, nothing was changed");
        return Err(Fault::in_line(Some(error.line()), why));
    }
    let start = space(text, 0);
    if text.get(start..).is_none_or(|rest| !rest.starts_with('{')) {
        return Err(Fault::new(
            "is no JSON object; correct it first, nothing was changed",
        ));
    }
    let end = text.trim_end().len();
    let mut members: Vec<Part> = Vec::new();
    let mut at = space(text, start + 1);
    while let Some((name, after)) = read::<String>(text, at) {
        // Behind the colon.
        let value = space(text, space(text, after) + 1);
        let Some((IgnoredAny, value_end)) = read::<IgnoredAny>(text, value) else {
            break;
        };
        let part = Part {
            name,
            whole: at..value_end,
            value: value..value_end,
        };
        if [MIRRORS, INSECURE].contains(&part.name.as_str())
            && members.iter().any(|it| it.name == part.name)
        {
            let why = format!("{:?} is there twice: remove one of them", part.name);
            return Err(Fault::at(text, Some(&part.whole), why));
        }
        members.push(part);
        at = behind_comma(text, value_end);
    }
    Ok((start..end, members))
}

/// The elements of a member, which must be a list of texts; `null` is an empty one.
fn list(text: &str, member: &Part) -> Result<Vec<Part>, Fault> {
    let value = text.get(member.value.clone()).unwrap_or_default();
    if serde_json::from_str::<Option<Vec<String>>>(value).is_err() {
        let why = format!("{:?} is not a list of texts: correct it first", member.name);
        return Err(Fault::at(text, Some(&member.value), why));
    }
    let mut parts = Vec::new();
    let mut at = space(text, member.value.start + 1);
    while at < member.value.end {
        let Some((name, end)) = read::<String>(text, at) else {
            break;
        };
        parts.push(Part {
            name,
            whole: at..end,
            value: at..end,
        });
        at = behind_comma(text, end);
    }
    Ok(parts)
}

/// The value that begins here, and where it ends.
fn read<'a, T: Deserialize<'a>>(text: &'a str, at: usize) -> Option<(T, usize)> {
    let mut values = Deserializer::from_str(text.get(at..)?).into_iter::<T>();
    let value = values.next()?.ok()?;
    Some((value, at + values.byte_offset()))
}

/// The first place from here that is no white space.
fn space(text: &str, at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    at + (rest.len() - rest.trim_start().len())
}

fn behind_comma(text: &str, at: usize) -> usize {
    let comma = space(text, at);
    let is_comma = text.get(comma..).is_some_and(|rest| rest.starts_with(','));
    space(text, comma + usize::from(is_comma))
}
