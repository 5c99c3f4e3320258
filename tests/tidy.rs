//! The sources themselves: layering, sizes, and what only certain files may do
//! (DESIGN, "Layout and direction"; the table in `lib.rs`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test says what it expects by failing, and owns its files and tasks"
)]

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/reference.rs"]
mod reference;
#[path = "tidy/size.rs"]
mod size;
#[path = "tidy/words.rs"]
mod words;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// Module → the modules of the crate that it may use (besides itself).
const MAY_USE: &[(&str, &[&str])] = &[
    ("oci", &[]),
    ("clock", &[]),
    ("telemetry", &["format"]),
    ("format", &[]),
    ("stamp", &[]),
    ("store", &["oci", "clock", "telemetry"]),
    ("catalogue", &["oci", "clock", "telemetry"]),
    ("audit", &["clock", "telemetry", "format"]),
    (
        "backup",
        &["store", "catalogue", "oci", "clock", "telemetry"],
    ),
    (
        "hosted",
        &["store", "catalogue", "oci", "clock", "telemetry"],
    ),
    (
        "access",
        &[
            "audit",
            "catalogue",
            "clock",
            "net",
            "oci",
            "stamp",
            "telemetry",
        ],
    ),
    ("net", &["oci", "telemetry"]),
    (
        "cluster",
        &["mirror", "catalogue", "upstream", "net", "oci", "telemetry"],
    ),
    (
        "tier",
        &[
            "mirror",
            "store",
            "upstream",
            "net",
            "oci",
            "clock",
            "telemetry",
        ],
    ),
    ("otlp", &["net", "oci", "telemetry", "format"]),
    ("upstream", &["net", "oci", "clock", "stamp", "telemetry"]),
    (
        "mirror",
        &[
            "store",
            "catalogue",
            "upstream",
            "oci",
            "clock",
            "telemetry",
        ],
    ),
    (
        "server",
        &[
            "stamp",
            "access",
            "audit",
            "hosted",
            "mirror",
            "oci",
            "clock",
            "telemetry",
            "format",
        ],
    ),
    (
        "config",
        &[
            "stamp",
            "access",
            "audit",
            "catalogue",
            "cluster",
            "hosted",
            "mirror",
            "otlp",
            "server",
            "store",
            "tier",
            "upstream",
            "oci",
            "clock",
            "telemetry",
        ],
    ),
    (
        "app",
        &[
            "stamp",
            "access",
            "audit",
            "catalogue",
            "cluster",
            "config",
            "hosted",
            "mirror",
            "otlp",
            "server",
            "store",
            "upstream",
            "oci",
            "clock",
            "tier",
            "telemetry",
            "format",
        ],
    ),
    // Clients of a server that runs, or, where none does, of the store itself.
    (
        "commands",
        &[
            "access",
            "backup",
            "catalogue",
            "app",
            "config",
            "hosted",
            "server",
            "mirror",
            "store",
            "upstream",
            // It asks the client listener of one server, and is no upstream.
            "net",
            // The keys of a node are looked at as the server does.
            "cluster",
            "oci",
            "clock",
            "format",
            "telemetry",
            "tier",
        ],
    ),
    (
        "cli",
        &[
            "catalogue",
            "app",
            "commands",
            "config",
            "clock",
            "telemetry",
            "oci",
            "format",
        ],
    ),
];

/// Words that a module must not contain.
const MUST_NOT: &[(&str, &[&str])] = &[
    // Parsing an address (`std::net::IpAddr`) is pure; a socket is not.
    (
        "oci",
        &[
            "tokio",
            "std::fs",
            "Socket",
            "TcpStream",
            "TcpListener",
            "hyper",
            "std::env",
        ],
    ),
    (
        "store",
        &["rusqlite", "hyper", "std::net", "tokio::net", "rustls"],
    ),
    (
        "mirror",
        &[
            "rusqlite",
            "hyper::server",
            "StatusCode",
            "hyper_util",
            "tokio::net",
            "std::fs",
            "tokio::fs",
        ],
    ),
    (
        "server",
        &["redb", "rusqlite", "hyper::client", "hyper_rustls"],
    ),
];

