//! Endpoints behind proxies.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::proxy_server::{Manner, ProxyServer};
use super::server::{Server, answer};
use super::tls::{Authority, pull};
use super::*;
use crate::net::Deadline;
use crate::net::{HttpClient, Way};
use crate::telemetry::Kind;
use crate::upstream::{Credentials, EnvironmentProxies, Proxy, ProxyConfig};

/// A name that no resolver knows.
const REGISTRY: &str = "registry.invalid";
/// `robot:pa55-w0rd`.
const BASIC: &str = "Basic cm9ib3Q6cGE1NS13MHJk";
const TUNNEL: &str = "HTTP/1.1 200 Connection established\r\n\r\n";
const UNKNOWN: &str = "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";

fn open(_head: &str) -> String {
    TUNNEL.to_owned()
}

/// Wants `robot` and the password.
fn guarded(head: &str) -> String {
    let known = format!("Proxy-Authorization: {BASIC}\r\n").to_ascii_lowercase();
    if head.to_ascii_lowercase().contains(&known) {
        forwarding(head)
    } else {
        UNKNOWN.to_owned()
    }
}

/// Answers plain requests itself: blobs lie elsewhere.
fn forwarding(head: &str) -> String {
    if head.starts_with("CONNECT ") {
        TUNNEL.to_owned()
    } else if head.contains("/blobs/") {
        let to = "http://cdn.invalid/signed?a=b";
        format!("HTTP/1.1 307 See\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
    } else {
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_owned()
    }
}

fn through(scheme: &str, proxy: &ProxyServer, password: Option<&str>) -> ProxyConfig {
    ProxyConfig::Through(Proxy {
        url: Url::parse(&format!("{scheme}://{}", proxy.address)).unwrap(),
        credentials: password.map(|password| Credentials {
            username: "robot".to_owned(),
            password: Secret::new(password.to_owned()),
        }),
    })
}

fn behind(endpoint: &str, proxy: ProxyConfig) -> Config {
    let mut config = config(&[endpoint]);
    config.endpoints[0].proxy = proxy;
    config
}

/// An HTTPS registry under a name that only a proxy knows, and its address. Under `/away/` its blobs
/// lie elsewhere.
async fn registry(authority: &Authority, name: &str) -> (Server, SocketAddr) {
    let acceptor = authority.acceptor(name, &[b"h2", b"http/1.1"]);
    let server = Server::listen(Some(acceptor), |request| {
        if request.target.starts_with("/away/") && request.target.contains("/blobs/") {
            answer(307, &[("location", "https://cdn.invalid/x")], "").into()
        } else {
            answer(200, &[], "{}").into()
        }
    })
    .await;
    let address = server.url().strip_prefix("https://").unwrap().parse();
    (server, address.unwrap())
}

async fn plain() -> (Server, SocketAddr) {
    let server = Server::start(|_| answer(200, &[], "{}").into()).await;
    let address = server.url().strip_prefix("http://").unwrap().parse();
    (server, address.unwrap())
}

/// The endpoint's scheme, what the proxy answers, the password it is told, the error.
type Refusal<'a> = (&'a str, fn(&str) -> String, Option<&'a str>, String);

fn nowhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9))
}

fn why(error: &FetchError) -> &str {
    let FetchError::Connect(why) = error else {
        panic!("{error:?}")
    };
    assert!(!why.contains(PASSWORD) && !why.contains("wrong"), "{why}");
    assert!(!why.contains("cm9ib3Q6"), "{why}");
    why
}

#[tokio::test]
async fn https_goes_through_one_tunnel_and_the_proxy_learns_the_host_alone() {
    let authority = Authority::new();
    let (server, address) = registry(&authority, REGISTRY).await;
    let cases = [
        ("http", Manner::Http(open), None),
        ("http", Manner::Http(guarded), Some(PASSWORD)),
        ("https", Manner::Http(guarded), Some(PASSWORD)),
    ];
    for (scheme, manner, password) in cases {
        let tls = (scheme == "https").then(|| authority.acceptor("127.0.0.1", &[b"http/1.1"]));
        let proxy = ProxyServer::start(manner, tls, address).await;
        let mut config = behind(
            &format!("https://{REGISTRY}"),
            through(scheme, &proxy, password),
        );
        config.endpoints[0].ca_file = Some(authority.ca_file());
        config.logins = vec![credentials()];
        let upstream = upstream(&config);
        pull(&upstream).await.unwrap();
        blob(&upstream, 0).await.unwrap();
        let seen = proxy.seen();
        assert_eq!(seen.len(), 1, "HTTP/2 in one tunnel: {seen:?}");
        let head = seen[0].lines().next().unwrap();
        assert_eq!(head, format!("CONNECT {REGISTRY}:443 HTTP/1.1"));
        assert_eq!(seen[0].contains(BASIC), password.is_some());
    }
    for seen in server.seen() {
        assert_eq!(seen.header("proxy-authorization"), None);
        assert_eq!(seen.version, http::Version::HTTP_2);
    }
}

