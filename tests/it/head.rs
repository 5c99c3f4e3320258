//! Registries as they are: HEAD is refused where GET is answered, labels that say nothing of the bytes, and types that
//! the client alone knows.

use crate::common::images;
use crate::common::mirror::{TTL, credentials};
use crate::common::{Auth, Dialect, FakeRegistry, Fault, Image, Kind, Mirror, MirrorBuilder, Rule};
use http::Method;

const TAG: &str = "/v2/team/app/manifests/v1";

fn says(status: u16, headers: &[(&'static str, &str)]) -> Fault {
    let headers = headers
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()));
    Fault::Answer {
        status,
        headers: headers.collect(),
        body: String::new(),
    }
}

/// Manifests asked for, by HEAD and by GET.
fn asked(registry: &FakeRegistry, kind: Kind) -> (usize, usize) {
    let counters = registry.counters();
    (
        counters.of(&Method::HEAD, kind),
        counters.of(&Method::GET, kind),
    )
}

fn blob_path(image: &Image) -> String {
    format!("/v2/team/app/blobs/{}", image.layers[0].digest)
}

/// A tag that is no longer fresh was 404, 403 or 502 where HEAD is refused, though GET would have said what it names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_whose_head_is_refused_is_asked_for_with_get() {
    for status in [400, 401, 403, 404, 405, 406, 501] {
        let registry = FakeRegistry::start().await;
        let old = images::image(1, &[1000], Dialect::Oci);
        let new = images::image(2, &[1000], Dialect::Oci);
        registry.put_image("team/app", Some("v1"), &old);
        let mirror = Mirror::of(&registry).await;
        mirror.get(TAG).await.assert_bytes(200, &old.manifest.bytes);
        registry.fault(Rule::heads(Kind::Manifest), Fault::Status(status));
        registry.put_image("team/app", Some("v1"), &new);
        mirror.clock.advance(TTL);
        let answer = mirror.get(TAG).await;
        answer.assert_bytes(200, &new.manifest.bytes);
        assert_eq!(answer.header("warning"), "", "{status}");
        // It is known then, and not asked in vain each time.
        registry.reset();
        for _ in 0..3 {
            mirror.clock.advance(TTL);
            mirror.get(TAG).await.assert_bytes(200, &new.manifest.bytes);
        }
        assert_eq!(asked(&registry, Kind::Manifest), (0, 3), "{status}");
        // That it is gone is not hidden by it.
        registry.delete_tag("team/app", "v1");
        mirror.clock.advance(TTL);
        assert_eq!(mirror.get(TAG).await.status, 404, "{status}");
    }
}

/// Storage signs URLs for one method: a HEAD that is redirected there is 403.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_is_redirected_to_a_url_signed_for_get_is_no_refusal() {
    let (registry, storage) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = images::image(3, &[1000], Dialect::Oci);
    for place in [&registry, &storage] {
        place.put_image("team/app", Some("v1"), &image);
    }
    registry.options(|options| {
        options.redirect_manifests = Some(storage.url());
        options.redirect_blobs = Some(storage.url());
    });
    for kind in [Kind::Manifest, Kind::Cdn] {
        storage.fault(Rule::heads(kind), Fault::Status(403));
    }
    let mirror = Mirror::of(&registry).await;
    for _ in 0..2 {
        let answer = mirror.get(TAG).await;
        answer.assert_bytes(200, &image.manifest.bytes);
        assert_eq!(answer.header("warning"), "");
        mirror.clock.advance(TTL);
    }
    let other = images::image(4, &[2000], Dialect::Oci);
    registry.put_image("team/app", None, &other);
    storage.put_image("team/app", None, &other);
    let head = mirror.head(&blob_path(&other)).await;
    assert_eq!((head.status, head.header("content-length")), (200, "2000"));
}

