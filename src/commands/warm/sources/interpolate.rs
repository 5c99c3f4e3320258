//! Variables in compose files (compose-spec, 12-interpolation.md).

use super::Variables;

/// Replaces `$NAME`, `${NAME}`, `${NAME:-default}` and so on by values; `$$` is a dollar sign.
///
/// A variable that is not set and has no default is an error, where compose itself puts nothing in
/// its place: no image's name means what it says without its parts.
///
/// # Errors
/// One line that says which variable, or what is malformed.
pub(super) fn interpolate(text: &str, variables: Variables<'_>) -> Result<String, String> {
    expand(text, variables, DEPTH_MAX)
}

fn expand(text: &str, variables: Variables<'_>, depth: usize) -> Result<String, String> {
    let depth = depth
        .checked_sub(1)
        .ok_or_else(|| format!("defaults are nested more than {DEPTH_MAX} deep"))?;
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let (inner, after) =
                split_brace(after).ok_or_else(|| format!("${{ without }} in {text:?}"))?;
            expanded.push_str(&substitute(inner, variables, depth)?);
            rest = after;
        } else {
            let (name, after) = split_name(after);
            if name.is_empty() {
                return Err(format!("a lone $ in {text:?}; write $$"));
            }
            expanded.push_str(&required(name, variables(name))?);
            rest = after;
        }
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// The text between the braces: `NAME`, or `NAME`, an operator and its operand.
fn substitute(inner: &str, variables: Variables<'_>, depth: usize) -> Result<String, String> {
    let (name, operation) = split_name(inner);
    if name.is_empty() {
        return Err(format!("${{{inner}}} names no variable"));
    }
    let set = variables(name);
    // With a colon, an empty value counts as none.
    let (operation, value) = match operation.strip_prefix(':') {
        Some(operation) => (operation, set.filter(|value| !value.is_empty())),
        None => (operation, set),
    };
    if operation.is_empty() && !inner.ends_with(':') {
        return required(name, value);
    }
    if let Some(default) = operation.strip_prefix('-') {
        return value.map_or_else(|| expand(default, variables, depth), Ok);
    }
    if let Some(replacement) = operation.strip_prefix('+') {
        return match value {
            Some(_) => expand(replacement, variables, depth),
            None => Ok(String::new()),
        };
    }
    if let Some(message) = operation.strip_prefix('?') {
        return value.ok_or_else(|| match message {
            "" => unset(name),
            message => format!("{}: {message}", unset(name)),
        });
    }
    Err(format!("${{{inner}}} is malformed"))
}

fn required(name: &str, value: Option<String>) -> Result<String, String> {
    value.ok_or_else(|| unset(name))
}

fn unset(name: &str) -> String {
    format!("the variable {name} is not set, and has no default")
}

/// A variable's name at the start (letters, digits, underscores, no digit first), and the rest.
fn split_name(text: &str) -> (&str, &str) {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return ("", text);
    }
    let end = text.find(|c| !is_inner(c)).unwrap_or(text.len());
    text.split_at(end)
}

/// The text before the brace that closes, and the text after it.
fn split_brace(text: &str) -> Option<(&str, &str)> {
    let mut open = 1_usize;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '{' if before == '$' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            let (inner, rest) = text.split_at(at);
            return Some((inner, rest.strip_prefix('}')?));
        }
        before = c;
    }
    None
}

/// The deepest that defaults may stand in defaults; people write two.
const DEPTH_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn with_tag(text: &str) -> Result<String, String> {
        interpolate(text, &|name| match name {
            "TAG" => Some("1.27".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        })
    }

    #[test]
    fn variables_and_their_defaults_are_put_in() {
        for (text, expected) in [
            ("nginx", "nginx"),
            ("nginx:$TAG", "nginx:1.27"),
            ("nginx:${TAG}-alpine", "nginx:1.27-alpine"),
            ("nginx:${TAG:-1.0}", "nginx:1.27"),
            ("nginx:${NONE:-1.0}", "nginx:1.0"),
            ("nginx:${NONE-1.0}", "nginx:1.0"),
            ("nginx:${EMPTY:-1.0}", "nginx:1.0"),
            ("nginx:1${EMPTY-.0}", "nginx:1"),
            ("${NONE:-${OTHER:-ghcr.io}/org}/app", "ghcr.io/org/app"),
            ("a${TAG:+-debug}${NONE:+x}", "a-debug"),
            ("${TAG:?is needed}", "1.27"),
            ("a$$b", "a$b"),
        ] {
            assert_eq!(with_tag(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let unset = "the variable NONE is not set, and has no default";
        for (text, error) in [
            ("nginx:$NONE", unset.to_owned()),
            ("nginx:${NONE}", unset.to_owned()),
            ("nginx:${NONE:?}", unset.to_owned()),
            ("nginx:${NONE?give a tag}", format!("{unset}: give a tag")),
            ("${NONE", "${ without } in \"${NONE\"".to_owned()),
            ("a$", "a lone $ in \"a$\"; write $$".to_owned()),
            ("${}", "${} names no variable".to_owned()),
            ("${1}", "${1} names no variable".to_owned()),
            ("${TAG!}", "${TAG!} is malformed".to_owned()),
            ("${TAG:}", "${TAG:} is malformed".to_owned()),
        ] {
            assert_eq!(with_tag(text), Err(error), "{text}");
        }
        let deep = format!("{}x{}", "${N:-".repeat(20), "}".repeat(20));
        assert!(with_tag(&deep).unwrap_err().contains("nested"));
    }
}
