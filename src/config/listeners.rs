//! `[server]`: listeners, certificates, proxies.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::defaults;
use super::error::{Problem, Shown};
use super::keys;
use super::origin::Origin;
use super::table::{About, Context, Given, Keys, List, Place, Values as _, name, table};
use super::values::{Address, ClientAuths, Flag, ListenerAccess, Path, Text};
use crate::server::{self, Asks, ListenerConfig, PairConfig, TlsConfig};

/// More listeners than a machine has networks.
const LISTENERS_MAX: usize = 64;
/// A certificate for each of as many hosts as anybody gives to one mirror.
const PAIRS_MAX: usize = 1000;

table! {
    /// `[[server.listener]]`.
    ListenerKey {
        /// Name of the listener in logs.
        listener_name as "name": Text,
        /// Address, as in `server.listen`. Required.
        address: Address,
        /// `true`: HTTPS with the certificates of `[server.tls]`; `false`: plain HTTP. Default: `true` if there is `[server.tls]`.
        tls: Flag,
        /// `rules` asks clients who they are, where `[access]` is configured; `open` asks nobody, ignores credentials, and serves what anonymous clients may pull: for the `registry-mirrors` of dockerd. Default: `rules`.
        access: ListenerAccess,
        /// `true`: connections begin with a PROXY protocol header, as `server.proxy_protocol` says. Default: `false`.
        proxy_protocol: Flag,
    }
}

table! {
    /// `[server.tls]`.
    Tls {
        /// The certificate in PEM, its own first and then those up to the root. Read again when it changes. Required, unless there is a `pair`.
        cert: Path,
        /// The certificate's private key in PEM. Required, unless there is a `pair`.
        key: Path,
        /// Several certificates instead of `cert` and `key`: a client gets the one that names the host it asks for (SNI), else the first.
        pair: List<Pair>,
        /// Certificates of authorities, in PEM: clients show a certificate of one of them (mTLS). Its first alternative name (URI, DNS or e-mail), else its common name, is the client's identity in `[access]`.
        client_ca: Path,
        /// Lists of certificates that the authorities of `client_ca` have revoked, in PEM, or one in DER; read again when it changes. Each authority needs its list there: certificates of one without a list are refused. A list goes on to count when its time is over, with a warning.
        client_crl: Path,
        /// Clients without a certificate, where there is a `client_ca`: `required` refuses them; `optional` lets them in like others. Default: `required`.
        client_auth: ClientAuths,
    }
}

table! {
    /// `[[server.tls.pair]]`.
    Pair {
        /// A certificate, as `server.tls.cert`. Required.
        cert: Path,
        /// The private key in PEM. Required.
        key: Path,
    }
}

table! {
    /// `[server.admin_tls]`.
    AdminTls {
        /// The certificate of the admin listener, as `server.tls.cert`. Required.
        cert: Path,
        /// The private key in PEM. Required.
        key: Path,
        /// Certificates of authorities, in PEM: operators, scrapers and probes must show a certificate of one of them.
        client_ca: Path,
        /// Lists of certificates that they have revoked, as `server.tls.client_crl`.
        client_crl: Path,
    }
}

impl About for ListenerKey {
    const MAX: usize = LISTENERS_MAX;

    fn about_list() -> String {
        "must be an array of tables, each under [[server.listener]]".to_owned()
    }
}

impl About for Pair {
    const MAX: usize = PAIRS_MAX;

    fn about_list() -> String {
        "must be an array of tables, each under [[server.tls.pair]]".to_owned()
    }
}