/// A good login must not be thrown away, nor a token fetched for each request, because HEAD wants another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_is_unauthorized_says_nothing_of_the_login() {
    for basic in [true, false] {
        let registry = FakeRegistry::start().await;
        let image = images::image(5, &[1000, 2000], Dialect::Oci);
        registry.put_image("team/app", Some("v1"), &image);
        let challenge = if basic {
            registry.options(|options| options.auth = Auth::basic("robot", "secret"));
            "Basic realm=\"fake\"".to_owned()
        } else {
            registry.options(|options| options.auth = Auth::token_for("robot", "secret"));
            format!(
                "Bearer realm=\"{}/token\",service=\"fake\",scope=\"repository:team/app:pull\"",
                registry.url()
            )
        };
        let mirror = MirrorBuilder::of(&registry)
            .with(|config| {
                config.upstreams[0].logins = vec![credentials("robot", "secret")];
            })
            .start()
            .await;
        for kind in [Kind::Manifest, Kind::Blob] {
            let unauthorized = says(401, &[("www-authenticate", &challenge)]);
            registry.fault(Rule::heads(kind), unauthorized);
        }
        // Cold: nothing is known of the blob but by asking.
        let head = mirror.head(&blob_path(&image)).await;
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, "1000"),
            "{basic}"
        );
        for _ in 0..3 {
            mirror.clock.advance(TTL);
            let answer = mirror.get(TAG).await;
            answer.assert_bytes(200, &image.manifest.bytes);
            assert_eq!(answer.header("warning"), "");
        }
        for layer in &image.layers {
            let path = format!("/v2/team/app/blobs/{}", layer.digest);
            mirror.get(&path).await.assert_bytes(200, &layer.bytes);
        }
        assert!(
            registry.counters().token_requests() <= 4,
            "{:?}",
            registry.counters().token_requests()
        );
    }
}

/// Each of these was told to the client as it came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_size_of_a_blob_is_had_by_get_where_head_does_not_say_it() {
    let refusals = [400, 401, 403, 405, 501].map(Fault::Status);
    let empty = says(200, &[("content-length", "0")]);
    let silent = says(200, &[("transfer-encoding", "chunked")]);
    for fault in refusals.into_iter().chain([empty, silent]) {
        for ranges in [true, false] {
            let registry = FakeRegistry::start().await;
            registry.options(|options| options.ranges = ranges);
            let image = images::image(6, &[3000], Dialect::Oci);
            registry.put_image("team/app", Some("v1"), &image);
            registry.fault(Rule::heads(Kind::Blob), fault.clone());
            let mirror = Mirror::of(&registry).await;
            for _ in 0..2 {
                let head = mirror.head(&blob_path(&image)).await;
                assert_eq!(
                    (head.status, head.header("content-length")),
                    (200, "3000"),
                    "{fault:?}"
                );
            }
            let (heads, gets) = asked(&registry, Kind::Blob);
            assert!(heads <= 1 && gets <= 2, "{heads} {gets} {fault:?}");
            // What is not there is not there.
            let missing = images::image(7, &[10], Dialect::Oci);
            assert_eq!(
                mirror.head(&blob_path(&missing)).await.status,
                404,
                "{fault:?}"
            );
        }
    }
}

