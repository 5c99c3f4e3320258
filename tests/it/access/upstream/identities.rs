//! Credentials of an upstream beside those of this mirror.

use super::super::people::{add, make};
use super::*;
use serde_json::json;

const RULES: &str = r#"
[access]
htpasswd = HTPASSWD
[[access.policy]]
name = "private"
[[access.policy.statement]]
effect = "allow"
actions = ["pull"]
resources = ["mirror/docker.io/*"]
[[access.policy.statement]]
effect = "deny"
actions = ["*"]
resources = ["mirror/docker.io/acme/other"]
[[access.attach]]
anonymous = true
policies = ["private"]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_host_of_its_own_credentials_are_the_upstreams() {
    let site = Site::with_access(&["carol"], RULES).await;
    site.registry.grant("t1", APP);
    site.registry.grant("t2", OTHER);
    let realm = format!("{}/token", site.registry.url());
    let ping = site.get("/v2/", "").await;
    assert_eq!(parameter(ping.header("www-authenticate"), "realm"), realm);
    assert_eq!(site.statuses(APP, "Bearer t1").await, [200; 5]);
    // The rules hold besides, and nobody is told to log in here.
    for path in site.paths(OTHER) {
        let answer = site.get(&path, "Bearer t2").await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "DENIED"));
        assert!(
            answer.text().contains("deny by private#2"),
            "{}",
            answer.text()
        );
    }
    assert_eq!(site.statuses(PUBLIC, "").await, [200; 5]);

    // Elsewhere they are this mirror's.
    let shared = async |path: &str, authorization: &str| {
        get_at(&site.mirror, "mirror", path, authorization).await
    };
    let ping = shared("/v2/", "").await;
    let challenge = ping.header("www-authenticate");
    assert_eq!(parameter(challenge, "realm"), "http://mirror/token");
    let [by_tag, ..] = site.paths(APP);
    assert_eq!(
        shared(&by_tag, "Bearer t1").await.status,
        401,
        "no token of ours"
    );
    for carol in ["", &basic("carol", "carol!")] {
        let answer = shared(&by_tag, carol).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "DENIED"));
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, "", "her password would be sent there");
        let [public, ..] = site.paths(PUBLIC);
        assert_eq!(shared(&public, carol).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_this_mirror_are_shown_to_nobody() {
    let site = Site::with_access(&["carol"], RULES).await;
    add(&site.mirror, "dave", &[]).await;
    let wanted = json!({ "kind": "token", "owner": "dave" });
    let made = make(&site.mirror, wanted).await;
    let rst = made["token"].as_str().unwrap().to_owned();
    let carol = basic("carol", "carol!");
    let path = format!("/token?service=roadstead&scope=repository:{APP}:pull&offline_token=true");
    let jwt = get_at(&site.mirror, "mirror", &path, &carol).await;
    let jwt: serde_json::Value = serde_json::from_slice(&jwt.body).unwrap();
    let access = jwt["token"].as_str().unwrap();
    let refresh = jwt["refresh_token"].as_str().unwrap();
    let [by_tag, ..] = site.paths(APP);
    for ours in [
        format!("Bearer {rst}"),
        basic("whoever", &rst),
        format!("Bearer {access}"),
    ] {
        let answer = site.get(&by_tag, &ours).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "DENIED"));
        assert_eq!(answer.header("www-authenticate"), "");
    }
    for ours in [format!("Bearer {refresh}"), basic("carol", refresh)] {
        assert_eq!(
            site.get(&by_tag, &ours).await.status,
            401,
            "no token for pulls"
        );
    }
    let counters = site.registry.counters();
    for record in &counters.records {
        let sent = record.header("authorization");
        for ours in [&rst, access, refresh] {
            assert!(!sent.contains(ours) && !sent.contains(&basic("whoever", &rst)));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_issuers_that_are_believed_are_shown_to_nobody() {
    use base64::Engine as _;
    let issuer = "https://issuer.invalid";
    let table = format!(
        "[access]\nhtpasswd = HTPASSWD\n[[access.oidc]]\nname = \"ci\"\nissuer = {issuer:?}\naudience = \"roadstead\"\n\
         [[access.attach]]\nanonymous = true\npolicies = [\"read-only\"]\n"
    );
    let site = Site::with_access(&[], &table).await;
    let token = |iss: &str| {
        let encode = |text: String| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        let head = encode(r#"{"alg":"RS256"}"#.to_owned());
        let body = encode(format!(r#"{{"iss":"{iss}"}}"#));
        format!("{head}.{body}.c2ln")
    };
    let [by_tag, ..] = site.paths(APP);
    let believed = format!("Bearer {}", token(issuer));
    assert_ne!(site.get(&by_tag, &believed).await.status, 200);
    let counters = site.registry.counters();
    assert_eq!(
        counters.count(|it| it.header("authorization") == believed),
        0
    );
    // Another issuer's, such as the upstream's own, is the upstream's.
    let other = token("auth.docker.io");
    site.registry.grant(&other, APP);
    assert_eq!(
        site.get(&by_tag, &format!("Bearer {other}")).await.status,
        200
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_identities_credentials_are_the_upstreams_wherever_it_is_named() {
    let (registry, image) = registry().await;
    let (private, _) = self::registry().await;
    let builder = MirrorBuilder::of(&registry).upstream("ghcr.io", &private, |upstream| {
        upstream.visibility = Visibility::Upstream;
        upstream.hosts = vec![OWN_HOST.to_owned()];
    });
    registry.options(|options| options.auth = Auth::Open);
    let mirror = builder.start().await;
    private.grant("t1", APP);
    let by_digest = format!("manifests/{}", image.manifest.digest);
    let status =
        async |host: &str, path: &str, sent: &str| get_at(&mirror, host, path, sent).await.status;
    let ways = [
        ("mirror", format!("/v2/ghcr.io/{APP}/{by_digest}")),
        ("mirror", format!("/v2/{APP}/{by_digest}?ns=ghcr.io")),
        (OWN_HOST, format!("/v2/{APP}/{by_digest}")),
    ];
    for (host, path) in &ways {
        assert_eq!(status(host, path, "Bearer t1").await, 200, "{host} {path}");
        assert_eq!(status(host, path, "").await, 401, "{host} {path}");
    }
    // The ping belongs to the upstream that it names; the default one here challenges nobody.
    for (host, path, expected) in [
        ("mirror", "/v2/", 200),
        ("mirror", "/v2/?ns=ghcr.io", 401),
        (OWN_HOST, "/v2/", 401),
        (OWN_HOST, "/v2/?ns=docker.io", 200),
    ] {
        assert_eq!(status(host, path, "").await, expected, "{host} {path}");
    }
    let open = format!("/v2/{APP}/{by_digest}");
    assert_eq!(status("mirror", &open, "Bearer t1").await, 200);
    let sent = |it: &Record| !it.header("authorization").is_empty();
    assert_eq!(registry.counters().count(sent), 0);
}
