//! `dns:…`, `upstream:…`, `login:…`, `rate-limit:…` of each upstream, and `clock` by all of them: over the connections that
//! the server itself would make.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};
use url::{Host, Url};

use super::finding::Finding;
use crate::clock::SystemClock;
use crate::commands::cache::screen::span;
use crate::format::plural;
use crate::mirror::inspect::UpstreamStatus;
use crate::net::ProxyConfig;
use crate::telemetry::Metrics;
use crate::upstream::{
    Config, EndpointConfig, EndpointProbe, FetchError, LoginProbe, OwnListeners, Upstream,
};

/// The longest look at one upstream: all its requests, and those to its token servers.
const LOOK_MAX: Duration = Duration::from_secs(8);
/// The part of it in which answers are waited for: their own error says more than the end of the look.
const ANSWERS_MAX: Duration = Duration::from_secs(7);
/// The longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// The longest wait for names.
const NAMES_MAX: Duration = Duration::from_secs(5);
/// Clocks are this far apart by delays alone, and nothing minds.
const CLOCK_OFF_WARN: u64 = 30;
/// Token servers and certificates leave some minutes.
const CLOCK_OFF_FAIL: u64 = 300;

/// The findings of one upstream, and how far its clocks are ahead.
struct Looked {
    findings: Vec<Finding>,
    ahead: Vec<(String, i64)>,
}

/// Looks at all upstreams at once. `known`: what a server that runs says of them.
pub(super) async fn check(
    upstreams: &[Config],
    own: &OwnListeners,
    known: &[UpstreamStatus],
) -> Vec<Finding> {
    let looked = join_all(upstreams.iter().map(|config| {
        let known = known.iter().find(|it| it.name == config.name.as_str());
        look(config, own, known)
    }));
    let looked = looked.await;
    let ahead: Vec<_> = looked.iter().flat_map(|it| it.ahead.clone()).collect();
    let mut findings: Vec<_> = looked.into_iter().flat_map(|it| it.findings).collect();
    findings.push(clock(&ahead));
    findings
}

async fn look(config: &Config, own: &OwnListeners, known: Option<&UpstreamStatus>) -> Looked {
    let mut quick = config.clone();
    quick.header_timeout = config.header_timeout.min(ANSWERS_MAX);
    quick.connect_timeout = config.connect_timeout.min(CONNECT_MAX);
    let name = config.name.as_str();
    let metrics = Metrics::new([name].into_iter());
    let probing = async {
        let upstream = Upstream::beside(&quick, metrics, own).map_err(|error| error.to_string())?;
        let clock = SystemClock;
        let probed = timeout(LOOK_MAX, upstream.probe(&clock)).await;
        probed.map_err(|_elapsed| format!("no answer within {} s", LOOK_MAX.as_secs()))
    };
    let (dns, probes) = tokio::join!(names(config), probing);
    let mut findings = vec![dns];
    let probes = match probes {
        Ok(probes) => probes,
        Err(why) => {
            let key = key(name);
            findings.push(Finding::fail(
                format!("upstream:{name}"),
                why,
                format!("see the endpoints, ca_file and proxy of {key}"),
            ));
            findings.push(Finding::skipped(
                format!("login:{name}"),
                "the upstream does not answer",
            ));
            return Looked {
                findings,
                ahead: Vec::new(),
            };
        }
    };
    findings.push(reached(config, &probes));
    findings.push(logins(config, &probes));
    findings.push(rate_limit(name, &probes, known));
    let ahead = probes.iter().filter_map(|probe| {
        let answer = probe.answer.as_ref().ok()?;
        Some((probe.host.clone(), answer.ahead_seconds?))
    });
    Looked {
        findings,
        ahead: ahead.collect(),
    }
}

/// The table of an upstream in the configuration.
fn key(name: &str) -> String {
    format!("[upstream.{name:?}]")
}

