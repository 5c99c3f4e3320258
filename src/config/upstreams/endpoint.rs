//! The endpoints of an upstream.

use http::{HeaderName, HeaderValue};
use serde_json::{Value as Json, json};
use toml::de::DeValue;
use url::{Host, Url};

use super::{Named, logins, proxy};
use crate::config::keys::Endpoint;
use crate::config::schema;
use crate::config::table::{
    About, Context, Given, Key, Outcome, Place, Read, Scalar, Values as _, Written, in_order,
};
use crate::config::values::{EndpointUrl, Text};
use crate::upstream::{ClientCertificate, EndpointConfig, ProxyConfig};

/// An endpoint: a URL, or a table of a URL and its options.
pub(in crate::config) enum EndpointKey {}

/// An endpoint as it was written.
#[derive(Clone)]
pub(in crate::config) enum WrittenEndpoint {
    Url(Url),
    Table(Box<Endpoint>),
}

/// Names and values of headers.
pub(in crate::config) enum HeadersKey {}

impl Read for EndpointKey {
    type Value = WrittenEndpoint;
    const KEYS: &'static [Key] = Endpoint::KEYS;

    fn read(
        written: &Written<'_>,
        place: &Place,
        context: &Context<'_>,
    ) -> Outcome<WrittenEndpoint> {
        if written.get_ref().is_table() {
            let table = Endpoint::read(written, place, context)?;
            return Ok(WrittenEndpoint::Table(Box::new(table)));
        }
        EndpointUrl::read(written, place, context).map(WrittenEndpoint::Url)
    }
    fn schema() -> Json {
        let table = schema::requiring(Endpoint::schema(), "url");
        json!({ "anyOf": [<EndpointUrl as Scalar>::schema(), table] })
    }
}

impl About for EndpointKey {
    fn about_list() -> String {
        "must be an array like [\"…\"]".to_owned()
    }
}

impl Read for HeadersKey {
    type Value = Vec<(HeaderName, HeaderValue)>;

    /// The values may be secrets, and are not repeated in an error.
    fn read(written: &Written<'_>, place: &Place, context: &Context<'_>) -> Outcome<Self::Value> {
        let DeValue::Table(table) = written.get_ref() else {
            return Err(context.wrong(place, "must be a table like { \"X-Name\" = \"value\" }"));
        };
        let mut headers: Self::Value = Vec::with_capacity(table.len());
        let mut outcome = Ok(());
        for (name, value) in in_order(table) {
            let place = Place {
                key: format!("{}.{:?}", place.key, name.get_ref()),
                origin: context.origins.of(value.span().start),
            };
            match header(name.get_ref(), value.get_ref(), &headers) {
                Ok(header) => headers.push(header),
                Err(why) => outcome = Err(context.wrong(&place, why)),
            }
        }
        outcome.map(|()| headers)
    }
    fn schema() -> Json {
        json!({ "type": "object", "additionalProperties": <Text as Scalar>::schema() })
    }
}

/// The endpoints of an upstream; `usual` is how it reaches those that do not say it themselves.
pub(super) fn endpoints(
    upstream: &Named,
    usual: Option<&ProxyConfig>,
    context: &Context<'_>,
) -> Outcome<Vec<EndpointConfig>> {
    let (keys, given) = (&upstream.keys.keys, upstream.keys.endpoints.as_ref());
    let name = &upstream.written;
    let missing = format!("is missing; write endpoints = [\"https://{name}\"]");
    let given = keys.required(given, "endpoints", &missing, context)?;
    if given.value.is_empty() {
        return Err(context.wrong(&given.place, "must name at least one URL"));
    }
    let usual = usual.cloned().unwrap_or_default();
    let endpoints = given.value.iter().map(|Given { value, .. }| match value {
        WrittenEndpoint::Url(url) => Ok(EndpointConfig {
            proxy: usual.clone(),
            ..EndpointConfig::at(url.clone())
        }),
        WrittenEndpoint::Table(table) => endpoint(table, &usual, context),
    });
    // All are looked at before the first that is wrong ends it.
    let endpoints: Vec<_> = endpoints.collect();
    endpoints.into_iter().collect()
}

fn endpoint(
    table: &Endpoint,
    usual: &ProxyConfig,
    context: &Context<'_>,
) -> Outcome<EndpointConfig> {
    let (url, missing) = (table.url.as_ref(), "is missing in this endpoint");
    let Given { value: url, .. } = table.keys.required(url, "url", missing, context)?;
    let insecure_skip_verify = table.insecure_skip_verify.value_or(false);
    let tls = refuse_tls(table, insecure_skip_verify, url, context)
        .and_then(|()| client_certificate(table, context));
    let proxy = table
        .proxy
        .as_ref()
        .map(|given| proxy::proxy(given, context));
    let logins = logins::of_endpoint(table, &[url.host_str().unwrap_or_default()], context);
    let resolve = table.resolve.value().unwrap_or_default();
    if let (Some(given), false) = (&table.resolve, matches!(url.host(), Some(Host::Domain(_)))) {
        return Err(context.wrong(&given.place, "the URL holds an address already"));
    }
    let client_certificate = tls?;
    Ok(EndpointConfig {
        ca_file: table.ca_file.value(),
        client_certificate,
        insecure_skip_verify,
        proxy: proxy.transpose()?.unwrap_or_else(|| usual.clone()),
        resolve,
        redirect_networks: table.redirect_networks.value().unwrap_or_default(),
        headers: table.headers.value().unwrap_or_default(),
        logins: logins?,
        url: url.clone(),
    })
}

/// Refuses what is about TLS where there is none.
fn refuse_tls(table: &Endpoint, skips: bool, url: &Url, context: &Context<'_>) -> Outcome<()> {
    if url.scheme() != "http" {
        return Ok(());
    }
    let skips = skips.then_some("insecure_skip_verify");
    let https_only = ["ca_file", "client_cert", "client_key"].into_iter();
    let mut given = https_only
        .chain(skips)
        .filter_map(|name| table.keys.place_of(name));
    given.next().map_or(Ok(()), |place| {
        Err(context.wrong(place, "is for https:// endpoints, and this one is http://"))
    })
}

fn client_certificate(
    table: &Endpoint,
    context: &Context<'_>,
) -> Outcome<Option<ClientCertificate>> {
    match (&table.client_cert, &table.client_key) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => Ok(Some(ClientCertificate {
            cert: cert.value.clone(),
            key: key.value.clone(),
        })),
        (Some(cert), None) => Err(context.wrong(&cert.place, "needs client_key")),
        (None, Some(key)) => Err(context.wrong(&key.place, "needs client_cert")),
    }
}

fn header(
    name: &str,
    value: &DeValue<'_>,
    others: &[(HeaderName, HeaderValue)],
) -> Result<(HeaderName, HeaderValue), String> {
    let name = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| "is not the name of a header".to_owned())?;
    if OUR_HEADERS.contains(&name.as_str()) {
        let why = "cannot be set here: roadstead sets this header itself, or must not send it";
        return Err(why.to_owned());
    }
    if others.iter().any(|(other, _)| *other == name) {
        return Err("is given twice".to_owned());
    }
    let value = HeaderValue::from_str(&Text::parse(value)?);
    let mut value = value.map_err(|_| "a header cannot have this value".to_owned())?;
    value.set_sensitive(true);
    Ok((name, value))
}

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
