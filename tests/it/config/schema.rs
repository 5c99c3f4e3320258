//! The JSON Schema, and the documentation that is made of it.

use std::fmt::Write as _;

use regex::Regex;
use roadstead::config::Config;
use serde_json::Value as Json;

use super::{EXAMPLE, REFUSED, file, recipes::RECIPES};

const REFERENCE: &str = "docs/reference/configuration-keys.md";
/// Between these lines the reference is made of the schema.
const BEGIN: &str =
    "<!-- made of the schema: UPDATE_REFERENCE=1 cargo test --test it reference -->\n";
const END: &str = "<!-- end -->\n";

/// Words of JSON Schema that say nothing against a value.
const ABOUT: &[&str] = &["$schema", "title", "description", "default"];

/// Says what a schema has against a value, in the words that ours uses.
fn against(schema: &Json, value: &Json, path: &str, errors: &mut Vec<String>) {
    for (word, of) in schema.as_object().unwrap() {
        match word.as_str() {
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    against(of, item, path, errors);
                }
            }
            "properties" | "additionalProperties" | "propertyNames" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    against_key(schema, word, key, value, &format!("{path}.{key}"), errors);
                }
            }
            word if !ABOUT.contains(&word) && !fits(word, of, value) => {
                errors.push(format!("{path}: {word}"));
            }
            _ => {}
        }
    }
}

fn against_key(
    schema: &Json,
    word: &str,
    key: &str,
    value: &Json,
    path: &str,
    errors: &mut Vec<String>,
) {
    let known = schema.pointer(&format!("/properties/{key}"));
    match (word, known, &schema[word]) {
        ("properties", Some(known), _) => against(known, value, path, errors),
        ("propertyNames", _, names) => against(names, &Json::from(key), path, errors),
        ("additionalProperties", None, Json::Bool(false)) => {
            errors.push(format!("{path}: unknown key"));
        }
        ("additionalProperties", None, any) => against(any, value, path, errors),
        _ => {}
    }
}

/// Whether a value is as a word demands that says nothing of what is inside of it.
fn fits(word: &str, of: &Json, value: &Json) -> bool {
    let list = || of.as_array().unwrap();
    match word {
        "type" => {
            let one = std::slice::from_ref(of);
            let mut names = of.as_array().map_or(one, Vec::as_slice).iter();
            names.any(|name| is(value, name.as_str().unwrap()))
        }
        "enum" => list().contains(value),
        "pattern" => value
            .as_str()
            .is_none_or(|text| Regex::new(of.as_str().unwrap()).unwrap().is_match(text)),
        "minLength" => value
            .as_str()
            .is_none_or(|text| text.len() as u64 >= of.as_u64().unwrap()),
        "minItems" => value
            .as_array()
            .is_none_or(|items| items.len() as u64 >= of.as_u64().unwrap()),
        "minimum" => value
            .as_f64()
            .is_none_or(|number| number >= of.as_f64().unwrap()),
        "maximum" => value
            .as_f64()
            .is_none_or(|number| number <= of.as_f64().unwrap()),
        "required" => value.as_object().is_none_or(|table| {
            list()
                .iter()
                .all(|key| table.contains_key(key.as_str().unwrap()))
        }),
        "anyOf" => list().iter().any(|one| {
            let mut errors = Vec::new();
            against(one, value, "", &mut errors);
            errors.is_empty()
        }),
        word => panic!("{word} is not known here"),
    }
}

fn is(value: &Json, kind: &str) -> bool {
    match kind {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => panic!("{kind}"),
    }
}

/// What the schema says against a file.
fn judge(text: &str) -> Vec<String> {
    let schema: Json = serde_json::from_str(&Config::schema()).unwrap();
    let value: toml::Table = text.parse().unwrap();
    let mut errors = Vec::new();
    against(
        &schema,
        &serde_json::to_value(value).unwrap(),
        "",
        &mut errors,
    );
    errors
}

#[test]
fn it_takes_the_example_and_every_recipe() {
    assert_eq!(judge(EXAMPLE), Vec::<String>::new());
    let lines = EXAMPLE.lines().map(|line| {
        let bare = line
            .strip_prefix('#')
            .filter(|rest| !rest.starts_with([' ', ':']));
        bare.unwrap_or(line)
    });
    let mut whole = String::new();
    for line in lines.filter(|line| !line.starts_with("endpoints = [{")) {
        writeln!(whole, "{line}").unwrap();
    }
    assert_eq!(judge(&whole), Vec::<String>::new());
    for block in RECIPES.split("```toml\n").skip(1) {
        let (text, _) = block.split_once("```").unwrap();
        assert_eq!(judge(text), Vec::<String>::new(), "{text}");
    }
    assert_eq!(judge(&file("").unwrap().to_toml()), Vec::<String>::new());
}

