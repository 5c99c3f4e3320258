//! The commands' output: numbers as people read them, and foreign text made harmless.
//!
//! Names, labels, error messages and the like come from whoever made an image or runs a registry, and end on an
//! operator's terminal and in logs. There they must neither be commands (escape sequences), nor look like something
//! else (text that runs from right to left, characters that nobody sees), nor begin lines of their own.

use bytesize::ByteSize;
use serde::Serialize;
use std::borrow::Cow;
use std::fmt::Write as _;

/// The version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that this was built from; `unknown` where that could not be told.
pub const COMMIT: &str = env!("BUILD_COMMIT");

/// The replacement of a character that is not shown.
const INSTEAD: char = '\u{fffd}';

/// The commands to a terminal that are ours, and the log library's: none of them hides anything.
const COLOURS: [&str; 9] = [
    "\u{1b}[0m",
    "\u{1b}[1m",
    "\u{1b}[2m",
    "\u{1b}[3m",
    "\u{1b}[31m",
    "\u{1b}[32m",
    "\u{1b}[33m",
    "\u{1b}[34m",
    "\u{1b}[35m",
];

/// True if a character is a command rather than a sign, or is not seen as what it is: control characters (C0, DEL, C1),
/// those that set the direction of text, those without a width, line separators, tags.
#[must_use]
pub const fn is_odd(c: char) -> bool {
    matches!(
        c,
        '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// Foreign text, on one line and harmless: what [`is_odd`] is replaced.
#[must_use]
pub fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(is_odd) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace(is_odd, "\u{fffd}"))
}

/// Text of ours that may have something foreign in it: lines and colours stay.
#[must_use]
pub fn shown(text: &str) -> Cow<'_, str> {
    if !text.contains(is_odd) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(colour) = COLOURS.iter().find(|colour| rest.starts_with(**colour)) {
            shown.push_str(colour);
            rest = rest.get(colour.len()..).unwrap_or_default();
            continue;
        }
        shown.push(if is_odd(c) && c != '\n' { INSTEAD } else { c });
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    Cow::Owned(shown)
}

/// JSON that means the same, in which nothing odd stands as it is: `\u202e`. Outside of strings there is nothing odd but
/// line ends, which stay.
#[must_use]
pub fn escaped(json: &str) -> Cow<'_, str> {
    let is_escaped = |c: char| is_odd(c) && c != '\n';
    if !json.contains(is_escaped) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if !is_escaped(c) {
            escaped.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string does not fail.
            let _written = write!(escaped, "\\u{unit:04x}").is_ok();
        }
    }
    Cow::Owned(escaped)
}

/// A value as JSON, on one line, for terminals and logs.
///
/// # Errors
/// It has no JSON form.
pub fn json(value: &impl Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string(value)?;
    Ok(match escaped(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(escaped) => escaped,
    })
}

/// `1 blob`, `2 blobs`.
#[must_use]
pub fn plural(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    }
}

/// Bytes in the decimal units of registries' user interfaces: `21.0 MB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NASTY: &str = "a\u{1b}[2Jb\nc\u{202e}d\u{9b}31me\u{200b}f\u{e0041}g\u{7f}";

    #[test]
    fn what_others_wrote_gives_no_commands() {
        assert_eq!(
            harmless(NASTY),
            "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d\u{fffd}31me\u{fffd}f\u{fffd}g\u{fffd}"
        );
        for plain in ["", "docker.io/library/nginx:1.27", "é 漢字 🦀 — …"] {
            assert!(matches!(harmless(plain), Cow::Borrowed(text) if text == plain));
            assert!(matches!(escaped(plain), Cow::Borrowed(_)));
        }
    }

    #[test]
    fn our_own_lines_and_colours_stay() {
        let text = "\u{1b}[31mdown\u{1b}[0m\n\u{1b}[8mhidden\u{1b}]0;title\u{7}\u{2066}";
        assert_eq!(
            shown(text),
            "\u{1b}[31mdown\u{1b}[0m\n\u{fffd}[8mhidden\u{fffd}]0;title\u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn json_means_the_same_without_what_is_odd() {
        let text = json(&serde_json::json!({ "key\u{202e}": NASTY })).unwrap();
        assert!(text.is_ascii(), "{text}");
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back["key\u{202e}"], NASTY);
        assert!(
            text.contains("\\u202e") && text.contains("\\udb40\\udc41"),
            "{text}"
        );
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!((size(0), size(1_500_000)), ("0 B".into(), "1.5 MB".into()));
        assert_eq!(plural(0, "image"), "0 images");
        assert_eq!(plural(1, "image"), "1 image");
        assert_eq!(plural(1000, "image"), "1000 images");
        assert_eq!(
            (size(1), size(20_971_520)),
            ("1 B".into(), "21.0 MB".into())
        );
    }
}
