//! From written upstreams to resolved ones.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::error::{Problem, Shown};
use super::layers::Environment;
use super::raw::{ENDPOINT_KEYS, Leaf, Named, Origin, Upstream, Value};
use super::{resolve_or, values};
use crate::oci::UpstreamName;
use crate::upstream;
use crate::upstream::{Config, EndpointConfig, LoginConfig, Parallel, Secret, Text};

/// Resolves every upstream, and checks what concerns several of them.
pub(super) fn resolve(
    entries: &[Named],
    environment: &Environment,
) -> Result<Vec<Config>, Problem> {
    let names = names(entries)?;
    let hosts = hosts(entries, &names)?;
    let default = default(entries)?;
    let mut upstreams = Vec::with_capacity(entries.len());
    for (at, ((entry, name), hosts)) in entries.iter().zip(names).zip(hosts).enumerate() {
        let key = |key: &str| format!("upstream.{:?}.{key}", entry.name);
        let keys = &entry.keys;
        let limit = |leaf: &Option<Leaf>, name: &str, default| {
            resolve_or(leaf.as_ref(), &key(name), values::time_limit, default)
        };
        upstreams.push(Config {
            default: default == Some(at),
            hosts,
            logins: credentials(keys, &key, environment)?.into_iter().collect(),
            connect_timeout: limit(
                &keys.connect_timeout,
                "connect_timeout",
                upstream::CONNECT_TIMEOUT,
            )?,
            header_timeout: resolve_or(
                keys.header_timeout.as_ref(),
                &key("header_timeout"),
                values::header_timeout,
                upstream::HEADER_TIMEOUT,
            )?,
            idle_timeout: limit(&keys.idle_timeout, "idle_timeout", upstream::IDLE_TIMEOUT)?,
            parallel: Parallel {
                connections: resolve_or(
                    keys.parallel.as_ref(),
                    &key("parallel"),
                    values::parallel,
                    Parallel::default().connections,
                )?,
                ..Parallel::default()
            },
            ..Config::of(name, endpoints(entry, &key("endpoints"))?)
        });
    }
    Ok(upstreams)
}

/// The names, each once: TOML refuses the same spelling twice, but names have no case.
fn names(entries: &[Named]) -> Result<Vec<UpstreamName>, Problem> {
    let mut seen: BTreeMap<UpstreamName, &Named> = BTreeMap::new();
    let mut names = Vec::with_capacity(entries.len());
    for entry in entries {
        let key = format!("upstream.{:?}", entry.name);
        let name = UpstreamName::parse(&entry.name).map_err(|_| {
            let why = "the name must be a host name or address with an optional port";
            Problem::new(&entry.origin, &key, why)
        })?;
        if let Some(first) = seen.insert(name.clone(), entry) {
            return Err(Problem::new(&entry.origin, key, "is given twice").and(&first.origin));
        }
        names.push(name);
    }
    Ok(names)
}

/// The `hosts` of each upstream in lower case. A request's `Host` must mean one upstream, and one
/// that is another upstream's name would be a trap.
fn hosts(entries: &[Named], names: &[UpstreamName]) -> Result<Vec<Vec<String>>, Problem> {
    let mut seen: BTreeMap<String, (&str, Origin)> = BTreeMap::new();
    let mut all = Vec::with_capacity(entries.len());
    for (entry, own) in entries.iter().zip(names) {
        let key = format!("upstream.{:?}.hosts", entry.name);
        let mut hosts = Vec::new();
        for leaf in items(entry.keys.hosts.as_ref(), &key)? {
            let problem = |why: String| Problem::new(&leaf.origin, &key, why);
            let host = values::text(&leaf.value).map_err(problem)?;
            // A Host header has the grammar of an upstream's name (RFC 9110 section 7.2).
            let name = UpstreamName::parse(&host).map_err(|_| {
                let shown = Shown(&host);
                problem(format!(
                    "{shown} is not a host name or address with an optional port"
                ))
            })?;
            if name != *own && names.contains(&name) {
                return Err(problem(format!(
                    "{} is the name of another upstream",
                    Shown(&host)
                )));
            }
            let host = name.as_str().to_owned();
            let first = seen.insert(host.clone(), (&entry.name, leaf.origin.clone()));
            if let Some((upstream, origin)) = first {
                let why = format!("{} already selects {upstream:?}", Shown(&host));
                return Err(problem(why).and(&origin));
            }
            hosts.push(host);
        }
        all.push(hosts);
    }
    Ok(all)
}