/// Resolves `[server]`.
pub(super) fn resolve(keys: &keys::Server, context: &Context<'_>) -> server::Config {
    let usual = server::Limits::default();
    let tls = tls(keys, context);
    let has_tls = keys.tls.is_some() || keys.transparent.is_some();
    let listeners = listeners(keys, has_tls, context);
    let admin_listen = keys.admin_listen.value_or(defaults::ADMIN_LISTEN);
    if listeners.iter().any(|it| is_same(it.address, admin_listen)) {
        let given = keys.admin_listen.as_ref().map(|given| &given.place);
        let given = given.or(keys.listen.as_ref().map(|given| &given.place));
        let given = given.or(keys.listener.as_ref().map(|given| &given.place));
        let place = Place {
            key: "server.admin_listen".to_owned(),
            ..given.cloned().unwrap_or_default()
        };
        let of = if keys.listener.is_some() {
            "a client listener"
        } else {
            "server.listen"
        };
        context.wrong(&place, format!("{admin_listen} is the address of {of} too"));
    }
    server::Config {
        listeners,
        admin_listen,
        tls,
        admin_tls: admin_tls(keys, context),
        admin_socket: keys.admin_socket.value(),
        admin_hosts: admin_hosts(keys, context),
        trusted_proxies: keys
            .trusted_proxies
            .value_or(Vec::new())
            .into_iter()
            .map(|it| it.value)
            .collect(),
        watch_config: keys.watch_config.value_or(false),
        drain_timeout: keys.drain_timeout.value_or(defaults::DRAIN_TIMEOUT),
        limits: server::Limits {
            max_connections: keys.max_connections.value_or(usual.max_connections),
            head_timeout: keys.head_timeout.value_or(usual.head_timeout),
            idle_timeout: keys.idle_timeout.value_or(usual.idle_timeout),
            body_stall_timeout: keys.body_stall_timeout.value_or(usual.body_stall_timeout),
            body_min_rate: keys.body_min_rate.value_or(usual.body_min_rate),
        },
    }
}

/// True if both cannot be bound; port 0 is a different port each time.
fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    one == other && one.port() != 0
}

fn listeners(keys: &keys::Server, has_tls: bool, context: &Context<'_>) -> Vec<ListenerConfig> {
    let chosen = keys.keys.one_of(&[&["listen"], &["listener"]], context);
    if let (Ok(Some(("listener", _))), Some(given)) = (chosen, &keys.listener) {
        if let Some(place) = keys.keys.place_of("proxy_protocol") {
            context.wrong(
                place,
                "is for server.listen: say it in each [[server.listener]]",
            );
        }
        if given.value.is_empty() {
            context.wrong(&given.place, "is empty: clients need a listener");
        }
        return tables(keys, &given.value, has_tls, context);
    }
    let proxy_protocol = keys.proxy_protocol.value_or(false);
    if let Some(given) = keys.proxy_protocol.as_ref().filter(|given| given.value) {
        need_proxies(keys, &given.place, context);
    }
    vec![ListenerConfig {
        tls: has_tls,
        proxy_protocol,
        ..ListenerConfig::at(keys.listen.value_or(defaults::LISTEN))
    }]
}

fn tables(
    keys: &keys::Server,
    given: &[Given<ListenerKey>],
    has_tls: bool,
    context: &Context<'_>,
) -> Vec<ListenerConfig> {
    let mut listeners: Vec<ListenerConfig> = Vec::new();
    let mut seen: BTreeMap<String, Origin> = BTreeMap::new();
    for Given { value: it, .. } in given {
        let why = "is missing; write address = \"0.0.0.0:5000\"";
        let Ok(address) = it
            .keys
            .required(it.address.as_ref(), "address", why, context)
        else {
            continue;
        };
        let mut once = |what: String, place: &Place| {
            if let Some(first) = seen.insert(what.clone(), place.origin.clone()) {
                let why = format!("{what} is given twice");
                context.report(Problem::new(&place.origin, &place.key, why).and(&first));
            }
        };
        // Port 0 is a different port each time.
        if address.value.port() != 0 {
            once(address.value.to_string(), &address.place);
        }
        if let Some(name) = &it.listener_name {
            once(Shown(&name.value).to_string(), &name.place);
        }
        if let Some(tls) = it.tls.as_ref().filter(|tls| tls.value && !has_tls) {
            let why = "needs the certificates of [server.tls], or [server.transparent]";
            context.wrong(&tls.place, why);
        }
        if let Some(flag) = it.proxy_protocol.as_ref().filter(|flag| flag.value) {
            need_proxies(keys, &flag.place, context);
        }
        listeners.push(ListenerConfig {
            name: it.listener_name.value(),
            address: address.value,
            tls: it.tls.value_or(has_tls),
            asks: it.access.value_or(Asks::default()),
            proxy_protocol: it.proxy_protocol.value_or(false),
        });
    }
    listeners
}

