//! The endpoints of an upstream.

use http::{HeaderName, HeaderValue};
use url::{Host, Url};

use super::keys::Keys;
use super::logins::{PASSWORD_KEYS, logins};
use super::{items, proxy};
use crate::config::error::Problem;
use crate::config::raw::{Leaf, Value};
use crate::config::values;
use crate::upstream::{ClientCertificate, EndpointConfig, Network, ProxyConfig};

/// The endpoints of an upstream; `usual` is how it reaches those that do not say it themselves.
pub(super) fn endpoints(
    keys: &Keys<'_>,
    name: &str,
    usual: &ProxyConfig,
) -> Result<Vec<EndpointConfig>, Problem> {
    let Some(leaf) = keys.leaf("endpoints") else {
        let why = format!("is missing; write endpoints = [\"https://{name}\"]");
        return Err(keys.incomplete("endpoints", why));
    };
    let items = items(Some(leaf), &keys.key("endpoints"))?;
    if items.is_empty() {
        return Err(keys.problem("endpoints", leaf, "must name at least one URL"));
    }
    items
        .iter()
        .map(|item| endpoint(keys, item, usual))
        .collect()
}

/// One endpoint: a URL, or a table of a URL and its options.
fn endpoint(keys: &Keys<'_>, leaf: &Leaf, usual: &ProxyConfig) -> Result<EndpointConfig, Problem> {
    let Value::Table(table) = &leaf.value else {
        let url = values::endpoint_url(&leaf.value);
        let url = url.map_err(|why| keys.problem("endpoints", leaf, why))?;
        return Ok(EndpointConfig {
            proxy: usual.clone(),
            ..EndpointConfig::at(url)
        });
    };
    let keys = keys.of_table("endpoints", table, &leaf.origin);
    keys.only(&known_keys())?;
    let Some(url) = keys.value("url", values::endpoint_url)? else {
        return Err(keys.incomplete("url", "is missing in this endpoint"));
    };
    let insecure = keys.value("insecure_skip_verify", values::boolean)?;
    let insecure_skip_verify = insecure.unwrap_or(false);
    let https_only = ["ca_file", "client_cert", "client_key"].into_iter();
    let skips = insecure_skip_verify.then_some("insecure_skip_verify");
    for name in https_only.chain(skips) {
        if let (Some(leaf), "http") = (keys.leaf(name), url.scheme()) {
            let why = "is for https:// endpoints, and this one is http://";
            return Err(keys.problem(name, leaf, why));
        }
    }
    Ok(EndpointConfig {
        ca_file: keys.value("ca_file", values::path)?,
        client_certificate: client_certificate(&keys)?,
        insecure_skip_verify,
        proxy: proxy::proxy(&keys)?.unwrap_or_else(|| usual.clone()),
        resolve: resolve(&keys, &url)?,
        redirect_networks: redirect_networks(&keys)?,
        headers: headers(&keys)?,
        logins: logins(&keys, &[url.host_str().unwrap_or_default()])?,
        url,
    })
}

fn client_certificate(keys: &Keys<'_>) -> Result<Option<ClientCertificate>, Problem> {
    let file = |name| keys.value(name, values::path);
    let half = |name: &str, other: &str| {
        let why = format!("needs {other}");
        match keys.leaf(name) {
            Some(leaf) => keys.problem(name, leaf, why),
            None => keys.incomplete(name, why),
        }
    };
    match (file("client_cert")?, file("client_key")?) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => Ok(Some(ClientCertificate { cert, key })),
        (Some(_), None) => Err(half("client_cert", "client_key")),
        (None, Some(_)) => Err(half("client_key", "client_cert")),
    }
}

/// `resolve`: an IP address, or an array of them.
fn resolve(keys: &Keys<'_>, url: &Url) -> Result<Vec<std::net::IpAddr>, Problem> {
    let Some(leaf) = keys.leaf("resolve") else {
        return Ok(Vec::new());
    };
    if !matches!(url.host(), Some(Host::Domain(_))) {
        return Err(keys.problem("resolve", leaf, "the URL holds an address already"));
    }
    let address = |item: &Leaf| {
        values::ip_address(&item.value).map_err(|why| keys.problem("resolve", item, why))
    };
    one_or_several(leaf).iter().map(address).collect()
}

fn one_or_several(leaf: &Leaf) -> &[Leaf] {
    match &leaf.value {
        Value::List(items) => items.as_slice(),
        Value::Text(_) | Value::Integer(_) | Value::Boolean(_) | Value::Table(_) | Value::Other => {
            std::slice::from_ref(leaf)
        }
    }
}

/// `redirect_networks`: a network or address, or an array of them.
fn redirect_networks(keys: &Keys<'_>) -> Result<Vec<Network>, Problem> {
    let Some(leaf) = keys.leaf("redirect_networks") else {
        return Ok(Vec::new());
    };
    let network = |item: &Leaf| {
        let text = values::text(&item.value);
        let network = text.and_then(|text| text.parse());
        network.map_err(|why| keys.problem("redirect_networks", item, why))
    };
    one_or_several(leaf).iter().map(network).collect()
}

/// `headers`: names and values that are sent with every request. The values may be secrets, and are
/// not repeated in an error.
fn headers(keys: &Keys<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, Problem> {
    let Some(leaf) = keys.leaf("headers") else {
        return Ok(Vec::new());
    };
    let Value::Table(table) = &leaf.value else {
        let why = "must be a table like { \"X-Name\" = \"value\" }";
        return Err(keys.problem("headers", leaf, why));
    };
    let keys = keys.of_table("headers", table, &leaf.origin);
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::with_capacity(table.len());
    for (written, leaf) in table {
        let problem = |why: String| keys.problem(&format!("{written:?}"), leaf, why);
        let name = HeaderName::from_bytes(written.as_bytes())
            .map_err(|_| problem("is not the name of a header".to_owned()))?;
        if OUR_HEADERS.contains(&name.as_str()) {
            let why = "cannot be set here: roadstead sets this header itself, or must not send it";
            return Err(problem(why.to_owned()));
        }
        if headers.iter().any(|(other, _)| *other == name) {
            return Err(problem("is given twice".to_owned()));
        }
        let text = values::text(&leaf.value).map_err(problem)?;
        let value = HeaderValue::from_str(&text);
        let value = value.map_err(|_| problem("a header cannot have this value".to_owned()));
        let mut value = value?;
        value.set_sensitive(true);
        headers.push((name, value));
    }
    Ok(headers)
}

/// The keys of an endpoint that is written as a table.
pub(super) fn known_keys() -> Vec<&'static str> {
    let own = OWN_KEYS.iter().chain(PASSWORD_KEYS);
    own.chain(&["docker_config", "credentials"])
        .copied()
        .collect()
}

/// Those that are no login's.
const OWN_KEYS: &[&str] = &[
    "url",
    "ca_file",
    "client_cert",
    "client_key",
    "insecure_skip_verify",
    "proxy",
    "resolve",
    "redirect_networks",
    "headers",
];

/// Headers that belong to the connection (RFC 9110 section 7.6.1), that a request's meaning or its
/// login depends on, or that keep mirrors from asking each other in a circle (`via`).
const OUR_HEADERS: &[&str] = &[
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];
