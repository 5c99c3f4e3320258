//! Lays the flags and the environment over the file, before it is read: what comes of it is one document, whose values
//! know their [`Origin`].

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::environment::{Environment, PREFIX, environment};
use super::error::{Problem, Shown, suggestion};
use super::keys::{File, Upstream};
use super::origin::{Origin, Origins};
use super::overrides::Overrides;
use super::table::{Read as _, in_order};
use super::{defaults, renamed};

/// The log filter, which is no key.
const LOG_FILTER: &str = "LOG";
/// Variables of commands, which are no keys either.
const OF_COMMANDS: [&str; 6] = [
    "ADMIN",
    "ADMIN_CA",
    "ADMIN_CERT",
    "ADMIN_KEY",
    "SERVER",
    "TOKEN",
];

/// A file over which the other layers are laid.
pub(super) struct Layers<'i> {
    pub(super) table: DeTable<'i>,
    pub(super) origins: Origins,
    pub(super) problems: Vec<Problem>,
    /// The file's own upstreams, where flags name others instead. They must make sense all the same.
    pub(super) replaced: Option<Spanned<DeValue<'i>>>,
    /// Notes on names that are old.
    pub(super) notes: Vec<(Origin, String)>,
}

/// The meaning of a variable.
enum Target {
    Key(Vec<String>),
    Unknown,
}

impl<'i> Layers<'i> {
    /// The file with the environment and the flags laid over it, and the built-in upstreams where neither names any.
    pub(super) fn lay(
        file: DeTable<'i>,
        origins: Origins,
        environment: &Environment,
        flags: &Overrides,
    ) -> Self {
        let mut layers = Self {
            table: file,
            origins,
            problems: Vec::new(),
            replaced: None,
            notes: Vec::new(),
        };
        renamed::rename(&mut layers, renamed::KEYS);
        if !flags.upstream.is_empty() {
            layers.replaced = layers.table.remove("upstream");
            layers.lay_upstreams(&flags.upstream);
        } else if layers.has_no_upstreams() {
            let built_in = defaults::UPSTREAMS.iter();
            let built_in = built_in.map(|(name, url)| ((*name).to_owned(), *url));
            layers.set_upstreams(built_in.collect(), &Origin::Default);
        }
        layers.lay_environment(environment);
        layers.lay_flags(flags);
        layers
    }

    fn has_no_upstreams(&self) -> bool {
        self.table.get("upstream").is_none_or(|it| {
            let table = it.get_ref().as_table();
            table.is_some_and(DeTable::is_empty)
        })
    }

    fn report(&mut self, origin: &Origin, why: impl Into<String>) {
        self.problems.push(Problem::new(origin, "", why));
    }

    /// Sets a key unless a stronger layer has set it. A table that is something else is left, to be refused.
    fn put(&mut self, path: &[String], value: DeValue<'i>, origin: &Origin) {
        let Some((key, tables)) = path.split_last() else {
            return;
        };
        let mut table = &mut self.table;
        for name in tables {
            let span = self.origins.span(origin.clone());
            let inner = table
                .entry(Spanned::new(span.clone(), name.clone().into()))
                .or_insert_with(|| Spanned::new(span, DeValue::Table(DeTable::new())));
            let DeValue::Table(inner) = inner.get_mut() else {
                return;
            };
            table = inner;
        }
        let span = self.origins.span(origin.clone());
        let value = Spanned::new(span.clone(), value);
        match table.get_mut(key.as_str()) {
            None => {
                table.insert(Spanned::new(span, key.clone().into()), value);
            }
            Some(set) if self.origins.of(set.span().start).layer() > origin.layer() => {}
            Some(set) => *set = value,
        }
    }

    /// Replaces all upstreams. docker.io is the default among them, unless a stronger layer says otherwise.
    fn set_upstreams(&mut self, upstreams: Vec<(String, &str)>, origin: &Origin) {
        self.table.remove("upstream");
        for (name, urls) in upstreams {
            let path = |key: &str| ["upstream".to_owned(), name.clone(), key.to_owned()];
            let urls = self.list(urls, origin);
            self.put(&path("endpoints"), urls, origin);
            if name.eq_ignore_ascii_case(defaults::DEFAULT_UPSTREAM) {
                self.put(&path("default"), DeValue::Boolean(true), &Origin::Default);
            }
        }
    }

