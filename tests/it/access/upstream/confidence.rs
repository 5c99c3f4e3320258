//! A client's credential goes to its upstream, and nowhere else.

use super::*;
use crate::process::Process;
use std::io::Read as _;

/// Requests of which some header holds this text.
fn with_text(counters: &Counters, text: &str) -> usize {
    counters.count(|record| {
        let mut values = record.headers.values();
        values.any(|value| String::from_utf8_lossy(value.as_bytes()).contains(text))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_does_not_follow_a_redirect() {
    let site = Site::new().await;
    let cdn = FakeRegistry::start_on("127.0.0.2").await;
    for blob in site.image.blobs() {
        cdn.put_blob(APP, blob);
    }
    cdn.put_image(APP, Some("v1"), &site.image);
    site.registry.grant("t1", APP);
    site.registry.options(|options| {
        options.redirect_blobs = Some(cdn.url());
        options.redirect_manifests = Some(cdn.url());
    });
    let [_, by_digest, blob, ..] = site.paths(APP);
    for path in [&by_digest, &blob] {
        let answer = site.get(path, "Bearer t1").await;
        assert_eq!(answer.status, 200, "{path} {}", answer.text());
    }
    assert!(!cdn.counters().records.is_empty());
    assert_eq!(with_text(&cdn.counters(), "t1"), 0);
    assert!(with_text(&site.registry.counters(), "Bearer t1") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_to_no_other_upstream_nor_to_somebody_elses_endpoint() {
    let (registry, image) = registry().await;
    let (second, _) = self::registry().await;
    let (public, _) = self::registry().await;
    let helper = FakeRegistry::start_on("127.0.0.2").await;
    let builder = MirrorBuilder::new()
        .upstream("docker.io", &registry, |upstream| {
            decides(upstream);
            // A mirror that somebody else runs comes first, and is anonymous on purpose.
            let url = helper.url().parse().unwrap();
            upstream.endpoints.insert(
                0,
                EndpointConfig {
                    logins: Some(Vec::new()),
                    ..EndpointConfig::at(url)
                },
            );
        })
        .upstream("quay.io", &second, |upstream| {
            upstream.visibility = Visibility::Upstream;
        })
        .upstream("ghcr.io", &public, |upstream| {
            upstream.logins = vec![credentials("alice", "upstream-password")];
            upstream.visibility = Visibility::Public;
        });
    let mirror = builder.start().await;
    let site = Site {
        registry,
        mirror,
        image,
    };
    for (registry, token) in [(&site.registry, "t-hub"), (&second, "t-quay")] {
        registry.grant(token, APP);
    }
    assert_eq!(site.statuses(APP, "Bearer t-hub").await, [200; 5]);
    assert!(helper.counters().records.len() > 1, "it is asked first");
    // The audience is the other upstream's: this one refuses it, and says whom it wants.
    let quay = site.paths(&format!("quay.io/{APP}"));
    for path in &quay {
        let answer = get_at(&site.mirror, "mirror", path, "Bearer t-hub").await;
        assert_eq!(answer.status, 401);
        let challenge = answer.header("www-authenticate");
        let realm = format!("{}/token", second.url());
        assert_eq!(parameter(challenge, "realm"), realm);
        let answer = get_at(&site.mirror, "mirror", path, "Bearer t-quay").await;
        assert_eq!(answer.status, 200);
        let ghcr = path.replace("quay.io", "ghcr.io");
        let answer = get_at(&site.mirror, "mirror", &ghcr, "Bearer t-quay").await;
        assert_eq!(answer.status, 403, "no credential is looked at there");
    }
    for (registry, foreign) in [(&site.registry, "t-quay"), (&helper, "t-"), (&public, "t-")] {
        assert_eq!(with_text(&registry.counters(), foreign), 0, "{foreign}");
    }
    // What a client sends to a name is for that name, whatever it is.
    assert!(with_text(&second.counters(), "Bearer t-hub") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_challenged_and_nothing_passed_on_where_nobody_is_asked() {
    let site = Site::with(|builder| {
        builder.with(|all| all.server.listeners[0].asks = roadstead::server::Asks::Nobody)
    })
    .await;
    site.registry.grant("t1", APP);
    for sent in ["", "Bearer t1"] {
        assert_eq!(site.get("/v2/", sent).await.status, 200);
        for path in site.paths(APP) {
            let answer = site.get(&path, sent).await;
            assert_eq!((answer.status, answer.code().as_str()), (403, "DENIED"));
            assert_eq!(answer.header("www-authenticate"), "");
        }
        assert_eq!(site.statuses(PUBLIC, sent).await, [200; 5]);
    }
    assert_eq!(with_text(&site.registry.counters(), "t1"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_in_no_log_and_no_file() {
    let (registry, image) = registry().await;
    let secret = "tok-5ecret-5ecret";
    registry.grant(secret, APP);
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("roadstead.toml");
    let audit = dir.path().join("audit.log");
    let text = format!(
        "[log]\nlevel = \"trace\"\n[audit]\npath = {audit:?}\n[upstream.\"docker.io\"]\n\
         endpoints = [{:?}]\ndefault = true\nvisibility = \"upstream\"\n",
        registry.url()
    );
    std::fs::write(&file, text).unwrap();
    let cache = dir.path().join("cache").display().to_string();
    let state = dir.path().join("state").display().to_string();
    let file = file.display().to_string();
    let arguments = [
        "serve",
        "--config",
        &file,
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--cache-dir",
        &cache,
        "--state-dir",
        &state,
    ];
    let mut process = Process::start(dir, &arguments);
    let mut errors = process.child.stderr.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        errors.read_to_string(&mut text).unwrap();
        text
    });
    let (client, admin, _output) = process.ready();
    let bearer = format!("Bearer {secret}");
    let layer = &image.layers[0].digest;
    for end in ["manifests/v1".to_owned(), format!("blobs/{layer}")] {
        let headers = [("authorization", bearer.as_str())];
        let answer = client.get_with(&format!("/v2/{APP}/{end}"), &headers).await;
        assert_eq!(answer.status, 200);
        let wrong = client
            .get_with(&format!("/v2/{OTHER}/{end}"), &headers)
            .await;
        assert_eq!(wrong.status, 401);
    }
    let metrics = admin.get("/metrics").await.text();
    process.signal(rustix::process::Signal::TERM);
    assert!(process.wait().success());
    let log = reading.join().unwrap();
    assert!(log.contains(APP), "{log}");
    assert!(!log.contains("5ecret") && !metrics.contains("5ecret"));
    let mut left = vec![process.dir.path().to_owned()];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|it| it.unwrap().path()),
            );
        } else if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(6).any(|window| window == b"5ecret");
            assert!(!found, "{}", path.display());
        }
    }
}
