//! The reference under `docs/reference/` names what the code has, and nothing else.

use super::sources;
use std::collections::BTreeSet;
use std::path::Path;

fn document(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(root.join("docs/reference").join(name)).unwrap()
}

/// The names that begin with `prefix` in a text: letters, digits and low lines.
fn names(text: &str, prefix: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let found = text.match_indices(prefix).filter_map(|(at, _)| {
        let name: String = text[at..].chars().take_while(|c| is_name(*c)).collect();
        (!text[..at].ends_with(is_name) && name.len() > prefix.len()).then_some(name)
    });
    found.collect()
}

/// What the files below `folder` ship, as text.
fn shipped(folder: &str) -> String {
    let all = sources(&[folder]);
    let shipped = all.iter().filter(|it| !it.shipped().is_empty());
    shipped
        .map(|it| it.text.split("#[cfg(test)]").next().unwrap_or_default())
        .collect()
}

#[test]
fn metrics_are_documented() {
    let of_the_code = names(&shipped("src/telemetry"), "roadstead_");
    let of_the_document = names(&document("metrics.md"), "roadstead_");
    assert!(of_the_code.len() > 20, "{of_the_code:?}");
    // The parts of a histogram are in queries.
    let is_part = |name: &&String| {
        ["_bucket", "_sum", "_count"].iter().any(|part| {
            name.strip_suffix(part)
                .is_some_and(|it| of_the_code.contains(it))
        })
    };
    let documented: BTreeSet<String> = of_the_document
        .iter()
        .filter(|it| !is_part(it))
        .cloned()
        .collect();
    assert_eq!(of_the_code, documented);
}

#[test]
fn values_of_cache_status_are_documented() {
    let document = document("http.md");
    let table = document.split("## Cache-Status").nth(1).unwrap();
    let table = table.split("\n## ").next().unwrap();
    let code = shipped("src/telemetry") + &shipped("src/server");
    let mut values = BTreeSet::new();
    for (_, rest) in code
        .match_indices("\"roadstead; ")
        .map(|(at, it)| (at, &code[at + it.len()..]))
    {
        values.insert(rest.split('"').next().unwrap().to_owned());
    }
    // Any value of upstream's, and the one place that puts the name before what it is given.
    values.remove("fwd=miss; fwd-status={status}");
    values.remove("{value}");
    assert!(values.len() > 7, "{values:?}");
    for value in values {
        assert!(
            table.contains(&format!("| `{value}` |")),
            "{value} is not in the table"
        );
    }
}

#[test]
fn error_codes_are_documented() {
    let document = document("http.md");
    let errors = document.split("## Errors").nth(1).unwrap();
    let errors = errors.split("\n## ").next().unwrap();
    let code = shipped("src/oci/error.rs");
    let arms = code
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Self::")?.split_once(" => \""));
    let codes: BTreeSet<&str> = arms
        .filter_map(|(_, code)| code.strip_suffix("\","))
        .collect();
    assert!(codes.len() > 10, "{codes:?}");
    // Of writes, which a mirror has none of.
    let unused = ["SIZE_INVALID"];
    for code in codes.iter().filter(|it| !unused.contains(it)) {
        assert!(
            errors.contains(&format!("`{code}`")),
            "{code} is not in the table"
        );
    }
}