#[tokio::test]
async fn a_proxy_with_an_unknown_certificate_is_not_trusted() {
    let authority = Authority::new();
    let tls = Authority::new().acceptor("127.0.0.1", &[]);
    let proxy = ProxyServer::start(Manner::Http(open), Some(tls), nowhere()).await;
    let mut config = behind("https://registry.invalid", through("https", &proxy, None));
    config.endpoints[0].ca_file = Some(authority.ca_file());
    // Said of the endpoint, not of the proxy.
    config.endpoints[0].insecure_skip_verify = true;
    let error = pull(&upstream(&config)).await.unwrap_err();
    let expected = format!("{REGISTRY}: proxy {}: ", proxy.address);
    assert!(why(&error).starts_with(&expected), "{error}");
    assert!(why(&error).contains("certificate"), "{error}");
    assert_eq!(proxy.seen().len(), 0);
}

#[tokio::test]
async fn plain_http_is_forwarded_with_the_whole_url_and_credentials_each_time() {
    let authority = Authority::new();
    for scheme in ["http", "https"] {
        let tls = (scheme == "https").then(|| authority.acceptor("127.0.0.1", &[b"http/1.1"]));
        let proxy = ProxyServer::start(Manner::Http(guarded), tls, nowhere()).await;
        let mut config = behind(
            "http://registry.invalid:5000",
            through(scheme, &proxy, Some(PASSWORD)),
        );
        config.endpoints[0].ca_file = Some(authority.ca_file());
        let upstream = upstream(&config);
        pull(&upstream).await.unwrap();
        blob(&upstream, 0).await.unwrap();
        let seen = proxy.seen();
        let lines: Vec<_> = seen
            .iter()
            .map(|head| head.lines().next().unwrap())
            .collect();
        let base = "GET http://registry.invalid:5000/v2/library/app";
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(lines[0], format!("{base}/manifests/latest HTTP/1.1"));
        assert_eq!(lines[1], format!("{base}/blobs/{} HTTP/1.1", digest()));
        assert_eq!(lines[2], "GET http://cdn.invalid/signed?a=b HTTP/1.1");
        assert!(seen.iter().all(|head| head.contains(BASIC)));
        assert!(
            seen[2]
                .to_ascii_lowercase()
                .contains("host: cdn.invalid\r\n")
        );
    }
}

#[tokio::test]
async fn a_redirect_to_https_goes_through_the_same_proxy() {
    let authority = Authority::new();
    let (cdn, address) = registry(&authority, "cdn.invalid").await;
    let proxy = ProxyServer::start(
        Manner::Http(|head| forwarding(head).replace("http://cdn", "https://cdn")),
        None,
        address,
    )
    .await;
    let mut config = behind("http://registry.invalid", through("http", &proxy, None));
    config.endpoints[0].ca_file = Some(authority.ca_file());
    blob(&upstream(&config), 0).await.unwrap();
    assert!(proxy.seen()[1].starts_with("CONNECT cdn.invalid:443 "));
    assert_eq!(cdn.seen()[0].target, "/signed?a=b");
}

#[tokio::test]
async fn a_proxy_that_refuses_says_what_to_look_at_and_no_secret() {
    let check = "with status 407: check its username and password";
    let wants = "with status 407: it wants a username and password";
    let denied = |_: &str| "HTTP/1.1 403 No\r\n\r\n".to_owned();
    let garbage = |_: &str| "SSH-2.0-OpenSSH\r\n\r\n".to_owned();
    let eager = |_: &str| format!("{TUNNEL}and more");
    let endless = |_: &str| format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(20_000));
    let cases: [Refusal<'_>; 8] = [
        (
            "https",
            guarded,
            Some("wrong"),
            format!("refused CONNECT {check}"),
        ),
        ("https", guarded, None, format!("refused CONNECT {wants}")),
        (
            "http",
            guarded,
            Some("wrong"),
            format!("refused the request {check}"),
        ),
        (
            "http",
            guarded,
            None,
            format!("refused the request {wants}"),
        ),
        (
            "https",
            denied,
            None,
            "refused CONNECT with status 403".to_owned(),
        ),
        (
            "https",
            garbage,
            None,
            "answered CONNECT with no HTTP".to_owned(),
        ),
        (
            "https",
            eager,
            None,
            "answered CONNECT with more than a header".to_owned(),
        ),
        (
            "https",
            endless,
            None,
            "answered CONNECT with a header that is too large".to_owned(),
        ),
    ];
    for (scheme, answer, password, expected) in cases {
        let proxy = ProxyServer::start(Manner::Http(answer), None, nowhere()).await;
        let proxied = through("http", &proxy, password);
        let upstream = upstream(&behind(&format!("{scheme}://{REGISTRY}"), proxied));
        let error = pull(&upstream).await.unwrap_err();
        let expected = format!("{REGISTRY}: proxy {} {expected}", proxy.address);
        assert!(why(&error).starts_with(&expected), "{error}\n{expected}");
    }
}