    /// The upstreams of `--upstream NAME=URL[,URL…]`.
    fn lay_upstreams(&mut self, flags: &[String]) {
        let origin = Origin::Flag("--upstream");
        let mut upstreams: Vec<(String, &str)> = Vec::new();
        for flag in flags {
            match flag.split_once('=') {
                None => self.report(&origin, format!("{} is not NAME=URL[,URL…]", Shown(flag))),
                Some((name, _)) if upstreams.iter().any(|(other, _)| other == name) => {
                    let problem =
                        Problem::new(&origin, format!("upstream.{name:?}"), "is given twice");
                    self.problems.push(problem.and(&origin));
                }
                Some((name, urls)) => upstreams.push((name.to_owned(), urls)),
            }
        }
        self.set_upstreams(upstreams, &origin);
    }

    /// Text with commas, which is how a list is written outside of a file.
    fn list(&mut self, text: &str, origin: &Origin) -> DeValue<'i> {
        let mut list = DeArray::new();
        let items = text.split(',').map(str::trim);
        for item in items.filter(|item| !item.is_empty()) {
            let span = self.origins.span(origin.clone());
            list.push(Spanned::new(span, DeValue::String(item.to_owned().into())));
        }
        DeValue::Array(list)
    }

    fn lay_environment(&mut self, variables: &Environment) {
        let schema = File::schema();
        let mut unknown = Vec::new();
        for (variable, key) in variables.ours() {
            let origin = environment(variable);
            let now = renamed::variable(key, renamed::KEYS);
            if let Some((now, until)) = &now {
                let note = format!(
                    "{variable}: is called {PREFIX}{now} now; the old name works until version {until}"
                );
                self.notes.push((origin.clone(), note));
            }
            let name = now.as_ref().map_or(key, |(now, _)| now);
            let path = match self.target(name, &schema) {
                Ok(Target::Key(path)) => path,
                Ok(Target::Unknown) => {
                    unknown.push((origin, key, variable));
                    continue;
                }
                Err(why) => {
                    self.report(&origin, why);
                    continue;
                }
            };
            match variables.text(variable) {
                Err(why) => self.report(&origin, why),
                Ok(text) if is_list(schema_of(&schema, path.iter())) => {
                    let list = self.list(&text, &origin);
                    self.put(&path, list, &origin);
                }
                Ok(text) => self.put(&path, DeValue::String(text.into()), &origin),
            }
        }
        // Only now, when the environment may have set a `password_env`, is it known what that names.
        for (origin, key, variable) in unknown {
            let text = variables.text(variable).unwrap_or_default();
            if !is_named(&self.table, key) && !is_somebody_elses(key, &text) {
                let meant = self.meant(key, &schema);
                let meant = meant.map(|meant| format!("; did you mean {PREFIX}{meant}?"));
                let why = format!("no key has this name{}", meant.unwrap_or_default());
                self.report(&origin, why);
            }
        }
    }

    /// The key that a variable means.
    fn target(&self, variable: &str, schema: &Json) -> Result<Target, String> {
        let is_upper = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        if !variable.chars().all(is_upper) {
            return Ok(Target::Unknown);
        }
        let Some((path, key)) = variable.rsplit_once("__") else {
            return Ok(Target::Unknown);
        };
        let key = key.to_ascii_lowercase();
        let Some(upstream) = path.strip_prefix("UPSTREAM__") else {
            let path = path.to_ascii_lowercase();
            let mut path: Vec<String> = path.split("__").map(str::to_owned).collect();
            path.push(key);
            let is_key = is_settable(schema_of(schema, path.iter())) && path.len() > 1;
            return Ok(if is_key {
                Target::Key(path)
            } else {
                Target::Unknown
            });
        };
        if !Upstream::NAMES.contains(&key.as_str()) {
            return Ok(Target::Unknown);
        }
        if key == "credentials" {
            let why =
                "credentials can only be set in a file; a variable can set username and password";
            return Err(why.to_owned());
        }
        let names = self.upstream_names();
        let matching = names.iter().filter(|name| variable_of(name) == upstream);
        let matching: Vec<&String> = matching.collect();
        match matching.as_slice() {
            [] => Err("no upstream of this name is configured".to_owned()),
            [only] => Ok(Target::Key(vec![
                "upstream".to_owned(),
                (*only).clone(),
                key,
            ])),
            several => {
                let names: Vec<_> = several.iter().map(|name| format!("{name:?}")).collect();
                Err(format!(
                    "may mean any of the upstreams {}",
                    names.join(", ")
                ))
            }
        }
    }

    /// The names of the upstreams, in the order of the file.
    fn upstream_names(&self) -> Vec<String> {
        let upstreams = self.table.get("upstream");
        let upstreams = upstreams.and_then(|upstreams| upstreams.get_ref().as_table());
        let entries = upstreams.map(in_order).unwrap_or_default();
        let names = entries.iter();
        names.map(|(name, _)| name.get_ref().to_string()).collect()
    }

    /// The variable that a misspelt one was most likely meant to be.
    fn meant(&self, key: &str, schema: &Json) -> Option<String> {
        let mut known = Vec::new();
        variables_of(schema, "", &mut known);
        for name in self.upstream_names() {
            let upstream = variable_of(&name);
            let keys = Upstream::NAMES.iter().filter(|key| **key != "credentials");
            let keys =
                keys.map(|key| format!("UPSTREAM__{upstream}__{}", key.to_ascii_uppercase()));
            known.extend(keys);
        }
        // A single underscore where two belong is one error and not several.
        let squeezed = |name: &str| name.to_lowercase().replace("__", "_");
        let same = known.iter().find(|name| squeezed(name) == squeezed(key));
        if let Some(same) = same {
            return Some(same.clone());
        }
        let (table, last) = key.rsplit_once("__")?;
        let beside = known.iter().filter_map(|name| name.rsplit_once("__"));
        let beside: Vec<(&str, String)> = beside
            .map(|(other, last)| (other, last.to_ascii_lowercase()))
            .collect();
        let of = |table: &str| {
            let keys = beside.iter().filter(|(other, _)| *other == table);
            suggestion(last, keys.map(|(_, key)| key.as_str())).map(str::to_ascii_uppercase)
        };
        if let Some(meant) = of(table) {
            return Some(format!("{table}__{meant}"));
        }
        let tables: Vec<String> = beside
            .iter()
            .map(|(table, _)| table.to_ascii_lowercase())
            .collect();
        let table = suggestion(table, tables.iter().map(String::as_str))?.to_ascii_uppercase();
        let meant = of(&table)?;
        Some(format!("{table}__{meant}"))
    }

    fn lay_flags(&mut self, flags: &Overrides) {
        for (flag, value, table, key) in [
            ("--listen", &flags.listen, "server", "listen"),
            (
                "--admin-listen",
                &flags.admin_listen,
                "server",
                "admin_listen",
            ),
            ("--state-dir", &flags.state_dir, "state", "dir"),
            ("--cache-dir", &flags.cache_dir, "cache", "dir"),
            ("--cache-size", &flags.cache_size, "cache", "max_size"),
            ("--log-format", &flags.log_format, "log", "format"),
            ("--log-level", &flags.log_level, "log", "level"),
        ] {
            if let Some(value) = value {
                let path = [table.to_owned(), key.to_owned()];
                let value = DeValue::String(value.clone().into());
                self.put(&path, value, &Origin::Flag(flag));
            }
        }
        let Some(chosen) = &flags.default_upstream else {
            return;
        };
        let origin = Origin::Flag("--default-upstream");
        let names = self.upstream_names();
        if !names.iter().any(|name| name.eq_ignore_ascii_case(chosen)) {
            let (chosen, known) = (Shown(chosen), names.join(", "));
            let why = format!("{chosen} is not configured; configured: {known}");
            self.report(&origin, why);
            return;
        }
        for name in names {
            let value = DeValue::Boolean(name.eq_ignore_ascii_case(chosen));
            let path = ["upstream".to_owned(), name, "default".to_owned()];
            self.put(&path, value, &origin);
        }
    }
}