/// Only `store/disk/layout.rs` creates, renames or deletes; and, of what is not the store's, `catalogue/files.rs` and
/// what an export writes.
const FILE_CHANGES: &[&str] = &[
    "fs::rename",
    "fs::write(",
    "fs::copy",
    "fs::hard_link",
    "fs::remove_file",
    "fs::remove_dir",
    "fs::create_dir",
    "fs::renameat",
    "fs::unlink",
    "File::create",
    "File::options",
    "OpenOptions",
];

struct Source {
    /// Relative to the package.
    path: String,
    text: String,
    /// Comments, strings and characters blanked out; the lines stay where they are.
    code: String,
}

impl Source {
    /// The module of the crate that the file belongs to: `store` for `src/store/disk/layout.rs`.
    fn module(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        let first = rest.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }

    /// The code without the tests at the file's end, which may use anything.
    fn shipped(&self) -> &str {
        if self.path.ends_with("/tests.rs") || self.path.contains("/tests/") {
            return "";
        }
        self.code.split("#[cfg(test)]").next().unwrap_or("")
    }
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    left.retain(|folder| folder.exists());
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).unwrap();
            left.extend(entries.map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root).unwrap().display().to_string();
            found.push(Source {
                path,
                code: blank(&text),
                text,
            });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Replaces what is not code by spaces.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skip(&chars, at);
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(
                chars[at..end]
                    .iter()
                    .map(|c| if *c == '\n' { '\n' } else { ' ' }),
            );
            at = end;
        }
    }
    code
}

/// The end of the comment, string or character that begins at `at`; `at` where none does.
fn skip(chars: &[char], at: usize) -> usize {
    let next = |offset: usize| chars.get(at + offset).copied().unwrap_or('\0');
    let until = |from: usize, stop: &dyn Fn(usize) -> bool| {
        (from..chars.len())
            .find(|i| stop(*i))
            .unwrap_or(chars.len())
    };
    let word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match (next(0), next(1)) {
        ('/', '/') => until(at, &|i| chars[i] == '\n'),
        ('/', '*') => {
            (until(at, &|i| chars[i] == '*' && chars.get(i + 1) == Some(&'/')) + 2).min(chars.len())
        }
        ('"', _) => string_end(chars, at),
        ('r', '"' | '#') if !word => raw_string_end(chars, at),
        ('b', 'r') if !word && matches!(next(2), '"' | '#') => raw_string_end(chars, at + 1),
        ('\'', '\\') => until(at + 3, &|i| chars[i] == '\'') + 1,
        ('\'', _) if next(2) == '\'' => at + 3,
        _ => at,
    }
}