#[tokio::test]
async fn socks5_is_told_addresses_and_socks5h_names() {
    let (server, address) = plain().await;
    let port = address.port();
    for login in [None, Some(("robot", PASSWORD))] {
        let proxy = ProxyServer::start(Manner::Socks(login, 0), None, address).await;
        let password = login.map(|(_, password)| password);
        let names = through("socks5h", &proxy, password);
        pull(&upstream(&behind("http://registry.invalid", names)))
            .await
            .unwrap();
        let here = through("socks5", &proxy, password);
        let local = format!("http://localhost:{port}");
        pull(&upstream(&behind(&local, here))).await.unwrap();
        let seen = proxy.seen();
        assert_eq!(seen[0], "registry.invalid:80");
        let told: SocketAddr = seen[1].parse().unwrap();
        assert!(told.ip().is_loopback());
        assert_eq!(told.port(), port);
    }
    // An open proxy does not mind credentials.
    let proxy = ProxyServer::start(Manner::Socks(None, 0), None, address).await;
    let proxied = through("socks5h", &proxy, Some(PASSWORD));
    pull(&upstream(&behind("http://[2001:db8::1]:5000", proxied)))
        .await
        .unwrap();
    assert_eq!(proxy.seen(), ["[2001:db8::1]:5000"]);
    assert_eq!(server.seen().len(), 5);
}

#[tokio::test]
async fn tls_goes_through_socks() {
    let authority = Authority::new();
    let (server, address) = registry(&authority, REGISTRY).await;
    let proxy = ProxyServer::start(Manner::Socks(None, 0), None, address).await;
    let mut config = behind("https://registry.invalid", through("socks5h", &proxy, None));
    config.endpoints[0].ca_file = Some(authority.ca_file());
    pull(&upstream(&config)).await.unwrap();
    assert_eq!(proxy.seen(), ["registry.invalid:443"]);
    assert_eq!(server.seen()[0].version, http::Version::HTTP_2);
}

#[tokio::test]
async fn a_socks_proxy_that_refuses_says_why_and_no_secret() {
    let login = Manner::Socks(Some(("robot", PASSWORD)), 0);
    let check = "refused SOCKS5: check its username and password";
    let wants = "refused SOCKS5: it wants a username and password";
    let unreachable = "refused the connection: host unreachable";
    for (manner, password, expected) in [
        (login.clone(), Some("wrong"), check),
        (login, None, wants),
        (Manner::Socks(None, 4), None, unreachable),
        (Manner::Babbling("SSH-2.0"), None, "does not speak SOCKS5"),
    ] {
        let proxy = ProxyServer::start(manner, None, nowhere()).await;
        let proxied = through("socks5h", &proxy, password);
        let error = pull(&upstream(&behind("https://registry.invalid", proxied))).await;
        let error = error.unwrap_err();
        let expected = format!("{REGISTRY}: proxy {} {expected}", proxy.address);
        assert!(why(&error).starts_with(&expected), "{error}\n{expected}");
    }
}

#[tokio::test]
async fn a_proxy_that_cannot_be_reached_is_named() {
    // Nobody else gets the port while this lives, and nobody listens at the address.
    let (_server, mut address) = plain().await;
    address.set_ip(Ipv4Addr::new(127, 0, 0, 5).into());
    for scheme in ["http", "https", "socks5", "socks5h"] {
        let proxied = ProxyConfig::Through(Proxy {
            url: Url::parse(&format!("{scheme}://{address}")).unwrap(),
            credentials: None,
        });
        let error = pull(&upstream(&behind("https://127.0.0.1:1", proxied))).await;
        let error = error.unwrap_err();
        let expected = format!("127.0.0.1: proxy {address}: ");
        assert!(why(&error).starts_with(&expected), "{error}");
        assert!(why(&error).contains("refused"), "{error}");
    }
}

