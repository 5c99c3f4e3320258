//! From written upstreams to resolved ones.

mod cloud;
mod endpoint;
mod logins;
pub(super) mod proxy;
pub(super) mod texts;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Problem, Shown};
use super::keys::Upstream;
use super::origin::Origin;
use super::table::{
    Context, Given, Key, Outcome, Place, Read, Values as _, Written, in_order, join,
};
use crate::oci::UpstreamName;
use crate::store::Share;
use crate::upstream::{Config, EndpointConfig, Parallel, Visibility};

pub(super) use cloud::Provider;
pub(super) use endpoint::{EndpointKey, HeadersKey};
pub(super) use logins::CredentialsKey;
pub(super) use proxy::{ProxyKey, proxy as proxy_of};
pub(super) use texts::can_be_read;

/// The upstreams, by their names.
pub(super) enum UpstreamsKey {}

/// An upstream, and its name as it was written.
#[derive(Clone)]
pub(super) struct Named {
    /// As it was written.
    written: String,
    name: UpstreamName,
    place: Place,
    keys: Upstream,
}

impl Read for UpstreamsKey {
    type Value = Vec<Named>;
    const KEYS: &'static [Key] = Upstream::KEYS;

    fn read(written: &Written<'_>, place: &Place, context: &Context<'_>) -> Outcome<Vec<Named>> {
        let DeValue::Table(entries) = written.get_ref() else {
            return Err(context.wrong(place, "must be a table"));
        };
        let mut upstreams = Vec::with_capacity(entries.len());
        for (key, value) in in_order(entries) {
            let name = key.get_ref().as_ref();
            let place = Place {
                key: format!("{}.{name:?}", place.key),
                origin: context.origins.of(key.span().start),
            };
            let Some(table) = value.get_ref().as_table() else {
                let place = Place {
                    key: join("upstream", name),
                    origin: context.origins.of(value.span().start),
                };
                context.wrong(&place, "must be a table");
                continue;
            };
            if refuse_unquoted(name, table, context) {
                continue;
            }
            let Ok(keys) = Upstream::read(value, &place, context) else {
                continue;
            };
            let Ok(parsed) = UpstreamName::parse(name) else {
                let why = "the name must be a host name or address with an optional port";
                context.wrong(&place, why);
                continue;
            };
            upstreams.push(Named {
                written: name.to_owned(),
                name: parsed,
                place,
                keys,
            });
        }
        Ok(upstreams)
    }
    fn schema() -> Json {
        json!({
            "type": "object",
            "additionalProperties": Upstream::schema(),
            "propertyNames": { "pattern": r"^[^\s/@]+$" },
        })
    }
}

/// Says what `[upstream.docker.io]` is in TOML: a table `io` in a table `docker`.
fn refuse_unquoted(name: &str, table: &DeTable<'_>, context: &Context<'_>) -> bool {
    // Where a key of an upstream is there too, this is the upstream, and the table in it another mistake.
    let is_table = |(key, value): (&Spanned<Cow<'_, str>>, &Written<'_>)| {
        value.get_ref().is_table() && !Upstream::NAMES.contains(&key.get_ref().as_ref())
    };
    if !table.iter().all(is_table) {
        return false;
    }
    let mut refused = false;
    for (key, value) in in_order(table) {
        let (Some(inner), written) = (value.get_ref().as_table(), key.get_ref()) else {
            continue;
        };
        refused = true;
        let longer = format!("{name}.{written}");
        if !refuse_unquoted(&longer, inner, context) {
            let place = Place {
                key: format!("upstream.{longer}"),
                origin: context.origins.of(key.span().start),
            };
            let why = format!(
                "is a table in a table, for its name has a dot; quote the name: [upstream.{longer:?}]"
            );
            context.wrong(&place, why);
        }
    }
    refused
}

/// Resolves every upstream, and checks what concerns several of them.
pub(super) fn resolve(
    entries: &[Named],
    surroundings: Surroundings,
    context: &Context<'_>,
) -> Vec<Config> {
    refuse_twice(entries, context);
    let hosts = hosts(entries, context);
    let default = default(entries, context);
    let mut upstreams = Vec::with_capacity(entries.len());
    for (at, (entry, hosts)) in entries.iter().zip(hosts).enumerate() {
        if let Ok(config) = upstream(entry, context) {
            let config = Config { hosts, ..config };
            upstreams.push(Config {
                visibility: visibility(entry, &config, surroundings, context),
                default: default == Some(at),
                ..config
            });
        }
    }
    upstreams
}

/// Circumstances that the visibility of upstreams depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings {
    /// Clients on other machines can connect.
    pub(super) is_reachable: bool,
    /// There is an `[access]` table.
    pub(super) has_access: bool,
    /// Clients are asked who they are.
    pub(super) has_identities: bool,
}

/// Content of an upstream for anonymous clients. A login that is there for its rate limit opens nothing to others.
fn visibility(
    entry: &Named,
    config: &Config,
    surroundings: Surroundings,
    context: &Context<'_>,
) -> Visibility {
    let Some(given) = &entry.keys.visibility else {
        return if config.has_secrets() && surroundings.is_reachable {
            Visibility::Public
        } else {
            Visibility::Anyone
        };
    };
    if given.value == Visibility::Rules && !surroundings.has_access {
        let why = "needs rules: write an [access] table, or \"public\" or \"anyone\"";
        context.wrong(&given.place, why);
    }
    if given.value == Visibility::Upstream {
        if !config.endpoints.iter().any(EndpointConfig::takes_clients) {
            let why = "needs an endpoint that clients' credentials may be shown to: by https, with its certificate \
                       checked, and without credentials of its own";
            context.wrong(&given.place, why);
        }
        if surroundings.has_identities && config.hosts.is_empty() {
            let why = "needs hosts: where [access] asks clients who they are, they can send this upstream's \
                       credentials on a host name of its own alone";
            context.wrong(&given.place, why);
        }
    }
    given.value
}