/// The schema of a key; any name of an upstream stands for all.
pub(super) fn schema_of(schema: &Json, path: impl Iterator<Item = impl AsRef<str>>) -> &Json {
    path.fold(schema, |schema, name| {
        let named = schema.get("properties");
        let named = named.and_then(|keys| keys.get(name.as_ref()));
        let any = || {
            schema
                .get("additionalProperties")
                .filter(|any| any.is_object())
        };
        named.or_else(any).unwrap_or(&Json::Null)
    })
}

fn is_list(schema: &Json) -> bool {
    schema.get("type").is_some_and(|kind| kind == "array")
}

/// True if a variable can say it: no tables, and no lists of them.
fn is_settable(schema: &Json) -> bool {
    let is_table = |schema: &Json| schema.get("type").is_some_and(|kind| kind == "object");
    !schema.is_null() && !is_table(schema) && !schema.get("items").is_some_and(is_table)
}

/// The variables of the keys below a table, without the prefix; upstreams' are not among them.
pub(super) fn variables_of(schema: &Json, path: &str, variables: &mut Vec<String>) {
    let keys = schema.get("properties").and_then(Json::as_object);
    for (name, schema) in keys.into_iter().flatten() {
        let path = match path {
            "" => name.to_ascii_uppercase(),
            _ => format!("{path}__{}", name.to_ascii_uppercase()),
        };
        match schema.get("properties") {
            Some(_) => variables_of(schema, &path, variables),
            None if is_settable(schema) => variables.push(path),
            None => {}
        }
    }
}