/// Reports a missing `trusted_proxies`: a client that may send a PROXY head can be anybody.
fn need_proxies(keys: &keys::Server, place: &Place, context: &Context<'_>) {
    let why = "needs server.trusted_proxies, the networks of the balancers that send it: write trusted_proxies = [\"10.0.0.0/8\"]";
    let is_wrong =
        keys.trusted_proxies.is_none() && keys.keys.place_of("trusted_proxies").is_some();
    let are_there = keys
        .trusted_proxies
        .as_ref()
        .is_some_and(|given| !given.value.is_empty());
    if !are_there && !is_wrong {
        context.wrong(place, why);
    }
}

/// Resolves `[server.tls]`, which must be whole: half a table must not mean plain HTTP.
fn tls(keys: &keys::Server, context: &Context<'_>) -> Option<TlsConfig> {
    let tls = &keys.tls.as_ref()?.value;
    let chosen = tls
        .keys
        .one_of(&[&["cert", "key"], &["pair"]], context)
        .ok()?;
    let pairs = match (chosen, &tls.pair) {
        (Some(("pair", _)), Some(given)) => {
            if given.value.is_empty() {
                context.wrong(
                    &given.place,
                    "is empty: TLS needs a certificate and its key",
                );
            }
            let pairs = given.value.iter().map(|Given { value: pair, .. }| {
                need_both(&pair.keys, context);
                pair_of(pair.cert.value(), pair.key.value())
            });
            pairs.collect::<Option<_>>()?
        }
        (Some(("pair", _)), None) => return None,
        _ => {
            need_both(&tls.keys, context);
            vec![pair_of(tls.cert.value(), tls.key.value())?]
        }
    };
    if let Some(auth) = tls.client_auth.as_ref().filter(|_| tls.client_ca.is_none()) {
        context.wrong(
            &auth.place,
            "needs client_ca, the authorities of the certificates",
        );
    }
    need_authority(tls.client_ca.as_ref(), tls.client_crl.as_ref(), context);
    Some(TlsConfig {
        pairs,
        client_ca: tls.client_ca.value(),
        client_crl: tls.client_crl.value(),
        transparent: None,
        client_auth: tls.client_auth.value_or(server::ClientAuth::default()),
    })
}

fn admin_tls(keys: &keys::Server, context: &Context<'_>) -> Option<TlsConfig> {
    let tls = &keys.admin_tls.as_ref()?.value;
    need_both(&tls.keys, context);
    let PairConfig { cert, key } = pair_of(tls.cert.value(), tls.key.value())?;
    need_authority(tls.client_ca.as_ref(), tls.client_crl.as_ref(), context);
    Some(TlsConfig {
        client_ca: tls.client_ca.value(),
        client_crl: tls.client_crl.value(),
        ..TlsConfig::of(cert, key)
    })
}

/// Reports lists of authorities that are not there.
fn need_authority(
    client_ca: Option<&Given<PathBuf>>,
    client_crl: Option<&Given<PathBuf>>,
    context: &Context<'_>,
) {
    if let (None, Some(given)) = (client_ca, client_crl) {
        let why = "needs client_ca, the authorities that have revoked certificates";
        context.wrong(&given.place, why);
    }
}

fn pair_of(cert: Option<PathBuf>, key: Option<PathBuf>) -> Option<PairConfig> {
    Some(PairConfig {
        cert: cert?,
        key: key?,
    })
}

fn need_both(keys: &Keys, context: &Context<'_>) {
    let given = keys.given.first();
    let place = given.map_or(keys.place.origin.clone(), |(_, it)| it.origin.clone());
    for name in ["cert", "key"] {
        if keys.place_of(name).is_none() {
            let place = keys.place.under(name, place.clone());
            context.wrong(&place, "is missing; TLS needs a certificate and its key");
            break;
        }
    }
}

fn admin_hosts(keys: &keys::Server, context: &Context<'_>) -> Vec<String> {
    let given = keys.admin_hosts.iter().flat_map(|given| &given.value);
    let names = given.filter_map(|Given { value, place }| {
        let name = value.to_string();
        if name.contains([':', '/']) {
            let why = format!("{} is not a host name without a port", Shown(&name));
            context.wrong(place, why);
            return None;
        }
        Some(name)
    });
    names.collect()
}
