//! `[server]` as it is shown.

use super::{duration, line, list, quoted, shown, table};
use crate::config::transparent;
use crate::config::values::{ClientAuths, ListenerAccess};
use crate::server::{Asks, Config, Limits, ListenerConfig, TlsConfig};

pub(super) fn show(out: &mut String, server: &Config) {
    table(out, "server");
    let alone = only(server);
    if let Some(listener) = alone {
        line(out, "listen", &quoted(&listener.address.to_string()));
    }
    line(
        out,
        "admin_listen",
        &quoted(&server.admin_listen.to_string()),
    );
    if let Some(path) = &server.admin_socket {
        line(out, "admin_socket", &shown(path));
    }
    if !server.admin_hosts.is_empty() {
        line(out, "admin_hosts", &list(server.admin_hosts.iter()));
    }
    if alone.is_some_and(|listener| listener.proxy_protocol) {
        line(out, "proxy_protocol", "true");
    }
    if !server.trusted_proxies.is_empty() {
        let networks = server.trusted_proxies.iter().map(ToString::to_string);
        line(out, "trusted_proxies", &list(networks));
    }
    if server.watch_config {
        line(out, "watch_config", "true");
    }
    line(out, "drain_timeout", &duration(server.drain_timeout));
    show_limits(out, &server.limits);
    if let Some(tls) = server.tls.as_ref().filter(|tls| !tls.pairs.is_empty()) {
        show_tls(out, tls);
    }
    if let Some(transparent) = server.tls.as_ref().and_then(|tls| tls.transparent.as_ref()) {
        table(out, "server.transparent");
        line(out, "ca", &shown(&transparent.ca));
        line(out, "ca_key", &shown(&transparent.ca_key));
        let names = transparent.hosts.iter().map(transparent::spelt);
        line(out, "names", &list(names));
    }
    if let Some(tls) = &server.admin_tls {
        table(out, "server.admin_tls");
        for pair in &tls.pairs {
            line(out, "cert", &shown(&pair.cert));
            line(out, "key", &shown(&pair.key));
        }
        show_client_ca(out, tls);
    }
    if alone.is_none() {
        server
            .listeners
            .iter()
            .for_each(|listener| show_listener(out, listener));
    }
}

/// The listener that `server.listen` says, if there is no other.
fn only(server: &Config) -> Option<&ListenerConfig> {
    let [listener] = server.listeners.as_slice() else {
        return None;
    };
    let is_plain = listener.name.is_none()
        && listener.asks == Asks::default()
        && listener.tls == server.tls.is_some();
    is_plain.then_some(listener)
}

fn show_listener(out: &mut String, listener: &ListenerConfig) {
    table(out, "[server.listener]");
    if let Some(name) = &listener.name {
        line(out, "name", &quoted(name));
    }
    line(out, "address", &quoted(&listener.address.to_string()));
    line(out, "tls", &listener.tls.to_string());
    let access = ListenerAccess::name(listener.asks);
    line(out, "access", &quoted(access));
    line(out, "proxy_protocol", &listener.proxy_protocol.to_string());
}

fn show_tls(out: &mut String, tls: &TlsConfig) {
    table(out, "server.tls");
    let alone = match tls.pairs.as_slice() {
        [pair] => Some(pair),
        _ => None,
    };
    if let Some(pair) = alone {
        line(out, "cert", &shown(&pair.cert));
        line(out, "key", &shown(&pair.key));
    }
    show_client_ca(out, tls);
    if tls.client_ca.is_some() {
        let auth = ClientAuths::name(tls.client_auth);
        line(out, "client_auth", &quoted(auth));
    }
    for pair in tls.pairs.iter().filter(|_| alone.is_none()) {
        table(out, "[server.tls.pair]");
        line(out, "cert", &shown(&pair.cert));
        line(out, "key", &shown(&pair.key));
    }
}

fn show_client_ca(out: &mut String, tls: &TlsConfig) {
    if let Some(path) = &tls.client_ca {
        line(out, "client_ca", &shown(path));
    }
    if let Some(path) = &tls.client_crl {
        line(out, "client_crl", &shown(path));
    }
}

fn show_limits(out: &mut String, limits: &Limits) {
    line(out, "max_connections", &limits.max_connections.to_string());
    line(out, "head_timeout", &duration(limits.head_timeout));
    line(out, "idle_timeout", &duration(limits.idle_timeout));
    let stall = duration(limits.body_stall_timeout);
    line(out, "body_stall_timeout", &stall);
    line(out, "body_min_rate", &limits.body_min_rate.to_string());
}