/// Which upstream is the default. One that says so in a stronger layer wins over one that says so in
/// a weaker; two in one layer are an error. Where none says anything, an only upstream is it.
fn default(entries: &[Named]) -> Result<Option<usize>, Problem> {
    let mut chosen: Option<(usize, &Leaf)> = None;
    for (at, entry) in entries.iter().enumerate() {
        let Some(leaf) = &entry.keys.default else {
            continue;
        };
        let key = format!("upstream.{:?}.default", entry.name);
        let says_so = values::boolean(&leaf.value);
        if !says_so.map_err(|why| Problem::new(&leaf.origin, &key, why))? {
            continue;
        }
        let layer = leaf.origin.layer();
        match chosen {
            Some((_, other)) if other.origin.layer() > layer => {}
            Some((first, other)) if other.origin.layer() == layer => {
                let name = entries.get(first).map_or("", |entry| &entry.name);
                let why = format!("{name:?} is the default too; only one can be");
                return Err(Problem::new(&leaf.origin, key, why).and(&other.origin));
            }
            Some(_) | None => chosen = Some((at, leaf)),
        }
    }
    let only = entries.len() == 1 && entries.iter().all(|entry| entry.keys.default.is_none());
    Ok(chosen.map(|(at, _)| at).or(only.then_some(0)))
}

fn endpoints(entry: &Named, key: &str) -> Result<Vec<EndpointConfig>, Problem> {
    let Some(leaf) = &entry.keys.endpoints else {
        let why = format!("is missing; write endpoints = [\"https://{}\"]", entry.name);
        return Err(Problem::new(&entry.origin, key, why));
    };
    let items = items(Some(leaf), key)?;
    if items.is_empty() {
        return Err(Problem::new(
            &leaf.origin,
            key,
            "must name at least one URL",
        ));
    }
    items.iter().map(|item| endpoint(item, key)).collect()
}

/// One endpoint: a URL, or a table of a URL and its options.
fn endpoint(leaf: &Leaf, key: &str) -> Result<EndpointConfig, Problem> {
    let Value::Table(table) = &leaf.value else {
        let url = values::endpoint_url(&leaf.value);
        let url = url.map_err(|why| Problem::new(&leaf.origin, key, why))?;
        return Ok(EndpointConfig::at(url));
    };
    let (mut url, mut ca_file) = (None, None);
    for (name, leaf) in table {
        let problem = |why: String| Problem::new(&leaf.origin, format!("{key}.{name}"), why);
        match name.as_str() {
            "url" => url = Some(values::endpoint_url(&leaf.value).map_err(problem)?),
            "ca_file" => ca_file = Some(values::path(&leaf.value).map_err(problem)?),
            _ => {
                let known = ENDPOINT_KEYS.join("`, `");
                return Err(problem(format!("unknown key, expected one of `{known}`")));
            }
        }
    }
    let url = url.ok_or_else(|| {
        Problem::new(
            &leaf.origin,
            format!("{key}.url"),
            "is missing in this endpoint",
        )
    })?;
    Ok(EndpointConfig {
        ca_file,
        ..EndpointConfig::at(url)
    })
}

