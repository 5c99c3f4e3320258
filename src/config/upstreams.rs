//! From written upstreams to resolved ones.

mod cloud;
mod endpoint;
mod keys;
mod logins;
mod proxy;

use std::collections::BTreeMap;
use std::time::Duration;

use self::keys::Keys;
use super::error::{Problem, Shown};
use super::layers::Environment;
use super::raw::{Leaf, Named, Origin, Value};
use super::values;
use crate::oci::UpstreamName;
use crate::store::Share;
use crate::upstream::{Config, Parallel};

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
        let keys = Keys::of_upstream(entry, environment);
        upstreams.push(Config {
            default: default == Some(at),
            hosts,
            ..upstream(&keys, name, &entry.name)?
        });
    }
    Ok(upstreams)
}

/// What concerns one upstream alone; `written` is its name in the file's spelling.
fn upstream(keys: &Keys<'_>, name: UpstreamName, written: &str) -> Result<Config, Problem> {
    let usual = match proxy::proxy(keys)? {
        Some(proxy) => proxy,
        None => proxy::environment(keys.environment)?,
    };
    let mut config = Config::of(name, endpoint::endpoints(keys, written, &usual)?);
    let served = config.endpoints.iter().filter(|one| one.logins.is_none());
    let hosts: Vec<&str> = served.filter_map(|one| one.url.host_str()).collect();
    let logins = logins::logins(keys, &hosts)?;
    config.logins = logins.unwrap_or_default();
    let set = |slot: &mut Duration, given: Option<Duration>| *slot = given.unwrap_or(*slot);
    let limit = |name| keys.value(name, values::time_limit);
    set(&mut config.connect_timeout, limit("connect_timeout")?);
    let header_timeout = keys.value("header_timeout", values::header_timeout)?;
    set(&mut config.header_timeout, header_timeout);
    set(&mut config.idle_timeout, limit("idle_timeout")?);
    set(
        &mut config.retry_delay,
        keys.value("retry_delay", values::retry_delay)?,
    );
    let strategy = keys.value("strategy", values::strategy)?;
    config.strategy = strategy.unwrap_or_default();
    let max_connections = keys.value("max_connections", values::max_connections)?;
    config.max_connections = max_connections.unwrap_or(config.max_connections);
    let usual = Parallel::default();
    config.parallel = Parallel {
        connections: keys
            .value("parallel", values::parallel)?
            .unwrap_or(usual.connections),
        above: keys
            .value("parallel_above", values::size)?
            .unwrap_or(usual.above),
        segment_size: keys
            .value("segment_size", values::segment_size)?
            .unwrap_or(usual.segment_size),
    };
    Ok(config)
}

/// What upstreams may have of the store, those that have a say in it.
pub(super) fn shares(entries: &[Named]) -> Result<Vec<Share>, Problem> {
    let mut shares = Vec::new();
    for (entry, upstream) in entries.iter().zip(names(entries)?) {
        let problem = |key: &str, leaf: &Leaf, why| {
            Problem::new(
                &leaf.origin,
                format!("upstream.{:?}.{key}", entry.name),
                why,
            )
        };
        let max_size =
            entry.keys.max_size.as_ref().map(|leaf| {
                values::size(&leaf.value).map_err(|why| problem("max_size", leaf, why))
            });
        let max_age =
            entry.keys.max_age.as_ref().map(|leaf| {
                values::max_age(&leaf.value).map_err(|why| problem("max_age", leaf, why))
            });
        let (max_size, max_age) = (max_size.transpose()?, max_age.transpose()?.flatten());
        if max_size.is_some() || max_age.is_some() {
            shares.push(Share {
                upstream,
                max_size,
                max_age,
            });
        }
    }
    Ok(shares)
}

/// The keys of the tables inside an upstream, each with its path.
pub(super) fn known_keys() -> Vec<String> {
    let under = |table: &str, keys: &[&str]| {
        let path = |key: &&str| format!("upstream.*.{table}.{key}");
        keys.iter().map(path).collect::<Vec<_>>()
    };
    let mut known = under("endpoints", &endpoint::known_keys());
    known.extend(under("credentials", logins::PASSWORD_KEYS));
    known.extend(under("credentials", &["docker_config"]));
    known.extend(under("credentials", logins::EXEC_KEYS));
    for (_, keys) in cloud::PROVIDERS {
        known.extend(under("credentials", keys));
    }
    known.sort();
    known.dedup();
    known
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
