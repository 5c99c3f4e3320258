//! `X-Forwarded-For` and its like: what proxies that pass on requests say of their clients.

use super::{OFFICIAL, house, rules};
use crate::common::Mirror;

async fn mirror(access: &str, trusted: &[&str]) -> Mirror {
    let (_registry, _image, builder) = house().await;
    builder
        .with(|all| {
            all.access = rules(access);
            let networks = trusted.iter().map(|network| network.parse().unwrap());
            all.server.trusted_proxies = networks.collect();
        })
        .start()
        .await
}

const OURS: &str = "access.allow = [\"192.0.2.0/24\"]\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_see_the_client_behind_a_trusted_proxy() {
    let mirror = mirror(OURS, &["127.0.0.0/8", "10.0.0.0/8"]).await;
    for (header, value, expected) in [
        ("x-forwarded-for", "192.0.2.7", 200),
        ("x-forwarded-for", "192.0.2.7, 10.0.0.1", 200),
        ("x-forwarded-for", "198.51.100.1, 192.0.2.7", 200),
        // Addresses that the client has written itself are not believed.
        ("x-forwarded-for", "192.0.2.7, 198.51.100.1", 403),
        ("x-forwarded-for", "nonsense", 403),
        ("forwarded", "for=192.0.2.7;proto=https", 200),
        ("forwarded", "for=192.0.2.7, for=198.51.100.1", 403),
        ("x-other", "192.0.2.7", 403),
    ] {
        let answer = mirror.get_with("/v2/", &[(header, value)]).await;
        assert_eq!(answer.status, expected, "{header}: {value}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_is_believed() {
    for trusted in [&[][..], &["10.0.0.0/8"]] {
        let mirror = mirror(OURS, trusted).await;
        for header in ["x-forwarded-for", "forwarded"] {
            let value = if header == "forwarded" {
                "for=192.0.2.7"
            } else {
                "192.0.2.7"
            };
            let answer = mirror.get_with("/v2/", &[(header, value)]).await;
            assert_eq!(answer.status, 403, "{header}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_where_the_client_came_from() {
    let trusting = mirror(OFFICIAL, &["127.0.0.1"]).await;
    let careful = mirror(OFFICIAL, &[]).await;
    for (mirror, value, scheme) in [
        (&trusting, "https", "https"),
        (&trusting, "http", "http"),
        (&trusting, "gopher", "http"),
        (&careful, "https", "http"),
    ] {
        let headers = [("x-forwarded-proto", value), ("host", "mirror.corp")];
        let ping = mirror.get_with("/v2/", &headers).await;
        let realm = format!("realm=\"{scheme}://mirror.corp/token\"");
        let challenge = ping.header("www-authenticate");
        assert!(challenge.contains(&realm), "{value}: {challenge}");
    }
}
