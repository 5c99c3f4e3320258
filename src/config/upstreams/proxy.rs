//! Through which proxy an endpoint is reached.

use percent_encoding::percent_decode_str;
use url::Url;

use super::keys::Keys;
use super::logins::PASSWORD_KEYS;
use crate::config::error::{Problem, Shown};
use crate::config::layers::Environment;
use crate::config::raw::{Origin, Value};
use crate::config::values;
use crate::upstream::{Credentials, EnvironmentProxies, Proxy, ProxyConfig, Secret};

/// What the key `proxy` says, if it is there.
pub(super) fn proxy(keys: &Keys<'_>) -> Result<Option<ProxyConfig>, Problem> {
    let Some(leaf) = keys.leaf("proxy") else {
        return Ok(None);
    };
    let proxy = match &leaf.value {
        Value::Text(text) if text == "direct" => ProxyConfig::Direct,
        Value::Text(text) if text == "environment" => environment(keys.environment)?,
        Value::Text(text) => {
            let proxy = parse(text).map_err(|why| keys.problem("proxy", leaf, why))?;
            ProxyConfig::Through(proxy)
        }
        Value::Table(table) => {
            ProxyConfig::Through(of_table(&keys.of_table("proxy", table, &leaf.origin))?)
        }
        Value::Integer(_) | Value::Boolean(_) | Value::List(_) | Value::Other => {
            let why = "must be a URL, \"direct\", \"environment\", or a table like { url = \"…\" }";
            return Err(keys.problem("proxy", leaf, why));
        }
    };
    Ok(Some(proxy))
}

/// What the environment's variables say, as curl reads them: lower case before upper case.
pub(super) fn environment(environment: &Environment) -> Result<ProxyConfig, Problem> {
    let proxy = |names: [&str; 2]| {
        for name in names {
            let Some(text) = environment.vendors(name)? else {
                continue;
            };
            // They are often written without a scheme, which means http.
            let whole = if text.contains("://") {
                text.clone()
            } else {
                format!("http://{text}")
            };
            let origin = Origin::Environment(name.to_owned());
            parse(&whole).map_err(|why| Problem::new(&origin, "", why))?;
            return Ok(Some(Secret::new(text)));
        }
        Ok(None)
    };
    let proxies = EnvironmentProxies {
        http: proxy(["http_proxy", "HTTP_PROXY"])?,
        https: proxy(["https_proxy", "HTTPS_PROXY"])?,
        all: proxy(["all_proxy", "ALL_PROXY"])?,
        no: match environment.vendors("no_proxy")? {
            None => environment.vendors("NO_PROXY")?.unwrap_or_default(),
            Some(no) => no,
        },
    };
    let any = [&proxies.http, &proxies.https, &proxies.all];
    Ok(if any.iter().any(|proxy| proxy.is_some()) {
        ProxyConfig::Environment(proxies)
    } else {
        ProxyConfig::Direct
    })
}

fn of_table(keys: &Keys<'_>) -> Result<Proxy, Problem> {
    keys.only(
        &KEYS
            .iter()
            .chain(PASSWORD_KEYS)
            .copied()
            .collect::<Vec<_>>(),
    )?;
    let pair = keys.pair("username", "password")?;
    let Some(leaf) = keys.leaf("url") else {
        return Err(keys.incomplete("url", "is missing in this proxy"));
    };
    let url = values::text(&leaf.value).and_then(|text| parse(&text));
    let mut proxy = url.map_err(|why| keys.problem("url", leaf, why))?;
    if let Some((username, password)) = pair {
        if proxy.credentials.is_some() {
            let why = "holds a user name, and username is given too; only one of them can be";
            return Err(keys.problem("url", leaf, why));
        }
        // Proxies are set up once, so a password's file is read once, too.
        proxy.credentials = Some(Credentials {
            username: username.now.expose().to_owned(),
            password: password.now,
        });
    }
    Ok(proxy)
}

/// A proxy's URL, with a user name and password or without.
fn parse(text: &str) -> Result<Proxy, String> {
    let shown = Shown(text);
    let wrong = || format!("{shown} is not an http, https, socks5 or socks5h URL");
    let mut url = Url::parse(text).map_err(|why| format!("{}: {why}", wrong()))?;
    let known = ["http", "https", "socks5", "socks5h"];
    if !known.contains(&url.scheme()) || url.host_str().is_none_or(str::is_empty) {
        return Err(wrong());
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("{shown} must end after the host and port"));
    }
    let decode = |part: &str| {
        let text = percent_decode_str(part).decode_utf8();
        let text =
            text.map_err(|_| format!("the user name or password in {shown} is not UTF-8"))?;
        Ok::<_, String>(text.into_owned())
    };
    let username = decode(url.username())?;
    let password = url.password().map(decode).transpose()?;
    if username.contains(':') {
        return Err(format!("the user name in {shown} must not contain a colon"));
    }
    let given = !username.is_empty() || password.is_some();
    // These cannot fail for a URL with a host.
    url.set_username("").map_err(|()| wrong())?;
    url.set_password(None).map_err(|()| wrong())?;
    Ok(Proxy {
        url,
        credentials: given.then(|| Credentials {
            username,
            password: Secret::new(password.unwrap_or_default()),
        }),
    })
}

/// The keys of a proxy that is written as a table, besides those of its login.
pub(super) const KEYS: &[&str] = &["url"];
