//! One upstream as TOML.

use std::fmt::Write as _;

use super::{MASK, duration, line, quoted, size, table};
use crate::config::values::{Strategies, Visibilities};
use crate::upstream::{
    CloudConfig, CloudUrls, Config, Credentials, EndpointConfig, LoginConfig, ProxyConfig, Text,
};

/// Keys and values, the values as TOML.
type Pairs = Vec<(&'static str, String)>;

pub(super) fn show(out: &mut String, upstream: &Config) {
    table(out, &format!("upstream.{}", quoted(upstream.name.as_str())));
    // Endpoints have a proxy each. What the first one has is written once for all of them, and those
    // that have another say so.
    let first = upstream.endpoints.first().map(|first| &first.proxy);
    let usual = first.cloned().unwrap_or_default();
    let endpoints = upstream.endpoints.iter();
    let endpoints = endpoints.map(|one| endpoint(one, &usual));
    line(out, "endpoints", &list(endpoints));
    line(out, "default", &upstream.default.to_string());
    line(out, "hosts", &texts(&upstream.hosts));
    let strategy = Strategies::name(upstream.strategy);
    line(out, "strategy", &quoted(strategy));
    line(out, "proxy", &proxy(&usual));
    if !upstream.logins.is_empty() {
        for (key, value) in logins(&upstream.logins) {
            line(out, key, &value);
        }
    }
    let visibility = Visibilities::name(upstream.visibility);
    line(out, "visibility", &quoted(visibility));
    line(out, "visibility_ttl", &duration(upstream.visibility_ttl));
    let parallel = upstream.parallel;
    line(
        out,
        "max_connections",
        &upstream.max_connections.to_string(),
    );
    line(out, "connect_timeout", &duration(upstream.connect_timeout));
    line(out, "header_timeout", &duration(upstream.header_timeout));
    line(out, "idle_timeout", &duration(upstream.idle_timeout));
    line(out, "retry_delay", &duration(upstream.retry_delay));
    line(out, "parallel", &parallel.connections.to_string());
    line(out, "parallel_above", &size(parallel.above));
    line(out, "segment_size", &size(parallel.segment_size));
}

/// The URL alone where nothing else is said.
fn endpoint(endpoint: &EndpointConfig, usual: &ProxyConfig) -> String {
    let url = endpoint.url.as_str();
    // The parser gives a bare host the path `/`, which nobody writes.
    let bare = endpoint.url.path() == "/";
    let url = quoted(if bare { url.trim_end_matches('/') } else { url });
    let mut pairs = Pairs::new();
    if let Some(file) = &endpoint.ca_file {
        pairs.push(("ca_file", quoted(&file.to_string_lossy())));
    }
    if let Some(shown) = &endpoint.client_certificate {
        pairs.push(("client_cert", quoted(&shown.cert.to_string_lossy())));
        pairs.push(("client_key", quoted(&shown.key.to_string_lossy())));
    }
    if endpoint.insecure_skip_verify {
        pairs.push(("insecure_skip_verify", "true".to_owned()));
    }
    if endpoint.proxy != *usual {
        pairs.push(("proxy", proxy(&endpoint.proxy)));
    }
    if !endpoint.resolve.is_empty() {
        let addresses = endpoint.resolve.iter();
        let addresses = addresses.map(|address| quoted(&address.to_string()));
        pairs.push(("resolve", list(addresses)));
    }
    if !endpoint.redirect_networks.is_empty() {
        let networks = endpoint.redirect_networks.iter();
        let networks = networks.map(|network| quoted(&network.to_string()));
        pairs.push(("redirect_networks", list(networks)));
    }
    if !endpoint.headers.is_empty() {
        let masked = |name: &str| format!("{} = {}", quoted(name), quoted(MASK));
        let headers = endpoint.headers.iter();
        let headers: Vec<_> = headers.map(|(name, _)| masked(name.as_str())).collect();
        pairs.push(("headers", format!("{{ {} }}", headers.join(", "))));
    }
    if let Some(own) = &endpoint.logins {
        pairs.extend(logins(own));
    }
    if pairs.is_empty() {
        return url;
    }
    pairs.insert(0, ("url", url));
    inline(pairs)
}

pub(super) fn proxy(proxy: &ProxyConfig) -> String {
    let proxy = match proxy {
        ProxyConfig::Direct => return quoted("direct"),
        ProxyConfig::Environment(_) => return quoted("environment"),
        ProxyConfig::Through(proxy) => proxy,
    };
    let url = quoted(proxy.url.as_str().trim_end_matches('/'));
    match &proxy.credentials {
        None => url,
        Some(Credentials { username, .. }) => inline(vec![
            ("url", url),
            ("username", quoted(username)),
            ("password", quoted(MASK)),
        ]),
    }
}

/// The short form where there is one.
fn logins(logins: &[LoginConfig]) -> Pairs {
    match logins {
        [only @ (LoginConfig::Password { .. } | LoginConfig::DockerConfig(_))] => login(only),
        several => {
            let tables = several.iter().map(|one| inline(login(one)));
            vec![("credentials", list(tables))]
        }
    }
}

fn login(login: &LoginConfig) -> Pairs {
    match login {
        LoginConfig::Password { username, password } => vec![
            identifier("username", "username_file", username),
            secret("password", "password_file", password),
        ],
        LoginConfig::DockerConfig(path) => {
            vec![("docker_config", quoted(&path.to_string_lossy()))]
        }
        LoginConfig::Exec {
            command,
            timeout,
            ttl,
        } => vec![
            ("exec", texts(command)),
            ("timeout", duration(*timeout)),
            ("ttl", duration(*ttl)),
        ],
        LoginConfig::Cloud(cloud) => self::cloud(cloud),
    }
}

fn cloud(cloud: &CloudConfig) -> Pairs {
    let given = |key, value: Option<&String>| value.map(|value| (key, quoted(value)));
    let (provider, mut pairs, of) = match cloud {
        CloudConfig::Ecr {
            region,
            keys,
            session_token,
            web_identity,
            urls,
        } => {
            let mut pairs = access(AWS, keys.as_ref(), session_token.as_ref());
            pairs.extend(given("region", region.as_ref()));
            if let Some((role, file)) = web_identity {
                pairs.push(("role_arn", quoted(role)));
                let file = quoted(&file.to_string_lossy());
                pairs.push(("web_identity_token_file", file));
            }
            ("ecr", pairs, urls)
        }
        CloudConfig::Gar { key_file, urls } => {
            let file = key_file.as_ref().map(|file| file.to_string_lossy());
            let pairs = file.map(|file| ("key_file", quoted(&file)));
            ("gar", pairs.into_iter().collect(), urls)
        }
        CloudConfig::AzureAcr {
            tenant,
            client_id,
            client_secret,
            urls,
        } => {
            let mut pairs = Pairs::new();
            pairs.extend(given("tenant_id", tenant.as_ref()));
            pairs.extend(given("client_id", client_id.as_ref()));
            let own = client_secret.as_ref();
            pairs.extend(own.map(|own| secret("client_secret", "client_secret_file", own)));
            ("acr-azure", pairs, urls)
        }
        CloudConfig::AlibabaAcr {
            region,
            instance_id,
            keys,
            session_token,
            role,
            urls,
        } => {
            let mut pairs = access(ALIBABA, keys.as_ref(), session_token.as_ref());
            pairs.extend(given("region", region.as_ref()));
            pairs.extend(given("instance_id", instance_id.as_ref()));
            pairs.extend(given("ram_role", role.as_ref()));
            ("acr-alibaba", pairs, urls)
        }
        CloudConfig::Tcr {
            region,
            instance_id,
            keys,
            session_token,
            role,
            urls,
        } => {
            let mut pairs = access(TENCENT, keys.as_ref(), session_token.as_ref());
            pairs.extend(given("region", Some(region)));
            pairs.extend(given("instance_id", Some(instance_id)));
            pairs.extend(given("cam_role", role.as_ref()));
            ("tcr", pairs, urls)
        }
    };
    pairs.insert(0, ("provider", quoted(provider)));
    pairs.extend(urls(of));
    pairs
}

fn urls(urls: &CloudUrls) -> Pairs {
    let all = [
        ("api_url", &urls.api),
        ("identity_url", &urls.identity),
        ("metadata_url", &urls.metadata),
    ];
    let given = all.into_iter();
    given
        .filter_map(|(key, url)| Some((key, quoted(url.as_ref()?.as_str()))))
        .collect()
}

/// The keys that a cloud's access key is written with: its id and the id's file, its secret and the
/// secret's file.
type AccessKeys = [&'static str; 4];

const AWS: AccessKeys = [
    "access_key_id",
    "access_key_id_file",
    "secret_access_key",
    "secret_access_key_file",
];
const ALIBABA: AccessKeys = [
    "access_key_id",
    "access_key_id_file",
    "access_key_secret",
    "access_key_secret_file",
];
const TENCENT: AccessKeys = [
    "secret_id",
    "secret_id_file",
    "secret_key",
    "secret_key_file",
];

fn access(names: AccessKeys, keys: Option<&(Text, Text)>, token: Option<&Text>) -> Pairs {
    let [id, id_file, key, key_file] = names;
    let mut pairs = Pairs::new();
    if let Some((given_id, given_key)) = keys {
        pairs.push(identifier(id, id_file, given_id));
        pairs.push(secret(key, key_file, given_key));
    }
    pairs.extend(token.map(|token| secret("session_token", "session_token_file", token)));
    pairs
}

/// A text that says who somebody is, and is not secret.
fn identifier(key: &'static str, file: &'static str, text: &Text) -> (&'static str, String) {
    match text {
        Text::Literal(text) => (key, quoted(text.expose())),
        Text::File(path) => (file, quoted(&path.to_string_lossy())),
    }
}

fn secret(key: &'static str, file: &'static str, text: &Text) -> (&'static str, String) {
    match text {
        Text::Literal(_) => (key, quoted(MASK)),
        Text::File(path) => (file, quoted(&path.to_string_lossy())),
    }
}

fn inline(pairs: Pairs) -> String {
    let mut out = String::new();
    for (key, value) in pairs {
        let start = if out.is_empty() { "{" } else { "," };
        // Writing to a String cannot fail.
        write!(out, "{start} {key} = {value}").ok();
    }
    out + " }"
}

fn texts(texts: &[String]) -> String {
    list(texts.iter().map(|text| quoted(text)))
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}