/// The names of the endpoints stand for addresses.
async fn names(config: &Config) -> Finding {
    let id = format!("dns:{}", config.name);
    let hosts: BTreeSet<(String, u16)> = config.endpoints.iter().filter_map(looked_up).collect();
    if hosts.is_empty() {
        let why = "no name is looked up here: addresses, `resolve`, or a proxy that does it";
        return Finding::skipped(id, why);
    }
    let began = Instant::now();
    let found = join_all(hosts.iter().map(|(host, port)| async move {
        let found = timeout(NAMES_MAX, lookup_host((host.as_str(), *port))).await;
        let found = match found {
            Ok(Ok(found)) => Ok(found.map(|it| it.ip()).collect::<BTreeSet<_>>().len()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_elapsed) => Err(format!("no answer within {} s", NAMES_MAX.as_secs())),
        };
        (host, found)
    }));
    let mut shown = Vec::new();
    for (host, found) in found.await {
        match found {
            Ok(addresses) => {
                let addresses = u64::try_from(addresses).unwrap_or(u64::MAX);
                shown.push(match addresses {
                    1 => format!("{host} has 1 address"),
                    _ => format!("{host} has {addresses} addresses"),
                });
            }
            Err(why) => {
                let advice = format!(
                    "see /etc/resolv.conf and the name server there; behind a proxy that resolves names: proxy of {}; for a fixed address: resolve of the endpoint",
                    key(config.name.as_str())
                );
                return Finding::fail(id, format!("{host} cannot be looked up: {why}"), advice);
            }
        }
    }
    let took = span(began.elapsed());
    Finding::ok(id, format!("{} ({took})", shown.join(", ")))
}

/// The host of an endpoint, if this machine looks it up.
fn looked_up(endpoint: &EndpointConfig) -> Option<(String, u16)> {
    let is_named = matches!(endpoint.url.host(), Some(Host::Domain(_)));
    let is_here = is_named && endpoint.resolve.is_empty() && proxy(endpoint).is_none();
    let port = endpoint.url.port_or_known_default()?;
    is_here
        .then(|| endpoint.url.host_str())?
        .map(|host| (host.to_owned(), port))
}

/// The proxy on the way to an endpoint, without its login.
fn proxy(endpoint: &EndpointConfig) -> Option<String> {
    match &endpoint.proxy {
        ProxyConfig::Direct => None,
        ProxyConfig::Through(proxy) => Some(proxy.url.to_string()),
        ProxyConfig::Environment(proxies) => {
            let own = if endpoint.url.scheme() == "https" {
                &proxies.https
            } else {
                &proxies.http
            };
            let set = own.as_ref().or(proxies.all.as_ref())?;
            // The user name and the password in it are secrets.
            let url: Option<Url> = set.expose().parse().ok();
            let host = url.map(|url| format!("{}://{}", url.scheme(), url_host(&url)));
            let host = host.unwrap_or_else(|| "that of the environment".to_owned());
            Some(format!("{host}, unless NO_PROXY names the host"))
        }
    }
}

fn url_host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Each endpoint answers at `/v2/`.
fn reached(config: &Config, probes: &[EndpointProbe]) -> Finding {
    let name = config.name.as_str();
    let id = format!("upstream:{name}");
    let mut well = Vec::new();
    let mut ill = Vec::new();
    for (probe, endpoint) in probes.iter().zip(&config.endpoints) {
        let host = &probe.host;
        let through = proxy(endpoint).map_or(String::new(), |it| format!(", through proxy {it}"));
        match &probe.answer {
            Ok(answer) => {
                let took = span(answer.took);
                let status = answer.status;
                well.push(format!("{host} answers {status} in {took}{through}"));
            }
            Err(error) => ill.push((format!("{host}: {error}{through}"), advice(name, error))),
        }
    }
    let texts: Vec<&str> = ill.iter().map(|(text, _)| text.as_str()).collect();
    let advices: BTreeSet<&str> = ill.iter().map(|(_, advice)| advice.as_str()).collect();
    let advices = advices.into_iter().collect::<Vec<_>>().join("\n");
    if ill.is_empty() {
        Finding::ok(id, well.join("; "))
    } else if well.is_empty() {
        Finding::fail(id, texts.join("; "), advices)
    } else {
        let summary = format!("{}; {}", texts.join("; "), well.join("; "));
        Finding::warn(id, summary, advices)
    }
}

