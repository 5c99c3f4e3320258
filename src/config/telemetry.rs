//! `[telemetry.otlp]`: the export of traces.

use serde_json::{Value as Json, json};
use toml::de::DeValue;
use url::Url;

use super::error::Shown;
use super::table::{
    Context, Given, Outcome, Place, Read, Scalar, Values as _, Written, in_order, name, table,
};
use super::upstreams::{ProxyKey, can_be_read, proxy_of};
use super::values::{Path, ServiceUrl, Text, TimeLimit};
use crate::otlp::{self, Headers};
use crate::telemetry::trace::Ratio;

table! {
    /// `[telemetry]`.
    TelemetryKey {
        /// Traces, sent to an OpenTelemetry collector. Without this table nothing is traced.
        otlp: OtlpKey,
    }
}

table! {
    /// `[telemetry.otlp]`.
    OtlpKey {
        /// The collector's base URL for OTLP over HTTP (protobuf): `http://collector:4318`. Spans are sent to `/v1/traces` below it. Required.
        endpoint: CollectorUrl,
        /// Headers of each request to the collector, such as `Authorization`. Values are treated as secrets.
        headers: HeadersKey,
        /// A file with more of them, `Name: value` on each line, read for each request.
        headers_file: Path,
        /// A PEM file of certificates that the collector's may be signed by, besides the system's.
        ca_file: Path,
        /// The way to the collector: `direct`, `environment`, a URL or a table, as `proxy` of an upstream. Default: `direct`.
        proxy: ProxyKey,
        /// The part of the requests that is traced, from `0` to `1`, of those whose client sends no `traceparent`. A request whose client traces it (`traceparent` with the sampled flag) is traced besides, up to 100 a second. Default: `0.01`.
        sample: Ratios,
        /// Time that one request to the collector may take. Default: `10s`.
        timeout: TimeLimit,
    }
}

/// A number from 0 to 1.
pub(super) enum Ratios {}

/// The base URL of a collector.
pub(super) enum CollectorUrl {}

/// Names and values of headers.
pub(super) enum HeadersKey {}

impl Scalar for Ratios {
    type Value = Ratio;

    fn parse(written: &DeValue<'_>) -> Result<Ratio, String> {
        let number = match written {
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(number) => number.as_str().parse().ok(),
            DeValue::String(text) => text.trim().parse().ok(),
            DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                None
            }
        };
        let ratio = number.and_then(Ratio::of);
        ratio.ok_or_else(|| "must be a number from 0 to 1".to_owned())
    }
    fn schema() -> Json {
        json!({ "type": "number", "minimum": 0, "maximum": 1 })
    }
}

impl Scalar for CollectorUrl {
    type Value = Url;

    fn parse(written: &DeValue<'_>) -> Result<Url, String> {
        let url = ServiceUrl::parse(written)?;
        if url.path().trim_end_matches('/').ends_with("/v1/traces") {
            let shown = Shown(url.as_str());
            return Err(format!(
                "{shown} is more than the base URL: /v1/traces is added to it"
            ));
        }
        Ok(url)
    }
    fn schema() -> Json {
        <ServiceUrl as Scalar>::schema()
    }
}

impl Read for HeadersKey {
    type Value = Headers;

    /// The values are secrets, and are not repeated in an error.
    fn read(written: &Written<'_>, place: &Place, context: &Context<'_>) -> Outcome<Headers> {
        let DeValue::Table(table) = written.get_ref() else {
            let why = "must be a table like { Authorization = \"Bearer …\" }";
            return Err(context.wrong(place, why));
        };
        let mut headers = Headers::default();
        let mut outcome = Ok(());
        for (name, value) in in_order(table) {
            let place = place.under(name.get_ref(), context.origins.of(value.span().start));
            let added = Text::parse(value.get_ref()).and_then(|text| {
                let added = headers.add(name.get_ref(), &text);
                added.map_err(str::to_owned)
            });
            if let Err(why) = added {
                outcome = Err(context.wrong(&place, why));
            }
        }
        outcome.map(|()| headers)
    }
    fn schema() -> Json {
        json!({ "type": "object", "additionalProperties": <Text as Scalar>::schema() })
    }
}

/// Resolves `[telemetry]`.
pub(super) fn resolve(
    given: Option<&Given<TelemetryKey>>,
    context: &Context<'_>,
) -> Option<Box<otlp::Config>> {
    let keys = &given?.value.otlp.as_ref()?.value;
    let why = "is missing; write endpoint = \"http://collector:4318\"";
    let endpoint = keys
        .keys
        .required(keys.endpoint.as_ref(), "endpoint", why, context);
    let endpoint = &endpoint.ok()?.value;
    if let Some(given) = keys
        .ca_file
        .as_ref()
        .filter(|_| endpoint.scheme() == "http")
    {
        let why = "is for https:// collectors, and this one is http://";
        context.wrong(&given.place, why);
    }
    if let Some(Given { value, place }) = &keys.headers_file
        && let Err(why) = can_be_read(value).and_then(|()| Headers::read(value))
    {
        context.wrong(place, format!("cannot be used: {why}"));
    }
    let proxy = keys.proxy.as_ref().map(|given| proxy_of(given, context));
    Some(Box::new(otlp::Config {
        headers: keys.headers.value().unwrap_or_default(),
        headers_file: keys.headers_file.value(),
        ca_file: keys.ca_file.value(),
        proxy: proxy.transpose().ok()?.unwrap_or_default(),
        sample: keys.sample.value_or(otlp::Config::SAMPLE),
        timeout: keys.timeout.value_or(otlp::Config::TIMEOUT),
        ..otlp::Config::at(endpoint.clone())
    }))
}