/// What a manifest says of its blobs is enough for HEAD, and goes before a header.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_head_of_a_blob_whose_manifest_is_known_asks_nobody() {
    let registry = FakeRegistry::start().await;
    let image = images::image(8, &[4000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let wrong = says(200, &[("content-length", "17")]);
    registry.fault(Rule::heads(Kind::Blob), wrong);
    let mirror = Mirror::of(&registry).await;
    mirror
        .get(TAG)
        .await
        .assert_bytes(200, &image.manifest.bytes);
    for mirror in [mirror.restart().await] {
        registry.reset();
        for _ in 0..2 {
            let head = mirror.head(&blob_path(&image)).await;
            assert_eq!((head.status, head.header("content-length")), (200, "4000"));
        }
        assert_eq!(registry.counters().records.len(), 0);
        let answer = mirror.get(&blob_path(&image)).await;
        answer.assert_bytes(200, &image.layers[0].bytes);
    }
}

/// What the client alone knows was 404, because upstream was asked for what is known here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_is_asked_for_what_the_client_names_besides() {
    let registry = FakeRegistry::start().await;
    let image = images::image(9, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let oras = "application/vnd.cncf.oras.artifact.manifest.v1+json";
    let by_digest = format!("/v2/team/app/manifests/{}", image.manifest.digest);
    for path in [TAG, &by_digest] {
        for (accept, forwarded) in [
            (oras, vec![oras]),
            ("*/*", vec!["*/*"]),
            (
                "application/vnd.x+json;q=0.5, */*, text/html",
                vec!["application/vnd.x+json", "*/*"],
            ),
        ] {
            let mirror = Mirror::of(&registry).await;
            registry.reset();
            let answer = mirror.get_with(path, &[("Accept", accept)]).await;
            answer.assert_bytes(200, &image.manifest.bytes);
            let records = registry.counters().records;
            assert_eq!(records.len(), 1, "{accept}");
            let sent = records[0].header("accept");
            let sent: Vec<&str> = sent.split(',').map(str::trim).collect();
            for range in forwarded {
                assert!(sent.contains(&range), "{accept}: {sent:?}");
            }
            assert!(
                sent.contains(&images::OCI_INDEX) && !sent.contains(&"text/html"),
                "{sent:?}"
            );
            // It is one answer for all who take the format.
            let again = mirror
                .get_with(path, &[("Accept", images::OCI_MANIFEST)])
                .await;
            again.assert_bytes(200, &image.manifest.bytes);
            assert_eq!(registry.counters().records.len(), 1, "{accept}");
        }
    }
}

/// A registry that has a type only for who names it: that it is unknown to others says nothing to whoever does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_are_refused_is_asked_for_again() {
    let registry = FakeRegistry::start().await;
    let image = images::image(10, &[1000], Dialect::Oci);
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| config.tags.defaults.negative_ttl = std::time::Duration::from_secs(10))
        .start()
        .await;
    let by_digest = format!("/v2/team/app/manifests/{}", image.manifest.digest);
    for path in [TAG, &by_digest] {
        assert_eq!(mirror.get(path).await.status, 404);
    }
    registry.put_image("team/app", Some("v1"), &image);
    let accept = [("Accept", "application/vnd.x+json")];
    for path in [TAG, &by_digest] {
        assert_eq!(mirror.get(path).await.status, 404);
    }
    for path in [TAG, &by_digest] {
        let answer = mirror.get_with(path, &accept).await;
        answer.assert_bytes(200, &image.manifest.bytes);
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Stores that keep gzip files label them so. The bytes were right, and refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_on_right_bytes_is_no_error() {
    for label in [
        "gzip",
        "x-gzip",
        "aws-chunked",
        "identity",
        "br",
        "gzip, aws-chunked",
    ] {
        for content_length in [true, false] {
            let registry = FakeRegistry::start().await;
            registry.options(|options| {
                options.content_length = content_length;
                options.extra_headers = vec![("content-encoding", label.to_owned())];
            });
            let image = images::image(11, &[1000, 700_000], Dialect::Oci);
            registry.put_image("team/app", Some("v1"), &image);
            let mirror = Mirror::of(&registry).await;
            let list = mirror.get("/v2/team/app/tags/list").await;
            assert_eq!(list.status, 200, "{label}: {}", list.text());
            for layer in &image.layers {
                let path = format!("/v2/team/app/blobs/{}", layer.digest);
                let head = mirror.head(&path).await;
                assert_eq!(head.status, 200, "{label}");
                mirror.get(&path).await.assert_bytes(200, &layer.bytes);
            }
            let answer = mirror.get(TAG).await;
            answer.assert_bytes(200, &image.manifest.bytes);
            assert_eq!(answer.header("content-encoding"), "");
        }
    }
}

/// A proxy that encodes whatever is JSON, although nobody asked for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_proxy_has_encoded_is_decoded() {
    for content_length in [true, false] {
        let registry = FakeRegistry::start().await;
        registry.options(|options| {
            options.content_length = content_length;
            options.extra_headers = vec![("content-encoding", "gzip".to_owned())];
        });
        let image = images::image(12, &[1000], Dialect::Oci);
        let mut encoded = image.manifest.clone();
        encoded.bytes = gzip(&image.manifest.bytes).into();
        registry.put_manifest("team/app", Some("v1"), &encoded);
        let config = &image.config;
        registry.put_bytes("team/app", &config.digest, gzip(&config.bytes).into());
        let mirror = Mirror::of(&registry).await;
        let by_digest = format!("/v2/team/app/manifests/{}", image.manifest.digest);
        for path in [TAG, &by_digest] {
            let answer = mirror.get(path).await;
            answer.assert_bytes(200, &image.manifest.bytes);
            assert_eq!(answer.header("content-encoding"), "");
        }
        let path = format!("/v2/team/app/blobs/{}", config.digest);
        mirror.get(&path).await.assert_bytes(200, &config.bytes);
        // A bomb is bounded.
        let mut bomb = image.manifest.clone();
        bomb.bytes = gzip(&vec![b' '; 50_000_000]).into();
        registry.put_manifest("team/app", Some("bomb"), &bomb);
        let answer = mirror.get("/v2/team/app/manifests/bomb").await;
        assert_eq!(answer.status, 502, "{}", answer.text());
    }
}