/// The next step after a failure.
fn advice(name: &str, error: &FetchError) -> String {
    let key = key(name);
    let text = error.to_string();
    let has = |words: &str| text.contains(words);
    match error {
        FetchError::Connect(_) if has("UnknownIssuer") || has("CaUsedAsEndEntity") => format!(
            "its certificate is of an authority that this machine does not know: name the file with that authority's certificate in ca_file of the endpoint in {key}"
        ),
        FetchError::Connect(_) if has("not valid for name") || has("NotValidForName") => {
            format!("its certificate is for other names: correct the host in endpoints of {key}")
        }
        FetchError::Connect(_) if has("xpired") || has("not valid yet") || has("NotValidYet") => {
            "its certificate's time is over or has not begun: see the check `clock`, or tell who runs the registry".to_owned()
        }
        FetchError::Connect(_) if has("InvalidContentType") || has("corrupt message") => {
            format!("it speaks plain HTTP: write http:// in endpoints of {key}")
        }
        FetchError::Connect(_) if has("407") => {
            format!("the proxy wants a login: proxy of {key} takes url, username and password")
        }
        FetchError::Connect(_) | FetchError::Timeout(_) | FetchError::Broken(_) => format!(
            "is the registry up, are host and port in endpoints of {key} right, does a firewall let this machine out? Where only a proxy leads out: proxy of {key}"
        ),
        FetchError::Ourselves(_) => {
            format!("endpoints of {key} names this mirror itself: name the registry")
        }
        FetchError::RateLimited { .. } | FetchError::Unavailable { .. } => {
            format!("it limits this address: give {key} a login, or wait")
        }
        FetchError::NotFound { .. } | FetchError::Protocol(_) | FetchError::Status(_) => {
            format!("it is no registry, or lies at another path: see endpoints of {key}")
        }
        FetchError::Unauthorized
        | FetchError::Challenged(_)
        | FetchError::Denied
        | FetchError::RangeNotSatisfiable
        | FetchError::TooLarge { .. }
        | FetchError::Loop(_)
        | FetchError::Inside(_)
        | FetchError::Login(_)
        | FetchError::LoginRefused(_)
        | FetchError::Busy
        | FetchError::Limited
        | FetchError::Token(_) => format!("see the endpoints of {key}, and who runs the registry"),
    }
}

/// Each configured login is accepted.
fn logins(config: &Config, probes: &[EndpointProbe]) -> Finding {
    let name = config.name.as_str();
    let id = format!("login:{name}");
    let has_login = |it: &EndpointConfig| {
        let logins = it.logins.as_ref().unwrap_or(&config.logins);
        !logins.is_empty()
    };
    if !config.endpoints.iter().any(has_login) {
        return Finding::skipped(id, "anonymous: no login is configured");
    }
    let all: Vec<(&str, usize, &LoginProbe)> = probes
        .iter()
        .flat_map(|probe| {
            let logins = probe.logins.iter().enumerate();
            logins.map(|(number, login)| (probe.host.as_str(), number + 1, login))
        })
        .collect();
    if all.is_empty() {
        return Finding::skipped(id, "the upstream does not answer");
    }
    let refused = all.iter().filter_map(|(host, number, login)| match login {
        LoginProbe::Refused(error) => {
            // The text of such an error is about a request for content.
            let why = if *error == FetchError::Unauthorized {
                "refused (401)".to_owned()
            } else {
                error.to_string()
            };
            Some((format!("{host}, login {number}: {why}"), error))
        }
        LoginProbe::Taken | LoginProbe::NotAsked => None,
    });
    let refused: Vec<(String, &FetchError)> = refused.collect();
    if let Some((_, first)) = refused.first() {
        let advice = login_advice(name, first);
        let texts: Vec<&str> = refused.iter().map(|(text, _)| text.as_str()).collect();
        return Finding::fail(id, texts.join("; "), advice);
    }
    let taken = all.iter().filter(|(.., it)| **it == LoginProbe::Taken);
    match u64::try_from(taken.count()).unwrap_or(u64::MAX) {
        0 => Finding::skipped(id, "the registry asks nobody who he is at /v2/"),
        taken => Finding::ok(id, format!("{} accepted", plural(taken, "login"))),
    }
}

/// The next step after a refused login.
fn login_advice(name: &str, error: &FetchError) -> String {
    let key = key(name);
    match error {
        FetchError::Unauthorized | FetchError::Denied | FetchError::LoginRefused(_) => {
            format!(
                "correct username and password (or password_file, docker_config, exec, cloud) of {key}; tokens and passwords may have expired"
            )
        }
        FetchError::Login(_) => format!("see the login of {key}: the text names its source"),
        FetchError::Token(_) | FetchError::Inside(_) | FetchError::Protocol(_) => {
            format!(
                "its token server failed, or lies where it is not followed: redirect_networks of the endpoint in {key}"
            )
        }
        FetchError::NotFound { .. }
        | FetchError::Challenged(_)
        | FetchError::RateLimited { .. }
        | FetchError::Unavailable { .. }
        | FetchError::RangeNotSatisfiable
        | FetchError::Status(_)
        | FetchError::Connect(_)
        | FetchError::Timeout(_)
        | FetchError::Broken(_)
        | FetchError::TooLarge { .. }
        | FetchError::Loop(_)
        | FetchError::Ourselves(_)
        | FetchError::Busy
        | FetchError::Limited => advice(name, error),
    }
}