#[test]
fn it_refuses_what_it_can_see() {
    let mut seen = 0;
    let cases = REFUSED.split("--- ").skip(1);
    for (message, text) in cases.filter_map(|case| case.split_once('\n')) {
        let Ok(value) = text.parse::<toml::Table>() else {
            continue;
        };
        // Which keys a kind of login takes, and what another key forbids, is told by roadstead itself.
        let is_unknown = message.contains("unknown key") && !message.contains(".credentials.");
        let is_kind = message.contains("must be ")
            && !message.contains("at most")
            && !message.contains("at least");
        let has_date = value.values().any(|it| it.to_string().contains("1979"));
        if has_date || !(is_unknown || is_kind) || message.contains("more than 0") {
            continue;
        }
        assert_ne!(judge(text), Vec::<String>::new(), "{message}\n{text}");
        seen += 1;
    }
    assert!(seen > 25, "{seen}");
    assert_eq!(
        judge("[cache]\nmax_sise = 1\n"),
        [".cache.max_sise: unknown key"]
    );
    assert_eq!(judge("[tags]\nttl = 60\n"), [".tags.ttl: maximum"]);
}

#[test]
fn it_knows_defaults_and_meanings() {
    let schema: Json = serde_json::from_str(&Config::schema()).unwrap();
    let at = |path: &str| schema.pointer(path).unwrap();
    assert_eq!(
        at("/$schema"),
        "https://json-schema.org/draft/2020-12/schema"
    );
    let max_size = at("/properties/cache/properties/max_size");
    assert_eq!(max_size["default"], "50GB");
    assert!(
        max_size["description"]
            .as_str()
            .unwrap()
            .contains("--cache-size")
    );
    assert_eq!(
        at("/properties/tags/properties/stale_on/default"),
        &serde_json::json!(["unreachable", "5xx", "429"])
    );
    let upstream = at("/properties/upstream/additionalProperties/properties");
    assert_eq!(upstream["parallel"]["default"], 4);
    assert_eq!(
        upstream["strategy"]["enum"],
        serde_json::json!(["ordered", "fastest"])
    );
    assert!(
        upstream["endpoints"].get("default").is_none(),
        "each has its own"
    );
}

/// Defaults of tables that are not there by default, which the example cannot hold.
#[test]
fn the_reference_says_the_defaults_of_tables_that_are_not_there() {
    let written = "[server.tls]\ncert = \"/c\"\nkey = \"/k\"\nclient_ca = \"/ca\"\n\
        [[server.listener]]\naddress = \":5000\"\n[[server.listener]]\naddress = \":5002\"\n\
        [access]\n[audit]\npath = \"/a\"\n[telemetry.otlp]\nendpoint = \"http://c:4318\"\n";
    let config: toml::Table = file(written).unwrap().to_toml().parse().unwrap();
    let reference = Config::reference();
    for key in [
        "server.tls.client_auth",
        "server.listener.tls",
        "server.listener.access",
        "server.listener.proxy_protocol",
        "access.mode",
        "access.admin",
        "audit.max_size",
        "audit.keep",
        "telemetry.otlp.sample",
        "telemetry.otlp.timeout",
    ] {
        let (table, name) = key.rsplit_once('.').unwrap();
        let table = table.split('.').fold(&config, |table, name| {
            let table = &table[name];
            let table = table.as_array().map_or(table, |tables| &tables[0]);
            table.as_table().unwrap()
        });
        let value = &table[name];
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        let row = format!("| `{key}` | `{value}`");
        assert!(reference.contains(&row), "no {row}");
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "it writes the documentation, and no store"
)]
fn the_reference_is_made_of_it() {
    let page = std::fs::read_to_string(REFERENCE).unwrap();
    let (head, rest) = page.split_once(BEGIN).expect("the first marker");
    let (_, tail) = rest.split_once(END).expect("the second marker");
    let made = format!("{head}{BEGIN}{}{END}{tail}", Config::reference());
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(REFERENCE, made).unwrap();
        return;
    }
    assert!(
        page == made,
        "{REFERENCE} is old: UPDATE_REFERENCE=1 cargo test --test it reference"
    );
}
