//! The JSON Schema of a file, for editors, and the reference of keys, for people. Both come from the tables of `keys`.

use std::collections::VecDeque;
use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

use super::keys::File;
use super::layers::{schema_of, variables_of};
use super::table::{Key, Read as _, join};

/// The draft that the schema is written in.
const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";
/// The file that holds every key with its default; a test compares it with the code.
const EXAMPLE: &str = include_str!("../../config.example.toml");
/// The upstream in it that has all keys.
const WHOLE_UPSTREAM: &str = "docker.io";
/// The last sentence of the meaning of a key that a table must have.
const REQUIRED: &str = " Required";
/// Begins the last sentence of the meaning of a key whose default stands in no example: it depends on something, or on
/// a table that is not there by default.
const DEFAULT: &str = " Default: ";
/// Keys that every upstream has for itself.
const OF_THE_UPSTREAM: &[&str] = &["endpoints", "default"];

/// The schema, printed.
pub(super) fn print() -> String {
    let mut schema = with_defaults();
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("$schema".to_owned(), DRAFT.into());
        schema.insert("title".to_owned(), "roadstead's configuration".into());
    }
    format!("{schema:#}\n")
}

/// The schema of a table.
pub(super) fn of_table(keys: &[Key]) -> Json {
    let properties: Map<String, Json> = keys
        .iter()
        .map(|key| {
            let mut schema = (key.schema)();
            if let Some(schema) = schema.as_object_mut() {
                schema.insert("description".to_owned(), key.about.trim().into());
            }
            (key.name.to_owned(), schema)
        })
        .collect();
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

/// The schema of a table that must have this key.
pub(super) fn requiring(mut table: Json, key: &str) -> Json {
    if let Some(table) = table.as_object_mut() {
        table.insert("required".to_owned(), json!([key]));
    }
    table
}

/// The schema with the default of each key that has one, written as people write it.
fn with_defaults() -> Json {
    let mut schema = File::schema();
    let example: toml::Table = EXAMPLE.parse().unwrap_or_default();
    for (table, keys) in &example {
        let (path, keys) = match table.as_str() {
            "upstream" => ("upstream/additionalProperties", keys.get(WHOLE_UPSTREAM)),
            table => (table, Some(keys)),
        };
        let Some(properties) = schema.pointer_mut(&format!("/properties/{path}/properties")) else {
            continue;
        };
        for (key, value) in keys.and_then(toml::Value::as_table).into_iter().flatten() {
            let is_own = table == "upstream" && OF_THE_UPSTREAM.contains(&key.as_str());
            let key = properties.get_mut(key).and_then(Json::as_object_mut);
            if let (Some(key), Ok(value), false) = (key, serde_json::to_value(value), is_own) {
                key.insert("default".to_owned(), value);
            }
        }
    }
    schema
}

/// The tables of keys, each with the path of its table (`*` for an upstream's name): first the file's own, then those of
/// the tables that stand in arrays, each once.
fn tables() -> Vec<(String, Vec<Row>)> {
    let mut told: Vec<(String, Vec<Row>)> = Vec::new();
    let mut seen: Vec<*const Key> = Vec::new();
    let mut waiting: VecDeque<(String, &'static [Key])> = [(String::new(), File::KEYS)].into();
    while let Some((path, keys)) = waiting.pop_front() {
        if seen.contains(&keys.as_ptr()) {
            continue;
        }
        seen.push(keys.as_ptr());
        let mut rows = Vec::new();
        rows_of(keys, &path, &mut rows, &mut waiting);
        told.push((path, rows));
    }
    told
}

/// A key as it is told.
struct Row {
    path: String,
    key: &'static Key,
    /// A list of tables that is nothing but its keys.
    is_list: bool,
}

fn rows_of(
    keys: &'static [Key],
    path: &str,
    rows: &mut Vec<Row>,
    waiting: &mut VecDeque<(String, &'static [Key])>,
) {
    for key in keys {
        let path = join(path, key.name);
        let schema = (key.schema)();
        if schema.get("properties").is_some() {
            rows_of(key.keys, &path, rows, waiting);
        } else if schema
            .get("additionalProperties")
            .is_some_and(|it| !key.keys.is_empty() && it.is_object())
        {
            rows_of(key.keys, &format!("{path}.*"), rows, waiting);
        } else {
            if !key.keys.is_empty() {
                waiting.push_back((path.clone(), key.keys));
            }
            let is_list = schema.pointer("/items/properties").is_some();
            rows.push(Row { path, key, is_list });
        }
    }
}

/// Every key, with `*` for the name of an upstream.
pub(super) fn known_keys() -> Vec<String> {
    let rows = tables().into_iter().flat_map(|(_, rows)| rows);
    let keys = rows.filter(|row| !row.is_list);
    keys.map(|row| row.path).collect()
}

/// The tables of keys and variables for the documentation, in Markdown.
pub(super) fn reference() -> String {
    let schema = with_defaults();
    let mut out = String::new();
    for (path, rows) in tables() {
        // Writing to a String cannot fail.
        if !path.is_empty() {
            writeln!(out, "\n### Tables of `{}`\n", shown(&path)).ok();
        }
        out.push_str("| key | default | meaning |\n| --- | --- | --- |\n");
        for Row { path, key, is_list } in rows {
            let (meaning, said) = told(key.about.trim());
            let default = default_of(&schema, &path).map(|it| format!("`{it}`"));
            let default = default.or(said).unwrap_or_else(|| "none".to_owned());
            let path = shown(&path);
            let path = if is_list { format!("[[{path}]]") } else { path };
            writeln!(out, "| `{path}` | {default} | {meaning} |").ok();
        }
    }
    out.push_str("\n### Environment variables\n\n| variable | key |\n| --- | --- |\n");
    let mut variables = Vec::new();
    variables_of(&schema, "", &mut variables);
    for variable in variables {
        let key = variable.to_ascii_lowercase().replace("__", ".");
        writeln!(out, "| `ROADSTEAD_{variable}` | `{key}` |").ok();
    }
    let upstream = "| `ROADSTEAD_UPSTREAM__NAME__KEY` | `upstream.\"NAME\".KEY`: every key but `credentials` |";
    writeln!(out, "{upstream}").ok();
    out
}

/// A meaning without its last sentence, if that says the default; and the default.
fn told(about: &str) -> (&str, Option<String>) {
    if let Some((meaning, default)) = about.rsplit_once(DEFAULT) {
        return (meaning, Some(default.trim_end_matches('.').to_owned()));
    }
    let Some((meaning, when)) = about.rsplit_once(REQUIRED) else {
        return (about, None);
    };
    (
        meaning,
        Some(format!("required{}", when.trim_end_matches('.'))),
    )
}

/// A path as it is written in a file.
fn shown(path: &str) -> String {
    path.replace(".*", ".\"NAME\"")
}

/// The default of a key, as TOML without its quotes.
fn default_of(schema: &Json, path: &str) -> Option<String> {
    let default = schema_of(schema, path.split('.')).get("default")?;
    Some(default.as_str().map_or_else(
        || default.to_string().replace("\",\"", "\", \""),
        str::to_owned,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_sentence_may_say_the_default() {
        assert_eq!(told("A file."), ("A file.", None));
        for (about, meaning, default) in [
            ("A file. Required.", "A file.", "required"),
            (
                "A file. Required, unless there is a `pair`.",
                "A file.",
                "required, unless there is a `pair`",
            ),
            (
                "A flag. More. Default: `false`.",
                "A flag. More.",
                "`false`",
            ),
        ] {
            assert_eq!(told(about), (meaning, Some(default.to_owned())));
        }
    }
}