/// Resolves one upstream alone.
fn upstream(entry: &Named, context: &Context<'_>) -> Outcome<Config> {
    let keys = &entry.keys;
    // Each is looked at, whatever is wrong with the others.
    let usual = match &keys.proxy {
        Some(given) => proxy::proxy(given, context),
        None if keys.keys.place_of("proxy").is_some() => Err(super::table::Reported),
        None => proxy::environment(context),
    };
    let endpoints = endpoint::endpoints(entry, usual.as_ref().ok(), context);
    let served = endpoints.iter().flatten();
    let served = served.filter(|endpoint| endpoint.logins.is_none());
    let hosts: Vec<&str> = served.filter_map(|one| one.url.host_str()).collect();
    let logins = logins::of_upstream(keys, &hosts, context);
    let (_, endpoints, logins) = (usual?, endpoints?, logins?);
    let mut config = Config::of(entry.name.clone(), endpoints);
    let parallel = Parallel::default();
    config.logins = logins.unwrap_or_default();
    config.connect_timeout = keys.connect_timeout.value_or(config.connect_timeout);
    config.header_timeout = keys.header_timeout.value_or(config.header_timeout);
    config.idle_timeout = keys.idle_timeout.value_or(config.idle_timeout);
    config.retry_delay = keys.retry_delay.value_or(config.retry_delay);
    config.strategy = keys.strategy.value_or(config.strategy);
    config.visibility_ttl = keys.visibility_ttl.value_or(config.visibility_ttl);
    config.max_connections = keys.max_connections.value_or(config.max_connections);
    config.parallel = Parallel {
        connections: keys.parallel.value_or(parallel.connections),
        above: keys.parallel_above.value_or(parallel.above),
        segment_size: keys.segment_size.value_or(parallel.segment_size),
    };
    Ok(config)
}

/// The shares of the store of those upstreams that have one.
pub(super) fn shares(entries: &[Named]) -> Vec<Share> {
    let share = |entry: &Named| {
        let (max_size, max_age) = (entry.keys.max_size.value(), entry.keys.max_age.value());
        let (upstream, max_age) = (entry.name.clone(), max_age.flatten());
        (max_size.is_some() || max_age.is_some()).then_some(Share {
            upstream,
            max_size,
            max_age,
        })
    };
    entries.iter().filter_map(share).collect()
}

/// Refuses a name that is there twice: TOML refuses the same spelling, but names have no case.
fn refuse_twice(entries: &[Named], context: &Context<'_>) {
    let mut seen: BTreeMap<&UpstreamName, &Place> = BTreeMap::new();
    for Named { name, place, .. } in entries {
        if let Some(first) = seen.insert(name, place) {
            let problem = Problem::new(&place.origin, &place.key, "is given twice");
            context.report(problem.and(&first.origin));
        }
    }
}

/// The `hosts` of each upstream in lower case. A request's `Host` must mean one upstream, and one
/// that is another upstream's name would be a trap.
fn hosts(entries: &[Named], context: &Context<'_>) -> Vec<Vec<String>> {
    let mut seen: BTreeMap<&UpstreamName, (&str, &Origin)> = BTreeMap::new();
    let mut all = Vec::with_capacity(entries.len());
    for entry in entries {
        let mut hosts = Vec::new();
        let given = entry.keys.hosts.iter().flat_map(|hosts| &hosts.value);
        for Given { value: host, place } in given {
            let shown = host.as_str();
            if *host != entry.name && entries.iter().any(|other| other.name == *host) {
                let why = format!("{} is the name of another upstream", Shown(shown));
                context.wrong(place, why);
            }
            let first = seen.insert(host, (&entry.written, &place.origin));
            if let Some((upstream, origin)) = first {
                let why = format!("{} already selects {upstream:?}", Shown(shown));
                context.report(Problem::new(&place.origin, &place.key, why).and(origin));
            }
            hosts.push(shown.to_owned());
        }
        all.push(hosts);
    }
    all
}

/// The position of the default upstream. One that says so in a stronger layer wins over one that says so in
/// a weaker; two in one layer are an error. Where none says anything, an only upstream is it.
fn default(entries: &[Named], context: &Context<'_>) -> Option<usize> {
    let mut chosen: Option<(usize, &Place)> = None;
    for (at, entry) in entries.iter().enumerate() {
        let Some(Given { value: true, place }) = &entry.keys.default else {
            continue;
        };
        let layer = place.origin.layer();
        match chosen {
            Some((_, other)) if other.origin.layer() > layer => {}
            Some((first, other)) if other.origin.layer() == layer => {
                let name = entries.get(first).map_or("", |entry| &entry.written);
                let why = format!("{name:?} is the default too; only one can be");
                context.report(Problem::new(&place.origin, &place.key, why).and(&other.origin));
            }
            Some(_) | None => chosen = Some((at, place)),
        }
    }
    let only = entries.len() == 1 && entries.iter().all(|entry| entry.keys.default.is_none());
    chosen.map(|(at, _)| at).or(only.then_some(0))
}