fn string_end(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

fn raw_string_end(chars: &[char], start: usize) -> usize {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(start + 1 + hashes) != Some(&'"') {
        return start; // a raw identifier
    }
    let close = |i: &usize| {
        chars[*i] == '"' && chars[i + 1..].iter().take_while(|c| **c == '#').count() >= hashes
    };
    (start + 2 + hashes..chars.len())
        .find(close)
        .map_or(chars.len(), |i| i + 1 + hashes)
}

/// The modules of the crate that some code names: `crate::a`, `crate::{a, b::c}`.
fn named_modules(code: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for (at, marker) in code.match_indices("crate::") {
        let rest = &code[at + marker.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for c in group.chars() {
                match c {
                    '}' | ',' if depth == 0 => {
                        named.insert(identifier(&item));
                        item.clear();
                        if c == '}' {
                            break;
                        }
                    }
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ if depth == 0 => item.push(c),
                    _ => {}
                }
            }
        } else {
            named.insert(identifier(rest));
        }
    }
    named.remove("");
    named
}

fn identifier(text: &str) -> String {
    text.trim_start()
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// Name, first line and length of each function with a body.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let name = identifier(&code[at + 3..]);
        if name.is_empty() {
            continue; // a function pointer's type
        }
        let mut depth = 0_i32;
        let mut brackets = 0_i32;
        for (offset, c) in code[at..].char_indices() {
            match c {
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets -= 1,
                ';' if depth == 0 && brackets == 0 => break, // no body
                '{' => depth += 1,
                '}' => {
                    depth -= 1;
                    if depth == 0 {
                        let line = code[..at].lines().count().max(1);
                        let length = code[at..=at + offset].lines().count();
                        found.push((name, line, length));
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    found
}

#[track_caller]
fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn files_and_functions_are_small() {
    let mut faults = Vec::new();
    for source in sources(&["src", "tests", "benches"]) {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            faults.push(format!(
                "{}: {lines} lines, at most {FILE_LINES_MAX}",
                source.path
            ));
        }
        for (name, line, length) in functions(&source.code) {
            if length > FUNCTION_LINES_MAX {
                let path = &source.path;
                faults.push(format!(
                    "{path}:{line}: {name} has {length} lines, at most {FUNCTION_LINES_MAX}"
                ));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn modules_use_what_the_table_allows() {
    let mut faults = Vec::new();
    for source in sources(&["src"]) {
        let module = source.module().unwrap();
        if matches!(module, "lib" | "main") {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            faults.push(format!(
                "{}: module {module} is not in the table",
                source.path
            ));
            continue;
        };
        for used in named_modules(source.shipped()) {
            if used != module && !allowed.contains(&used.as_str()) {
                faults.push(format!("{}: {module} must not use {used}", source.path));
            }
        }
        let forbidden = MUST_NOT.iter().filter(|(name, _)| *name == module);
        for word in forbidden.flat_map(|(_, words)| *words) {
            if source.shipped().contains(word) {
                faults.push(format!("{}: {module} must not use {word}", source.path));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn only_some_files_touch_the_disk_or_raw_memory() {
    let mut faults = Vec::new();
    for source in sources(&["src"]) {
        let code = source.shipped();
        let may_write = [
            "src/store/disk/layout",
            // The state directory is no part of the store.
            "src/catalogue/files.rs",
            "src/backup/files.rs",
            // A socket cannot be bound where another is.
            "src/server/unix.rs",
            "src/access/keys.rs",
            "src/audit/file.rs",
            "src/commands/airgap/files.rs",
            "src/commands/airgap/below.rs",
            "src/commands/ca.rs",
            // The files of clients are nobody's cache.
            "src/commands/client_config/files.rs",
        ];
        if !may_write.iter().any(|path| source.path.starts_with(path)) {
            for change in FILE_CHANGES.iter().filter(|change| code.contains(**change)) {
                faults.push(format!(
                    "{}: {change} belongs into store/disk/layout.rs",
                    source.path
                ));
            }
        }
        let words = source
            .code
            .split(|c: char| !(c.is_alphanumeric() || c == '_'));
        if source.path != "src/store/disk/map.rs" && words.into_iter().any(|word| word == "unsafe")
        {
            faults.push(format!(
                "{}: unsafe belongs into store/disk/map.rs",
                source.path
            ));
        }
    }
    assert_none(&faults);
}

#[test]
fn nothing_is_left_to_do() {
    let mut faults = Vec::new();
    for source in sources(&["src", "tests"]) {
        if source.path == "tests/tidy.rs" {
            continue;
        }
        for (line, number) in source.text.lines().zip(1..) {
            let marks = ["todo!", "TODO", "FIXME", "XXX", "unimplemented!", "dbg!"];
            if marks.iter().any(|mark| line.contains(mark)) {
                faults.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn the_checks_see_what_they_should() {
    let text = "// fn a\nfn one() { \"}\"; '{'; r#\"}\"#; }\ntrait T { fn two(&self) -> [u8; 3]; }\nfn three<'a>(x: &'a str) -> char {\n    '\\''\n}\n";
    let code = blank(text);
    assert_eq!(code.lines().count(), text.lines().count());
    let found = functions(&code);
    let names: Vec<&str> = found.iter().map(|(name, _, _)| name.as_str()).collect();
    assert_eq!(names, ["one", "three"]);
    assert_eq!(found[1].2, 3);
    let used = named_modules(
        "use crate::{oci::{Digest, X}, store};\nuse crate::mirror::Y; crate::server::z()",
    );
    let used: Vec<&str> = used.iter().map(String::as_str).collect();
    assert_eq!(used, ["mirror", "oci", "server", "store"]);
}