/// The items of an array. Outside the file, where there are no arrays, text with commas.
fn items(leaf: Option<&Leaf>, key: &str) -> Result<Vec<Leaf>, Problem> {
    let Some(leaf) = leaf else {
        return Ok(Vec::new());
    };
    match (&leaf.value, &leaf.origin) {
        (Value::List(items), _) => Ok(items.clone()),
        (Value::Text(text), Origin::Default | Origin::Environment(_) | Origin::Flag(_)) => {
            let item = |item: &str| Leaf::text(item.trim(), leaf.origin.clone());
            Ok(text.split(',').map(item).collect())
        }
        (
            Value::Text(_) | Value::Integer(_) | Value::Boolean(_) | Value::Table(_) | Value::Other,
            _,
        ) => Err(Problem::new(
            &leaf.origin,
            key,
            "must be an array like [\"…\"]",
        )),
    }
}

/// User name and password: both or neither, and one source for the password. A source in a stronger
/// layer wins over another in a weaker one.
fn credentials(
    keys: &Upstream,
    key: &impl Fn(&str) -> String,
    environment: &Environment,
) -> Result<Option<LoginConfig>, Problem> {
    let mut source: Option<(&str, &Leaf)> = None;
    for (name, leaf) in [
        ("password", &keys.password),
        ("password_file", &keys.password_file),
        ("password_env", &keys.password_env),
    ] {
        let Some(leaf) = leaf else {
            continue;
        };
        match source {
            Some((_, other)) if other.origin.layer() > leaf.origin.layer() => {}
            Some((first, other)) if other.origin.layer() == leaf.origin.layer() => {
                let why = format!("{first} is given too; only one of them can be");
                return Err(Problem::new(&leaf.origin, key(name), why).and(&other.origin));
            }
            Some(_) | None => source = Some((name, leaf)),
        }
    }
    let (leaf, (name, secret)) = match (&keys.username, source) {
        (None, None) => return Ok(None),
        (Some(leaf), None) => {
            let why = "needs a password, password_file or password_env";
            return Err(Problem::new(&leaf.origin, key("username"), why));
        }
        (None, Some((name, leaf))) => {
            return Err(Problem::new(&leaf.origin, key(name), "needs a username"));
        }
        (Some(leaf), Some(source)) => (leaf, source),
    };
    let username = values::text(&leaf.value).and_then(|name| {
        // Basic authentication ends the user name at the first colon (RFC 7617 section 2).
        if name.contains(':') {
            return Err("must not contain a colon".to_owned());
        }
        Ok(name)
    });
    let username = username.map_err(|why| Problem::new(&leaf.origin, key("username"), why))?;
    let password = password(name, &secret.value, environment);
    let password = password.map_err(|why| Problem::new(&secret.origin, key(name), why))?;
    Ok(Some(LoginConfig::Password {
        username: Text::Literal(Secret::new(username)),
        password: Text::Literal(password),
    }))
}

fn password(source: &str, value: &Value, environment: &Environment) -> Result<Secret, String> {
    let text = values::text(value)?;
    let password = match source {
        "password_file" => read_password(Path::new(&text))
            .map_err(|why| format!("{} cannot be read: {why}", Shown(&text)))?,
        "password_env" => environment
            .text(&text)
            .map_err(|why| format!("the environment variable {} {why}", Shown(&text)))?,
        _ => text,
    };
    if password.is_empty() {
        return Err("the password is empty".to_owned());
    }
    Ok(Secret::new(password))
}

/// A password's file, without the line end that editors put behind it.
fn read_password(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|why| why.to_string())?;
    let read = file
        .take(PASSWORD_FILE_BYTES_MAX + 1)
        .read_to_string(&mut text);
    if read.map_err(|why| why.to_string())? as u64 > PASSWORD_FILE_BYTES_MAX {
        return Err(format!("it is larger than {PASSWORD_FILE_BYTES_MAX} bytes"));
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Tokens of cloud registries take a few KiB; what is larger is the wrong file.
const PASSWORD_FILE_BYTES_MAX: u64 = 64 * 1024;