/// The part of a variable's name that stands for an upstream: `DOCKER_IO`.
fn variable_of(name: &str) -> String {
    let upper = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    name.chars().map(upper).collect()
}

/// True if a `password_env` or another key of that kind names this variable. Tables are not nested deeper than the
/// parser allows.
fn is_named(table: &DeTable<'_>, variable: &str) -> bool {
    table
        .iter()
        .any(|(key, value)| names(key.get_ref(), value.get_ref(), variable))
}

fn names(key: &str, value: &DeValue<'_>, variable: &str) -> bool {
    if let Some(table) = value.as_table() {
        return is_named(table, variable);
    }
    if let Some(items) = value.as_array() {
        return items
            .iter()
            .any(|item| names(key, item.get_ref(), variable));
    }
    let text = value.as_str().and_then(|text| text.strip_prefix(PREFIX));
    key.ends_with("_env") && text == Some(variable)
}

/// True if a variable that looks like a key is none: the log filter, where commands find a server, or one that Kubernetes sets in
/// every pod beside a Service called `roadstead` or `roadstead-…` (`ROADSTEAD_SERVICE_HOST`,
/// `ROADSTEAD_PORT=tcp://…`, `ROADSTEAD_PORT_5000_TCP_ADDR`, …). Refusing these would keep a pod
/// from starting as soon as its own Service exists.
fn is_somebody_elses(key: &str, text: &str) -> bool {
    let transports = ["TCP", "UDP", "SCTP"];
    let is_url = || {
        let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
        transports.contains(&scheme.to_ascii_uppercase().as_str())
    };
    let service = format!("_{key}");
    let of_service = service.ends_with("_SERVICE_HOST")
        || service.ends_with("_SERVICE_PORT")
        || service.contains("_SERVICE_PORT_")
        || (service.ends_with("_PORT") && is_url())
        || service.match_indices("_PORT_").any(|(at, separator)| {
            let rest = service.get(at + separator.len()..).unwrap_or_default();
            let (number, rest) = rest.split_once('_').unwrap_or_default();
            number.parse::<u16>().is_ok() && transports.iter().any(|kind| rest.starts_with(kind))
        });
    OF_COMMANDS.contains(&key) || key == LOG_FILTER || (of_service && !key.contains("__"))
}
