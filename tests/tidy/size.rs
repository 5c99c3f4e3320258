//! The size of the code, by module, without tests, comments and blank lines. A module that outgrows its part is a question
//! to whoever makes it grow: what can go for that, or what is it for? The answer is a new number here, and a line in
//! docs/design.md.

use std::collections::BTreeMap;

use super::sources;

/// Lines that modules may have, a tenth more than they had when that was last decided.
const LINES_MAX: &[(&str, usize)] = &[
    ("access", 5_900),
    ("app", 1_600),
    ("audit", 650),
    ("backup", 1_250),
    ("catalogue", 4_950),
    ("cli", 650),
    ("cluster", 1_500),
    ("commands", 18_150),
    ("config", 6_750),
    ("hosted", 2_900),
    ("mirror", 13_300),
    ("net", 3_300),
    ("oci", 2_950),
    ("otlp", 750),
    ("root", 2_950),
    ("server", 15_700),
    ("store", 12_600),
    ("telemetry", 3_400),
    ("tier", 2_450),
    ("upstream", 8_400),
];

#[test]
fn no_module_outgrows_its_part_unnoticed() {
    let mut counts = BTreeMap::<String, usize>::new();
    for source in sources(&["src"]) {
        let path = source.path.as_str();
        let is_test =
            path.contains("/tests/") || path.ends_with("tests.rs") || path.ends_with("testing.rs");
        if is_test {
            continue;
        }
        let within = path.strip_prefix("src/").unwrap();
        let module = within.split_once('/').map_or("root", |(module, _)| module);
        *counts.entry(module.to_owned()).or_default() += code_lines(&source.text);
    }
    let known: BTreeMap<&str, usize> = LINES_MAX.iter().copied().collect();
    for (module, count) in &counts {
        let most = known.get(module.as_str());
        let most =
            most.unwrap_or_else(|| panic!("a module {module} of {count} lines: give it a part"));
        assert!(
            count <= most,
            "{module} has {count} lines of code, and may have {most}"
        );
    }
    assert_eq!(counts.len(), known.len(), "a part without a module");
}

fn code_lines(text: &str) -> usize {
    // Tests in the file are at its end.
    let tests = text.match_indices("\n#[cfg(test)]\nmod ");
    let mut tests = tests.filter(|(at, found)| {
        let declared = text[at + found.len()..].lines().next();
        declared.is_some_and(|line| line.ends_with('{'))
    });
    let end = tests.next().map_or(text.len(), |(at, _)| at);
    let lines = text[..end].lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .count()
}

#[test]
fn tests_comments_and_blank_lines_do_not_count() {
    let text = "//! Module.\n\nuse a;\n/// Doc.\nfn f() {\n    // Why.\n    g();\n}\n\n#[cfg(test)]\nmod tests {\n    fn t() {}\n}\n";
    assert_eq!(code_lines(text), 4);
}
