//! The words of texts that users read: docs, the example configuration, help, log messages, errors
//! (CONTRIBUTING.md, "Words").

use super::sources;
use std::path::{Path, PathBuf};

/// Words that only this project understands, and the field's words for them.
const INSTEAD: &[(&str, &str)] = &[
    ("fetched anew", "fetched again"),
    ("left alone for a while", "backing off (circuit open)"),
    ("had again", "available again"),
    ("taken up again", "resumed"),
    ("gone on with", "resumed"),
    ("so many", "a number, or: that many"),
    ("at hand", "ready, cached"),
    ("whoever", "everybody who, a client that"),
    ("of whom", "whose"),
    ("the same, but", "name the difference"),
];

/// Beginnings of sentences without a noun: a reader has to find out what is meant.
const BEGINNINGS: &[&str] = &[
    "What",
    "Who",
    "Whoever",
    "Whatever",
    "Whether",
    "Which",
    "Of",
    "That which",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Texts that are read as they are, in Markdown or TOML.
fn documents() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "config.example.toml",
    ]
    .map(|name| root().join(name))
    .into();
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "md") {
                found.push(path);
            }
        }
    }
    found
}

/// Paragraphs, list items and cells of a table, each in one line; code blocks left out.
fn passages(document: &str, is_markdown: bool) -> Vec<String> {
    let mut passages = vec![String::new()];
    let mut is_code = false;
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
            continue;
        }
        // A heading may be a clause: "What is evicted".
        let text = match line.strip_prefix('#') {
            Some(_) if is_markdown => "",
            Some(comment) => comment.trim(),
            None => line.trim(),
        };
        let begins =
            text.is_empty() || line.starts_with("    ") || text.starts_with(['|', '-', '*', '#']);
        if begins {
            passages.push(String::new());
        }
        if is_code || line.starts_with("    ") {
            continue;
        }
        for (number, cell) in text.trim_matches('|').split(" | ").enumerate() {
            if number > 0 {
                passages.push(String::new());
            }
            if let Some(passage) = passages.last_mut() {
                passage.push_str(cell.trim_start_matches(['-', '*', ' ']));
                passage.push(' ');
            }
        }
    }
    passages.retain(|passage| !passage.trim().is_empty());
    passages
}

/// Sentences, cut at a full stop or a colon that a space follows. Questions are left out: a heading of the FAQ may be one.
fn sentences(passage: &str) -> impl Iterator<Item = &str> {
    let sentences = passage
        .split_inclusive(['.', ':', '!', '?'])
        .scan(0, |from, piece| {
            let start = *from;
            *from += piece.len();
            Some((start, piece))
        });
    sentences
        .filter(|(start, piece)| !piece.ends_with('?') && (*start == 0 || piece.starts_with(' ')))
        .map(|(_, piece)| piece.trim())
}

fn banned_in(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let is_word = |at: usize, length: usize| {
        let before = lower[..at].chars().next_back();
        let after = lower[at + length..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    };
    let found = INSTEAD.iter().filter(|(banned, _)| {
        let mut places = lower.match_indices(banned);
        places.any(|(at, banned)| is_word(at, banned.len()))
    });
    found
        .map(|(banned, instead)| format!("{banned:?} (write: {instead}) in: {text}"))
        .collect()
}

fn bad_beginnings(passage: &str) -> Vec<String> {
    let begins = |sentence: &&str| {
        BEGINNINGS.iter().any(|word| {
            sentence
                .strip_prefix(word)
                .is_some_and(|rest| rest.starts_with(' '))
        })
    };
    let found = sentences(passage).filter(begins);
    found
        .map(|sentence| format!("begins without a noun: {sentence}"))
        .collect()
}

/// The strings of a source, without its tests and comments.
fn strings(source: &str) -> Vec<String> {
    let source = source
        .split("#[cfg(test)]\nmod ")
        .next()
        .unwrap_or_default();
    let code: String = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| format!("{line}\n"))
        .collect();
    let mut strings = Vec::new();
    let mut rest = code.as_str();
    while let Some(start) = rest.find('"') {
        // `'"'` is a character.
        if rest[..start].ends_with('\'') || rest[..start].ends_with('\\') {
            rest = &rest[start + 1..];
            continue;
        }
        let mut end = start + 1;
        while let Some(byte) = rest.as_bytes().get(end) {
            match byte {
                b'"' => break,
                b'\\' => end += 2,
                _ => end += 1,
            }
        }
        strings.push(rest.get(start + 1..end).unwrap_or_default().to_owned());
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    strings
}

fn report(path: &Path, faults: Vec<String>) -> Vec<String> {
    let path = path
        .strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string();
    faults
        .into_iter()
        .map(|it| format!("{path}: {it}"))
        .collect()
}

#[test]
fn user_texts_are_in_the_fields_words() {
    let mut faults = Vec::new();
    for path in documents() {
        let is_prose = path.extension().is_some_and(|it| it == "md");
        for passage in passages(&std::fs::read_to_string(&path).unwrap(), is_prose) {
            let mut found = banned_in(&passage);
            found.extend(bad_beginnings(&passage).into_iter().filter(|_| is_prose));
            faults.extend(report(&path, found));
        }
    }
    for source in sources(&["src"]) {
        if source.path.contains("/tests") {
            continue;
        }
        for string in strings(&source.text) {
            faults.extend(report(Path::new(&source.path), banned_in(&string)));
        }
    }
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

#[test]
fn the_words_are_found() {
    let text = "# What is it?\n\nOf two, one counts. A mirror (whoever\nhas it) waits.\n\n| a | What is b |\n\n    Of code\n";
    let passages = passages(text, true);
    assert_eq!(passages.len(), 3, "{passages:?}");
    let banned: Vec<_> = passages.iter().flat_map(|it| banned_in(it)).collect();
    assert_eq!(banned.len(), 1, "{banned:?}");
    let beginnings: Vec<_> = passages.iter().flat_map(|it| bad_beginnings(it)).collect();
    assert_eq!(beginnings.len(), 2, "{beginnings:?}");
    assert!(banned_in("so manyfold").is_empty());
    let source = "let a = \"one \\\" two\"; // \"three\nlet b = '\"';\nc(\"four\");\n// \"five\"\n";
    assert_eq!(strings(source)[0], "one \\\" two");
    assert!(strings(source).contains(&"four".to_owned()));
}
