//! Places where redirects and token servers may lie.

use super::server::{Server, answer};
use super::*;
use crate::upstream::{EnvironmentProxies, Proxy, ProxyConfig};

/// A registry that redirects everything there.
async fn redirecting(target: String) -> Server {
    Server::start(move |_| answer(307, &[("location", &target)], "").into()).await
}

async fn list(upstream: &Upstream) -> Result<Vec<u8>, FetchError> {
    let list = upstream.tags(&repository(), &[], Patience::Wait).await?;
    Ok(list.bytes.to_vec())
}

#[track_caller]
fn assert_inside<T: std::fmt::Debug>(result: Result<T, FetchError>, where_to: &str) {
    let error = result.unwrap_err();
    let FetchError::Inside(what) = &error else {
        panic!("{error:?}")
    };
    assert!(what.contains(where_to), "{what}");
}

#[tokio::test]
async fn what_nothing_checks_is_not_followed_inside() {
    for target in [
        "http://10.255.255.1:9/x",
        "http://[::ffff:169.254.169.254]/latest/meta-data",
        "http://0xa9fea9fe/",
        "http://[fd00:ec2::254]/",
        "http://100.100.100.200/",
    ] {
        let registry = redirecting(target.to_owned()).await;
        let upstream = simple(&registry.url());
        assert_inside(list(&upstream).await, "address");
        assert_inside(pull(&upstream, Patience::Wait).await, "address");
        let digest = digest();
        assert_inside(
            upstream
                .referrers(&repository(), &digest, &[], Patience::Wait)
                .await,
            "address",
        );
        let all = AcceptClass::ALL;
        let (repository, latest) = (repository(), latest());
        let head = upstream.manifest_head(&repository, &latest, all, Patience::Wait);
        assert_inside(head.await, "address");
    }
}

#[tokio::test]
async fn an_endpoint_that_redirects_inside_is_well() {
    let registry = Server::start(|request| {
        if request.target.contains("/tags/") {
            answer(307, &[("location", "http://10.255.255.1/")], "").into()
        } else {
            answer(200, &[], "{}").into()
        }
    })
    .await;
    let upstream = simple(&registry.url());
    for number in 0..20 {
        let repository = Repository::parse(&format!("a/b{number}")).unwrap();
        assert_inside(
            upstream.tags(&repository, &[], Patience::Wait).await,
            "10.255.255.1:80",
        );
    }
    pull(&upstream, Patience::Now).await.unwrap();
}

#[tokio::test]
async fn a_token_server_inside_is_not_asked() {
    let registry = Server::start(|_| {
        let value = r#"Bearer realm="http://10.255.255.1/token""#;
        answer(401, &[("www-authenticate", value)], "").into()
    })
    .await;
    assert_inside(
        list(&simple(&registry.url())).await,
        "10.255.255.1:80 (a private address)",
    );
}

#[tokio::test]
async fn a_network_that_is_named_is_followed() {
    let inside = Server::start(|_| answer(200, &[], "{}").into()).await;
    // A name that is looked up, from an endpoint whose address a proxy hides: the registry itself is the proxy.
    let target = inside.url().replace("127.0.0.1", "localhost");
    let registry = redirecting(target).await;
    let mut config = config(&["http://registry.example"]);
    config.endpoints[0].proxy = ProxyConfig::Environment(EnvironmentProxies {
        http: Some(Secret::new(registry.url())),
        ..EnvironmentProxies::default()
    });
    let refused = upstream(&config);
    assert_inside(list(&refused).await, "at 127.0.0.1 (a loopback address)");
    assert_eq!(inside.connections(), 0);
    // What is checked by its digest may come from there.
    blob(&refused, 0).await.unwrap();
    assert_eq!(inside.connections(), 1);

    config.endpoints[0].redirect_networks =
        vec!["127.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()];
    assert_eq!(list(&upstream(&config)).await.unwrap(), b"{}");
}

#[tokio::test]
async fn a_proxy_that_hides_addresses_is_asked_for_no_inside_one() {
    let registry = redirecting("http://192.168.7.7/x".to_owned()).await;
    let mut config = config(&["http://registry.example"]);
    config.endpoints[0].proxy = ProxyConfig::Through(Proxy {
        url: Url::parse(&registry.url()).unwrap(),
        credentials: None,
    });
    assert_inside(list(&upstream(&config)).await, "192.168.7.7:80");
    assert_eq!(registry.seen().len(), 1);
}

#[tokio::test]
async fn a_connection_for_content_is_not_used_for_the_rest() {
    let elsewhere = Server::start(|_| answer(200, &[], "{}").into()).await;
    let registry = redirecting(elsewhere.url()).await;
    let upstream = simple(&registry.url());
    for _ in 0..2 {
        let mut fetch = blob(&upstream, 0).await.unwrap();
        while fetch.body.next().await.unwrap().is_some() {}
        list(&upstream).await.unwrap();
    }
    assert_eq!(elsewhere.connections(), 2);
}

#[tokio::test]
async fn our_own_listeners_are_not_dialled() {
    let ourselves = Server::start(|_| answer(200, &[], "{}").into()).await;
    let port = ourselves.url().rsplit_once(':').unwrap().1.parse().unwrap();
    let own = OwnListeners::default();
    own.are(vec![std::net::SocketAddr::from(([0, 0, 0, 0], port))]);
    let of = |url: &str| Upstream::beside(&config(&[url]), metrics(), &own).unwrap();
    for host in [
        "127.0.0.1",
        "localhost",
        "127.0.0.7",
        "0.0.0.0",
        "[::ffff:127.0.0.1]",
    ] {
        let url = format!("http://{host}:{port}");
        let error = blob(&of(&url), 0).await.unwrap_err();
        assert!(matches!(error, FetchError::Ourselves(_)), "{host}: {error}");
        let registry = redirecting(url).await;
        let redirected = of(&registry.url());
        let error = blob(&redirected, 0).await.unwrap_err();
        assert!(matches!(error, FetchError::Ourselves(_)), "{host}: {error}");
        let error = list(&redirected).await.unwrap_err();
        assert!(matches!(error, FetchError::Ourselves(_)), "{host}: {error}");
    }
    assert_eq!(ourselves.connections(), 0);
}
