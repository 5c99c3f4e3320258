//! The escaper of all templates. Names, labels and messages come from registries, whoever wrote them.

use crate::format::is_odd;
use askama::filters::Escaper;
use std::fmt::{self, Write};

/// Escapes what is HTML, and replaces characters that are not seen as what they are. Lines and tabs stay: they mean
/// nothing to HTML, and files have them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Harmless;

impl Escaper for Harmless {
    fn write_escaped_str<W: Write>(&self, mut to: W, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '<' => to.write_str("&lt;")?,
                '>' => to.write_str("&gt;")?,
                '&' => to.write_str("&amp;")?,
                '"' => to.write_str("&#34;")?,
                '\'' => to.write_str("&#39;")?,
                '\n' | '\t' => to.write_char(c)?,
                odd if is_odd(odd) => to.write_char('\u{fffd}')?,
                plain => to.write_char(plain)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_only_text() {
        let mut escaped = String::new();
        let text = "<b a='\"'>&\u{202e}\u{1b}[2J\n漢 é";
        Harmless.write_escaped_str(&mut escaped, text).unwrap();
        assert_eq!(
            escaped,
            "&lt;b a=&#39;&#34;&#39;&gt;&amp;\u{fffd}\u{fffd}[2J\n漢 é"
        );
    }
}