/// Pulls are left.
fn rate_limit(name: &str, probes: &[EndpointProbe], known: Option<&UpstreamStatus>) -> Finding {
    let id = format!("rate-limit:{name}");
    let advice = format!(
        "a login for {} has an allowance of its own, several logins add up; a longer tags.ttl asks less often",
        key(name)
    );
    let endpoints = known.map(|it| &it.endpoints[..]).unwrap_or_default();
    if let Some(limited) = endpoints.iter().find(|it| it.limited_for_seconds.is_some()) {
        let seconds = limited.limited_for_seconds.unwrap_or_default();
        let wait = span(Duration::from_secs_f64(seconds.clamp(0.0, 1e6)));
        let summary = format!("{} limits this mirror for another {wait}", limited.host);
        return Finding::warn(id, summary, advice);
    }
    let limited = probes.iter().find_map(|probe| match &probe.answer {
        Err(FetchError::RateLimited { .. }) => Some(&probe.host),
        Ok(_) | Err(_) => None,
    });
    if let Some(host) = limited {
        return Finding::warn(id, format!("{host} limits this address"), advice);
    }
    let told = endpoints.iter().filter_map(|it| it.remaining_pulls);
    let said = probes.iter().filter_map(|probe| {
        let answer = probe.answer.as_ref().ok()?;
        answer.allowance.map(|(_, left)| left)
    });
    match told.min().or(said.min()) {
        None => Finding::skipped(id, "the registry has not said what is left"),
        Some(left @ 0..10) => Finding::warn(id, format!("{} left", plural(left, "pull")), advice),
        Some(left) => Finding::ok(id, format!("{} left", plural(left, "pull"))),
    }
}

/// This machine's clock, by those of the upstreams: one that agrees is enough, since it is theirs that may be wrong.
fn clock(ahead: &[(String, i64)]) -> Finding {
    let closest = ahead
        .iter()
        .min_by_key(|(_, seconds)| seconds.unsigned_abs());
    let Some((host, seconds)) = closest else {
        return Finding::skipped("clock", "no upstream has said the time");
    };
    let off = seconds.unsigned_abs();
    let way = if *seconds > 0 { "behind" } else { "ahead of" };
    let summary = format!(
        "this machine is {} {way} {host}",
        span(Duration::from_secs(off))
    );
    let advice =
        "set the clock by NTP (timedatectl set-ntp true): tokens and certificates are judged by it";
    if off > CLOCK_OFF_FAIL {
        Finding::fail("clock", summary, advice)
    } else if off > CLOCK_OFF_WARN {
        Finding::warn("clock", summary, advice)
    } else {
        let summary = format!("within {off} s of {host}");
        Finding::ok("clock", summary)
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;

    #[test]
    fn a_clock_is_right_if_some_upstream_agrees() {
        let of = |ahead: &[i64]| {
            let ahead: Vec<_> = ahead.iter().map(|it| ("a.io".to_owned(), *it)).collect();
            clock(&ahead)
        };
        for (ahead, status) in [
            (&[][..], Status::Skipped),
            (&[0], Status::Ok),
            (&[-30], Status::Ok),
            (&[31], Status::Warn),
            (&[-300], Status::Warn),
            (&[301], Status::Fail),
            (&[-4000, 2], Status::Ok),
        ] {
            assert_eq!(of(ahead).status, status, "{ahead:?}");
        }
        assert_eq!(of(&[3600]).summary, "this machine is 1 h behind a.io");
        assert_eq!(of(&[-60]).summary, "this machine is 1 min ahead of a.io");
        assert_eq!(of(&[0]).summary, "within 0 s of a.io");
    }

    #[test]
    fn advice_names_the_key_to_change() {
        let connect = |why: &str| FetchError::Connect(why.to_owned());
        for (error, part) in [
            (
                connect("a: invalid peer certificate: UnknownIssuer"),
                "ca_file",
            ),
            (connect("a: Connection refused"), "endpoints of"),
            (FetchError::Timeout("a connection"), "proxy of"),
            (
                FetchError::Ourselves("127.0.0.1:5000".to_owned()),
                "this mirror itself",
            ),
        ] {
            let advice = advice("a.io", &error);
            assert!(
                advice.contains(part) && advice.contains("[upstream.\"a.io\"]"),
                "{advice}"
            );
        }
    }
}
