//! Through which proxy an endpoint is reached.

use percent_encoding::percent_decode_str;
use serde_json::{Value as Json, json};
use url::Url;

use super::texts::source;
use crate::config::environment::Environment;
use crate::config::error::{Problem, Shown};
use crate::config::keys::ProxyTable;
use crate::config::origin::Origin;
use crate::config::schema;
use crate::config::table::{Context, Given, Key, Outcome, Place, Read, Written};
use crate::upstream::{Credentials, EnvironmentProxies, Proxy, ProxyConfig, Secret};

/// `proxy`: a word, a URL, or a table of a URL and its login.
pub(in crate::config) enum ProxyKey {}

/// A proxy as it was written.
#[derive(Clone)]
pub(in crate::config) enum WrittenProxy {
    Direct,
    Environment,
    Url(Proxy),
    Table(Box<ProxyTable>),
}

impl Read for ProxyKey {
    type Value = WrittenProxy;
    const KEYS: &'static [Key] = ProxyTable::KEYS;

    fn read(written: &Written<'_>, place: &Place, context: &Context<'_>) -> Outcome<WrittenProxy> {
        if written.get_ref().is_table() {
            let table = ProxyTable::read(written, place, context)?;
            return Ok(WrittenProxy::Table(Box::new(table)));
        }
        match written.get_ref().as_str() {
            Some("direct") => Ok(WrittenProxy::Direct),
            Some("environment") => Ok(WrittenProxy::Environment),
            Some(text) => parse(text)
                .map(WrittenProxy::Url)
                .map_err(|why| context.wrong(place, why)),
            None => {
                let why =
                    "must be a URL, \"direct\", \"environment\", or a table like { url = \"…\" }";
                Err(context.wrong(place, why))
            }
        }
    }
    fn schema() -> Json {
        let pattern = "^(direct|environment|(https?|socks5h?)://.+)$";
        let table = schema::requiring(ProxyTable::schema(), "url");
        json!({ "anyOf": [{ "type": "string", "pattern": pattern }, table] })
    }
}

/// The proxy that was written.
pub(in crate::config) fn proxy(
    given: &Given<WrittenProxy>,
    context: &Context<'_>,
) -> Outcome<ProxyConfig> {
    match &given.value {
        WrittenProxy::Direct => Ok(ProxyConfig::Direct),
        WrittenProxy::Environment => environment(context),
        WrittenProxy::Url(proxy) => Ok(ProxyConfig::Through(proxy.clone())),
        WrittenProxy::Table(table) => of_table(table, context).map(ProxyConfig::Through),
    }
}

/// The proxies of the environment's variables, as curl reads them: lower case before upper case.
pub(in crate::config) fn environment(context: &Context<'_>) -> Outcome<ProxyConfig> {
    of_variables(context.environment).map_err(|problem| context.report(problem))
}

fn of_variables(environment: &Environment) -> Result<ProxyConfig, Problem> {
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

fn of_table(table: &ProxyTable, context: &Context<'_>) -> Outcome<Proxy> {
    let username = source!(table, username username_file username_env);
    let password = source!(table, password password_file password_env);
    let pair = username.pair(&password, context)?;
    let url = table.url.as_ref();
    let missing = "is missing in this proxy";
    let Given { value, place } = table.keys.required(url, "url", missing, context)?;
    let mut proxy = parse(value).map_err(|why| context.wrong(place, why))?;
    if let Some((username, password)) = pair {
        if proxy.credentials.is_some() {
            let why = "holds a user name, and username is given too; only one of them can be";
            return Err(context.wrong(place, why));
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
