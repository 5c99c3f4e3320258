//! The documentation: the recipes of `docs/upstreams.md` and the examples of `docs/access.md` are configurations, and the table of configuration keys
//! has every key.

use roadstead::config::{Config, Overrides};

use super::Written;

pub(super) const RECIPES: &str = include_str!("../../../docs/upstreams.md");
const ACCESS: &str = include_str!("../../../docs/access.md");
const KEYS: &str = include_str!("../../../docs/reference/configuration-keys.md");

#[test]
fn the_table_of_keys_has_every_key() {
    for key in Config::known_keys() {
        let nested = key.matches('.').count() > 2
            || [
                "tags.rule.",
                "cache.pin.",
                "hosted.namespace.",
                "hosted.immutable.",
                "hosted.expire.",
                "hosted.overlay.",
            ]
            .iter()
            .any(|it| key.starts_with(it));
        let key = key.replace("upstream.*.", "upstream.\"NAME\".");
        assert!(nested || KEYS.contains(&format!("`{key}`")), "{key}");
    }
}

#[test]
fn every_recipe_can_be_used_as_it_stands() {
    let mut count = 0;
    for block in RECIPES.split("```toml\n").skip(1) {
        let (text, _) = block.split_once("```").expect("a fence that ends");
        let written = Written::new("").with("file", "text of a file\n");
        let file = written.dir.path().join("file");
        let text = with_files(text, file.to_str().unwrap());
        let variables: Vec<_> = text.lines().filter_map(variable).collect();
        let variables: Vec<_> = variables.iter().map(|name| (&**name, "text")).collect();
        let written = written.with("config.toml", &text);
        let config = written.load(&variables, Overrides::default());
        config.unwrap_or_else(|why| panic!("{why} in:\n{text}"));
        count += 1;
    }
    assert!(count >= 20, "{count} recipes");
}

/// Examples of `docs/access.md`: blocks that begin with a table. Some end in a comment, and then in another example.
#[test]
fn every_example_of_access_can_be_used_as_it_stands() {
    let mut count = 0;
    for block in blocks(ACCESS) {
        // Commands may stand before it.
        let lines = block.lines().skip_while(|line| !line.starts_with('['));
        let block = lines.collect::<Vec<_>>().join("\n");
        if block.is_empty() {
            continue;
        }
        let written = Written::new(&block);
        let config = written.load(&[], Overrides::default());
        config.unwrap_or_else(|why| panic!("{why} in:\n{block}"));
        count += 1;
    }
    assert!(count >= 12, "{count} examples");
}

/// Blocks of code that are indented; where a line of a comment begins an example anew, each by itself.
fn blocks(page: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in page.lines() {
        let code = line.strip_prefix("    ").or(line.is_empty().then_some(""));
        let block = blocks.last_mut().unwrap();
        match code {
            Some(code) if code.starts_with("# ") && block.contains("\n[") => {
                blocks.push(format!("{code}\n"));
            }
            Some(code) => block.extend([code, "\n"]),
            None if block.trim().is_empty() => block.clear(),
            None => blocks.push(String::new()),
        }
    }
    let blocks = blocks.into_iter();
    blocks.filter(|block| !block.trim().is_empty()).collect()
}

/// Every absolute path replaced by one of a file that exists.
fn with_files(text: &str, file: &str) -> String {
    let mut parts = text.split("\"/");
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (_, rest) = part.split_once('"').unwrap();
        whole.extend(["\"", file, "\"", rest]);
    }
    whole
}

/// The variable that a line's `password_env` names.
fn variable(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("_env = \"")?;
    rest.split('"').next().map(str::to_owned)
}
