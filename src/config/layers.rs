//! Lays the environment and the flags over the file.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::error::{Problem, Shown};
use super::raw::{File, Leaf, Named, Origin, Upstream, Upstreams, Value};
use super::{Overrides, defaults};

/// The process's environment, as far as configuration may look at it.
pub(super) struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// Takes every variable: `password_env` may name any of them.
    pub(super) fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let named = variables
            .into_iter()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value));
        Self(named.collect())
    }

    /// The text of a variable.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn text(&self, name: &str) -> Result<String, String> {
        let value = self.0.get(name).ok_or("is not set")?;
        let text = value.to_str().ok_or("is not UTF-8 text")?;
        Ok(text.to_owned())
    }

    /// The text of a variable that other programs read too, such as `HTTPS_PROXY`. A blank one counts
    /// as not set.
    ///
    /// # Errors
    /// That it is not text.
    pub(super) fn vendors(&self, name: &str) -> Result<Option<String>, Problem> {
        if !self.0.contains_key(name) {
            return Ok(None);
        }
        let origin = Origin::Environment(name.to_owned());
        let text = self.text(name);
        let text = text.map_err(|why| Problem::new(&origin, "", why))?;
        let text = text.trim();
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    /// Our variables, without the prefix.
    fn ours(&self) -> impl Iterator<Item = (&str, &str)> {
        let names = self.0.keys().map(String::as_str);
        names.filter_map(|name| Some((name, name.strip_prefix(PREFIX)?)))
    }
}

/// The file with the environment and the flags laid over it, and the built-in upstreams where
/// neither names any.
pub(super) fn lay(
    mut file: File,
    environment: &Environment,
    flags: &Overrides,
) -> Result<File, Problem> {
    if !flags.upstream.is_empty() {
        file.upstream = upstreams_of_flags(&flags.upstream)?;
    } else if file.upstream.0.is_empty() {
        file.upstream = defaults::upstreams();
    }
    lay_environment(&mut file, environment)?;
    lay_flags(&mut file, flags)?;
    Ok(file)
}

fn lay_environment(file: &mut File, environment: &Environment) -> Result<(), Problem> {
    let mut unknown = Vec::new();
    for (variable, key) in environment.ours() {
        let origin = Origin::Environment(variable.to_owned());
        let Some(slot) = slot_of_variable(file, key, &origin)? else {
            unknown.push((origin, key, variable));
            continue;
        };
        let text = environment.text(variable);
        let text = text.map_err(|why| Problem::new(&origin, "", why))?;
        put(slot, Leaf::text(text, origin));
    }
    // Only now, when the environment may have set a `password_env`, is it known what that names.
    for (origin, key, variable) in unknown {
        let text = environment.text(variable).unwrap_or_default();
        if !is_named(file, key) && !is_somebody_elses(key, &text) {
            return Err(Problem::new(&origin, "", "no key has this name"));
        }
    }
    Ok(())
}

