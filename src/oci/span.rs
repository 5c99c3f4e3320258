//! Positions of the parts of a JSON text, so that some can be left out without a tree of all of them: a list of some
//! megabytes would take twenty times as much.
//!
//! The text has been found to be JSON before. In one that is not these end somewhere, and find nothing that is not there.

use std::ops::Range;

/// The value of a member of an object. `is_named` is told the names as they are written, with their quotes.
pub(super) fn member(json: &[u8], is_named: impl Fn(&[u8]) -> bool) -> Option<Range<usize>> {
    let mut at = after(json, 0, b'{')?;
    loop {
        at = skip_white(json, at);
        match json.get(at)? {
            b',' => at += 1,
            b'"' => {
                let name = at..value_end(json, at)?;
                let start = skip_white(json, after(json, name.end, b':')?);
                let value = start..value_end(json, start)?;
                if is_named(json.get(name)?) {
                    return Some(value);
                }
                at = value.end;
            }
            _ => return None,
        }
    }
}

/// The elements of the list that lies there; `None` if it is none.
pub(super) fn elements(json: &[u8], list: &Range<usize>) -> Option<Vec<Range<usize>>> {
    let mut at = after(json, list.start, b'[')?;
    let mut elements = Vec::new();
    while at < list.end {
        at = skip_white(json, at);
        match json.get(at)? {
            b',' => at += 1,
            b']' => return Some(elements),
            _ => {
                let element = at..value_end(json, at)?;
                at = element.end.max(at + 1);
                elements.push(element);
            }
        }
    }
    None
}

fn skip_white(json: &[u8], start: usize) -> usize {
    let white = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let rest = json.get(start..).unwrap_or_default();
    start + rest.iter().take_while(|byte| white(byte)).count()
}

/// The place behind a character that comes next.
fn after(json: &[u8], start: usize, wanted: u8) -> Option<usize> {
    let at = skip_white(json, start);
    (*json.get(at)? == wanted).then_some(at + 1)
}

/// The end of the value that begins at `start`.
fn value_end(json: &[u8], start: usize) -> Option<usize> {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (at, byte) in json.iter().enumerate().skip(start) {
        if quoted {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => {}
            }
            if !quoted && depth == 0 {
                return Some(at + 1);
            }
            continue;
        }
        match byte {
            b'"' => quoted = true,
            b'{' | b'[' => depth += 1,
            // The end of a number or word, which has none of its own.
            b'}' | b']' | b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return Some(at),
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Option<Vec<&str>> {
        let json = text.as_bytes();
        let list = member(json, |name| name == b"\"list\"")?;
        let elements = elements(json, &list)?;
        Some(elements.into_iter().map(|part| &text[part]).collect())
    }

    #[test]
    fn elements_are_found_where_they_are() {
        for (text, expected) in [
            (r#"{"list":[]}"#, vec![]),
            (r#" { "list" : [ 1 , "a" ] } "#, vec!["1", "\"a\""]),
            (
                r#"{"a":{"list":[9]},"b":"\"list\":[8],\\","list":[{"x":[1,"]}"]},[[2]],null,-1.5e3,"\\\""],"c":1}"#,
                vec![r#"{"x":[1,"]}"]}"#, "[[2]]", "null", "-1.5e3", r#""\\\"""#],
            ),
        ] {
            assert_eq!(parts(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "{",
            "[]",
            "{}",
            r#"{"list":1}"#,
            r#"{"list":[1"#,
            r#"{"list":["#,
            r#"{"list""#,
            "nonsense",
        ] {
            assert_eq!(parts(text), None, "{text}");
        }
    }
}