#[tokio::test]
async fn a_proxy_that_hangs_costs_the_connect_timeout() {
    let proxy = ProxyServer::start(Manner::Hanging, None, nowhere()).await;
    for (scheme, addresses) in [("http", 0), ("https", 0), ("socks5h", 0), ("http", 3)] {
        let mut config = behind("https://registry.invalid", through(scheme, &proxy, None));
        config.connect_timeout = Duration::from_millis(300);
        config.endpoints[0].resolve = vec![IpAddr::V4(Ipv4Addr::LOCALHOST); addresses];
        let started = tokio::time::Instant::now();
        let error = pull(&upstream(&config)).await.unwrap_err();
        let what = "a connection through the proxy";
        assert_eq!(error, FetchError::Timeout(what), "{scheme}");
        // Far below the header timeout of 10 s.
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn the_environment_decides_by_destination() {
    let (server, _address) = plain().await;
    let proxy = ProxyServer::start(Manner::Http(guarded), None, nowhere()).await;
    let value = format!("robot:{PASSWORD}@{}", proxy.address);
    let environment = ProxyConfig::Environment(EnvironmentProxies {
        http: Some(Secret::new(value)),
        https: None,
        all: None,
        no: "straight.invalid".to_owned(),
    });
    pull(&upstream(&behind(
        "http://registry.invalid",
        environment.clone(),
    )))
    .await
    .unwrap();
    assert_eq!(proxy.seen().len(), 1);
    pull(&upstream(&behind(&server.url(), environment.clone())))
        .await
        .unwrap();
    assert_eq!(server.seen().len(), 1);
    assert_eq!(server.seen()[0].header("proxy-authorization"), None);
    for straight in ["http://straight.invalid", "https://registry.invalid"] {
        let error = pull(&upstream(&behind(straight, environment.clone()))).await;
        assert!(!why(&error.unwrap_err()).contains("proxy"));
    }
    assert_eq!(proxy.seen().len(), 1);
}

/// The proxy may not know what the name stands for here.
#[tokio::test]
async fn a_proxy_is_told_fixed_addresses_in_order_and_tls_the_name() {
    let authority = Authority::new();
    let (server, address) = registry(&authority, REGISTRY).await;
    let (first, second) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    let reaches_the_second = |head: &str| {
        if head.starts_with("CONNECT 10.0.0.2:") {
            TUNNEL.to_owned()
        } else {
            "HTTP/1.1 502 Bad Gateway\r\n\r\n".to_owned()
        }
    };
    let proxy = ProxyServer::start(Manner::Http(reaches_the_second), None, address).await;
    let mut config = behind(
        "https://registry.invalid:5000",
        through("http", &proxy, None),
    );
    config.endpoints[0].ca_file = Some(authority.ca_file());
    config.endpoints[0].resolve = vec![first.into(), second.into()];
    pull(&upstream(&config)).await.unwrap();
    let seen = proxy.seen();
    assert!(seen[0].starts_with("CONNECT 10.0.0.1:5000 "), "{seen:?}");
    assert!(seen[1].starts_with("CONNECT 10.0.0.2:5000 "), "{seen:?}");
    assert_eq!(seen.len(), 2);

    let proxy = ProxyServer::start(Manner::Socks(None, 0), None, address).await;
    config.endpoints[0].proxy = through("socks5h", &proxy, None);
    pull(&upstream(&config)).await.unwrap();
    assert_eq!(proxy.seen(), ["10.0.0.1:5000"]);
    assert_eq!(server.seen().len(), 2);

    // The addresses are the endpoint's alone.
    config.endpoints[0].url.set_path("/away");
    assert!(blob(&upstream(&config), 0).await.is_err(), "no cdn.invalid");
    assert_eq!(proxy.seen()[1..], ["10.0.0.1:5000", "cdn.invalid:443"]);
}

#[tokio::test]
async fn the_client_for_clouds_reaches_metadata_straight_and_all_else_as_configured() {
    let (server, _address) = plain().await;
    let proxy = ProxyServer::start(Manner::Http(guarded), None, nowhere()).await;
    let proxied = through("http", &proxy, Some(PASSWORD));
    let name = UpstreamName::parse(NAME).unwrap();
    let client = HttpClient::api(
        name,
        metrics(),
        &proxied,
        Duration::from_secs(2),
        OwnListeners::default(),
    )
    .unwrap();
    let ask = async |url: &str| {
        let request = Request::get(url).body(Full::new(Bytes::new())).unwrap();
        let deadline = Deadline::after(Duration::from_secs(10));
        client
            .send(Kind::Other, request, deadline, Way::Lane(5))
            .await
            .unwrap()
    };
    ask(&server.url()).await;
    assert_eq!(server.seen().len(), 1);
    assert_eq!(server.seen()[0].header("proxy-authorization"), None);
    assert_eq!(proxy.seen().len(), 0);
    ask("http://api.invalid/token").await;
    assert!(proxy.seen()[0].starts_with("GET http://api.invalid/token "));
}