/// The key that a variable means, if there is one.
fn slot_of_variable<'f>(
    file: &'f mut File,
    key: &str,
    origin: &Origin,
) -> Result<Option<&'f mut Option<Leaf>>, Problem> {
    let is_upper = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    if !key.chars().all(is_upper) {
        return Ok(None);
    }
    let Some((path, key)) = key.rsplit_once("__") else {
        return Ok(None);
    };
    let key = key.to_ascii_lowercase();
    let Some(upstream) = path.strip_prefix("UPSTREAM__") else {
        let table = path.to_ascii_lowercase().replace("__", ".");
        return Ok(file.slot(&table, &key));
    };
    if !Upstream::KEYS.contains(&key.as_str()) {
        return Ok(None);
    }
    if key == "credentials" {
        let why = "credentials can only be set in a file; a variable can set username and password";
        return Err(Problem::new(origin, "", why));
    }
    let named = |entry: &Named| variable_of(&entry.name) == upstream;
    let matching: Vec<String> = file
        .upstream
        .0
        .iter()
        .filter(|entry| named(entry))
        .map(|entry| format!("{:?}", entry.name))
        .collect();
    match matching.as_slice() {
        [] => Err(Problem::new(
            origin,
            "",
            "no upstream of this name is configured",
        )),
        [_] => {
            let entry = file.upstream.0.iter_mut().find(|entry| named(entry));
            Ok(entry.and_then(|entry| entry.keys.slot(&key)))
        }
        several => {
            let why = format!("may mean any of the upstreams {}", several.join(", "));
            Err(Problem::new(origin, "", why))
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

/// Whether a `password_env` or another key of that kind names this variable.
fn is_named(file: &File, key: &str) -> bool {
    file.upstream.0.iter().any(|entry| {
        let keys = Upstream::KEYS.iter();
        let mut given = keys.filter_map(|name| Some((*name, entry.keys.leaf(name)?)));
        given.any(|(name, leaf)| names(name, &leaf.value, key))
    })
}

/// Whether a value, or one inside of it, names this variable. Tables are not nested deeper than the
/// parser allows.
fn names(name: &str, value: &Value, key: &str) -> bool {
    match value {
        Value::Text(text) => name.ends_with("_env") && text.strip_prefix(PREFIX) == Some(key),
        Value::List(items) => items.iter().any(|item| names(name, &item.value, key)),
        Value::Table(table) => {
            let mut entries = table.iter();
            entries.any(|(name, leaf)| names(name, &leaf.value, key))
        }
        Value::Integer(_) | Value::Boolean(_) | Value::Other => false,
    }
}

/// Whether a variable that looks like a key is none: the log filter, where commands find a server, or one that Kubernetes sets in
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
    matches!(key, "LOG" | "ADMIN" | "SERVER") || (of_service && !key.contains("__"))
}

fn lay_flags(file: &mut File, flags: &Overrides) -> Result<(), Problem> {
    for (flag, value, table, key) in [
        ("--listen", &flags.listen, "server", "listen"),
        (
            "--admin-listen",
            &flags.admin_listen,
            "server",
            "admin_listen",
        ),
        ("--cache-dir", &flags.cache_dir, "cache", "dir"),
        ("--cache-size", &flags.cache_size, "cache", "max_size"),
        ("--log-format", &flags.log_format, "log", "format"),
        ("--log-level", &flags.log_level, "log", "level"),
    ] {
        if let (Some(value), Some(slot)) = (value, file.slot(table, key)) {
            put(slot, Leaf::text(value, Origin::Flag(flag)));
        }
    }
    let Some(name) = &flags.default_upstream else {
        return Ok(());
    };
    let origin = Origin::Flag("--default-upstream");
    let entries = &mut file.upstream.0;
    let Some(chosen) = entries
        .iter()
        .position(|entry| entry.name.eq_ignore_ascii_case(name))
    else {
        let known: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        let why = format!(
            "{} is not configured; configured: {}",
            Shown(name),
            known.join(", ")
        );
        return Err(Problem::new(&origin, "", why));
    };
    for (at, entry) in entries.iter_mut().enumerate() {
        let value = Value::Boolean(at == chosen);
        entry.keys.default = Some(Leaf {
            value,
            origin: origin.clone(),
        });
    }
    Ok(())
}

/// The upstreams of `--upstream NAME=URL[,URL…]`. docker.io is the default among them, as it is
/// without flags.
fn upstreams_of_flags(flags: &[String]) -> Result<Upstreams, Problem> {
    let origin = Origin::Flag("--upstream");
    let parse = |flag: &String| {
        let Some((name, urls)) = flag.split_once('=') else {
            let why = format!("{} is not NAME=URL[,URL…]", Shown(flag));
            return Err(Problem::new(&origin, "", why));
        };
        let default = name.eq_ignore_ascii_case(defaults::DEFAULT_UPSTREAM);
        Ok(Named {
            name: name.to_owned(),
            origin: origin.clone(),
            keys: Upstream {
                endpoints: Some(Leaf::text(urls, origin.clone())),
                // As weak as a built-in value, so that the environment may say otherwise.
                default: default.then_some(Leaf {
                    value: Value::Boolean(true),
                    origin: Origin::Default,
                }),
                ..Upstream::default()
            },
        })
    };
    flags
        .iter()
        .map(parse)
        .collect::<Result<_, _>>()
        .map(Upstreams)
}

/// Sets a value unless a stronger layer has set it.
fn put(slot: &mut Option<Leaf>, leaf: Leaf) {
    let stronger = |set: &Leaf| set.origin.layer() > leaf.origin.layer();
    if !slot.as_ref().is_some_and(stronger) {
        *slot = Some(leaf);
    }
}

/// What our variables begin with.
const PREFIX: &str = "ROADSTEAD_";
