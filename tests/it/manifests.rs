//! What manifests cost upstream, which limits them, and what happens when one endpoint lies.

use std::time::Duration;

use crate::common::images::{self, DOCKER_LIST, OCI_INDEX, OCI_MANIFEST, SCHEMA1_SIGNED};
use crate::common::mirror::TTL;
use crate::common::{
    Dialect, FakeRegistry, Fault, Image, Kind, Manifest, Mirror, MirrorBuilder, Rule,
};
use http::Method;
use roadstead::upstream::EndpointConfig;

const TAG: &str = "/v2/team/app/manifests/v1";
const SECOND: Duration = Duration::from_secs(1);

/// Manifests asked for, by HEAD and by GET.
fn asked(registry: &FakeRegistry) -> (usize, usize) {
    let counters = registry.counters();
    (
        counters.of(&Method::HEAD, Kind::Manifest),
        counters.of(&Method::GET, Kind::Manifest),
    )
}

fn by_digest(image: &Image) -> String {
    format!("/v2/team/app/manifests/{}", image.manifest.digest)
}

/// containerd shows the code; its callers heed Retry-After (RFC 6585 section 4).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limited_with_nothing_left_is_429() {
    let registry = FakeRegistry::start().await;
    let image = images::image(64, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let mirror = Mirror::of(&registry).await;
    for kind in [Kind::Manifest, Kind::Blob, Kind::Tags] {
        registry.fault(Rule::all(kind), Fault::RateLimited(30));
    }
    let blob = format!("/v2/team/app/blobs/{}", image.layers[0].digest);
    let tags = "/v2/team/app/tags/list".to_owned();
    for path in [TAG.to_owned(), by_digest(&image), blob, tags] {
        let answer = mirror.get(&path).await;
        assert_eq!(answer.status, 429, "{path}: {}", answer.text());
        assert_eq!(answer.code(), "TOOMANYREQUESTS");
        assert_eq!(answer.header("content-type"), "application/json");
        let seconds: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=30).contains(&seconds), "{path}: {seconds}");
    }
}

/// Each GET of a manifest counts as a pull (Docker Hub, "Pull usage and limits").
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_is_here_is_never_asked_for() {
    for head in [true, false] {
        let registry = FakeRegistry::start().await;
        let image = images::image(65, &[1000], Dialect::Oci);
        registry.put_image("team/app", Some("v1"), &image);
        let mirror = Mirror::of(&registry).await;
        let digest = if head {
            mirror.head(TAG).await
        } else {
            mirror.get(TAG).await
        };
        assert_eq!(
            digest.header("docker-content-digest"),
            image.manifest.digest
        );
        let bytes = &image.manifest.bytes;
        mirror
            .get(&by_digest(&image))
            .await
            .assert_bytes(200, bytes);
        mirror.get(TAG).await.assert_bytes(200, bytes);
        assert_eq!(asked(&registry), (0, 1), "by HEAD first: {head}");
        // Past its time the tag costs a HEAD, which names what is here.
        mirror.clock.advance(TTL + SECOND);
        mirror.get(TAG).await.assert_bytes(200, bytes);
        assert_eq!(asked(&registry), (1, 1));
        // While upstream limits us, what is here by digest needs nobody.
        registry.reset();
        registry.fault(Rule::all(Kind::Manifest), Fault::RateLimited(30));
        let mirror = mirror.restart().await;
        let answer = mirror.get(&by_digest(&image)).await;
        answer.assert_bytes(200, bytes);
        assert_eq!(answer.header("cache-status"), "roadstead; hit");
        assert!(registry.counters().records.is_empty());
    }
}

/// A tag that moves to, or back to, an image that is here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_moves_to_what_is_here_costs_a_head() {
    let registry = FakeRegistry::start().await;
    let old = images::image(61, &[1000], Dialect::Oci);
    let new = images::image(62, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &old);
    registry.put_image("team/app", None, &new);
    let mirror = Mirror::of(&registry).await;
    mirror.get(TAG).await.assert_bytes(200, &old.manifest.bytes);
    let answer = mirror.get(&by_digest(&new)).await;
    answer.assert_bytes(200, &new.manifest.bytes);
    assert_eq!(asked(&registry), (0, 2));
    registry.put_image("team/app", Some("v1"), &new);
    mirror.clock.advance(TTL + SECOND);
    mirror.get(TAG).await.assert_bytes(200, &new.manifest.bytes);
    assert_eq!(asked(&registry), (1, 2));
}

/// Two endpoints of one upstream, of which the first has this wrong with it.
async fn endpoints(fault: Fault, image: &Image) -> (FakeRegistry, FakeRegistry, Mirror) {
    let (bad, good) = (FakeRegistry::start().await, FakeRegistry::start().await);
    for registry in [&bad, &good] {
        registry.put_image("team/app", Some("v1"), image);
    }
    bad.fault(Rule::gets(Kind::Manifest), fault);
    let mirror = MirrorBuilder::of(&bad)
        .with(|config| {
            let second = EndpointConfig::at(good.url().parse().unwrap());
            config.upstreams[0].endpoints.push(second);
        })
        .start()
        .await;
    (bad, good, mirror)
}

/// The digest says that one endpoint lies, and another has what was asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_of_one_endpoint_are_had_from_the_next() {
    let page = Fault::Instead {
        content_type: "text/html",
        body: "<html>Please log in</html>",
    };
    for fault in [Fault::Flip(20), Fault::Short(50), page] {
        let image = images::image(71, &[1000], Dialect::Oci);
        let (bad, good, mirror) = endpoints(fault.clone(), &image).await;
        let answer = mirror.get(&by_digest(&image)).await;
        answer.assert_bytes(200, &image.manifest.bytes);
        assert_eq!((asked(&bad), asked(&good)), ((0, 1), (0, 1)), "{fault:?}");
        assert_eq!(mirror.get(&by_digest(&image)).await.status, 200);
        assert_eq!((asked(&bad), asked(&good)), ((0, 1), (0, 1)), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_of_every_endpoint_are_an_error() {
    let image = images::image(72, &[1000], Dialect::Oci);
    let (bad, good, mirror) = endpoints(Fault::Flip(20), &image).await;
    good.fault(Rule::gets(Kind::Manifest), Fault::Flip(30));
    assert_eq!(mirror.get(&by_digest(&image)).await.status, 502);
    assert_eq!((asked(&bad), asked(&good)), ((0, 1), (0, 1)));
    // The other one lacks it: that the first one lies is still the error, and not "unknown".
    let image = images::image(73, &[1000], Dialect::Oci);
    let (_bad, good, mirror) = endpoints(Fault::Flip(20), &image).await;
    good.fault(Rule::gets(Kind::Manifest), Fault::Status(404));
    assert_eq!(mirror.get(&by_digest(&image)).await.status, 502);
    good.heal();
    assert_eq!(mirror.get(&by_digest(&image)).await.status, 200);
}

/// A tag has no digest to check it by, but what is no manifest, or not what the header says, is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_one_endpoint_gives_as_nonsense_is_had_from_the_next() {
    let page = Fault::Instead {
        content_type: "text/html",
        body: "<html>Please log in</html>",
    };
    let text = Fault::Instead {
        content_type: "application/json",
        body: "{\"error\":\"slow down\"}",
    };
    for fault in [Fault::Flip(20), Fault::Short(50), page, text] {
        let image = images::image(74, &[1000], Dialect::Oci);
        let (bad, good, mirror) = endpoints(fault.clone(), &image).await;
        let answer = mirror.get("/v2/team/app/manifests/v1").await;
        answer.assert_bytes(200, &image.manifest.bytes);
        assert_eq!((asked(&bad).1, asked(&good).1), (1, 1), "{fault:?}");
    }
}

/// A media type was kept whatever its length, once for the index and once in memory: fifty manifests of 4 MB were 459 MB
/// of memory, and an index that left blobs no room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_media_type_that_is_none_is_no_manifest_and_nothing_is_kept_of_it() {
    let registry = FakeRegistry::start().await;
    let long = format!("application/{}", "x".repeat(1_000_000));
    let mut paths = Vec::new();
    for key in ["mediaType", "artifactType"] {
        let mut document = serde_json::json!({"schemaVersion": 2, "manifests": []});
        document[key] = serde_json::json!(long);
        let manifest = Manifest::of(OCI_INDEX, &document);
        registry.put_manifest("team/app", Some(&key.to_lowercase()), &manifest);
        paths.push(format!("/v2/team/app/manifests/{}", manifest.digest));
        paths.push(format!("/v2/team/app/manifests/{}", key.to_lowercase()));
    }
    let mirror = Mirror::of(&registry).await;
    for path in &paths {
        let answer = mirror.get(path).await;
        assert_eq!(answer.status, 502, "{path}: {}", answer.text());
        assert_eq!(answer.code(), "MANIFEST_INVALID", "{path}");
    }
    let samples = mirror.metrics().await;
    assert_eq!(samples.sum("roadstead_cache_blobs", &[]), 0.0);
}

/// The same bytes at two upstreams, whose headers disagree about them. Only the bytes may say what the
/// clients of either are given: before, whoever was asked last said it to all, for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_upstreams_header_says_what_anothers_manifest_is() {
    let image = images::image(75, &[1000], Dialect::Oci);
    let untyped = |members: &str| format!("{{\"schemaVersion\":2,{members}}}");
    let config = format!(
        "{{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"{}\",\"size\":2}}",
        image.config.digest
    );
    let documents = [
        (
            untyped(&format!("\"config\":{config},\"layers\":[]")),
            OCI_MANIFEST,
        ),
        (untyped("\"manifests\":[]"), OCI_INDEX),
    ];
    for (text, expected) in documents {
        for lie in [
            "application/vnd.evil+json",
            SCHEMA1_SIGNED,
            DOCKER_LIST,
            "text/html",
        ] {
            let (hub, evil) = (FakeRegistry::start().await, FakeRegistry::start().await);
            let honest = Manifest::raw(expected, text.clone());
            let lying = Manifest::raw(lie, text.clone());
            hub.put_manifest("team/app", Some("v1"), &honest);
            evil.put_manifest("team/app", Some("v1"), &lying);
            let mut mirror = MirrorBuilder::of(&hub)
                .upstream("evil.example", &evil, |_| {})
                .start()
                .await;
            let paths = [
                format!("/v2/team/app/manifests/{}?ns=evil.example", lying.digest),
                format!("/v2/team/app/manifests/{}", honest.digest),
                "/v2/team/app/manifests/v1?ns=evil.example".to_owned(),
                TAG.to_owned(),
            ];
            for round in 0..3 {
                for path in &paths {
                    let answer = mirror.get(path).await;
                    if lie == "text/html" && answer.status == 502 {
                        continue;
                    }
                    answer.assert_bytes(200, text.as_bytes());
                    assert_eq!(answer.header("content-type"), expected, "{lie}: {path}");
                }
                if round == 1 {
                    mirror = mirror.restart().await;
                }
            }
        }
    }
}

/// Where the bytes say nothing, each repository has what its own upstream says, and keeps it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_bytes_say_nothing_each_upstream_is_believed_for_itself() {
    let (hub, other) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let text = "{\"a\": 1}";
    let ours = Manifest::raw("application/vnd.ours+json", text);
    let theirs = Manifest::raw("application/vnd.theirs+json", text);
    hub.put_manifest("team/app", Some("v1"), &ours);
    other.put_manifest("team/app", Some("v1"), &theirs);
    let mirror = MirrorBuilder::of(&hub)
        .upstream("other.example", &other, |_| {})
        .start()
        .await;
    let by_tag = "/v2/team/app/manifests/v1";
    let by_digest = format!("/v2/team/app/manifests/{}", ours.digest);
    let check = async |mirror: &Mirror| {
        for path in [by_tag, &by_digest] {
            let theirs_at = format!("{path}?ns=other.example");
            for (path, expected) in [
                (path, "application/vnd.ours+json"),
                (&theirs_at, "application/vnd.theirs+json"),
            ] {
                let answer = mirror.get(path).await;
                answer.assert_bytes(200, text.as_bytes());
                assert_eq!(answer.header("content-type"), expected, "{path}");
            }
        }
    };
    check(&mirror).await;
    check(&mirror).await;
    assert_eq!((asked(&hub).1, asked(&other).1), (1, 1));
    // What a tag was given with outlives the process, and the upstream.
    let mirror = mirror.restart().await;
    hub.go_down().await;
    other.go_down().await;
    check(&mirror).await;
}

/// CVE-2021-41190: one client reads an index and another an image, whatever the registry checked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_reads_in_two_ways_is_refused() {
    let registry = FakeRegistry::start().await;
    let image = images::image(76, &[1000], Dialect::Oci);
    let entry = format!(
        "{{\"mediaType\":\"{OCI_MANIFEST}\",\"digest\":\"{}\",\"size\":3}}",
        image.manifest.digest
    );
    let two_ways = Manifest::raw(
        OCI_INDEX,
        format!("{{\"schemaVersion\":2,\"layers\":[{entry}],\"manifests\":[{entry}]}}"),
    );
    registry.put_manifest("team/app", Some("v1"), &two_ways);
    let mirror = Mirror::of(&registry).await;
    for path in [
        TAG.to_owned(),
        format!("/v2/team/app/manifests/{}", two_ways.digest),
    ] {
        let answer = mirror.get(&path).await;
        assert_eq!(answer.status, 502, "{path}: {}", answer.text());
        assert_eq!(answer.code(), "MANIFEST_INVALID");
    }
}

/// By digest, only bytes that hash to it: schema 1, whose digest is that of a part of it, is had by tag.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signed_schema_1_is_not_had_by_digest() {
    let registry = FakeRegistry::start().await;
    let (signed, payload) = images::signed_schema1();
    registry.put_manifest("team/app", Some("v1"), &signed);
    let mirror = Mirror::of(&registry).await;
    let accept = [("Accept", SCHEMA1_SIGNED)];
    for _ in 0..2 {
        let by_tag = mirror.get_with(TAG, &accept).await;
        by_tag.assert_bytes(200, &signed.bytes);
        assert_eq!(by_tag.header("content-type"), SCHEMA1_SIGNED);
        assert_eq!(by_tag.header("docker-content-digest"), payload);
        let path = format!("/v2/team/app/manifests/{payload}");
        for answer in [
            mirror.get_with(&path, &accept).await,
            mirror.head(&path).await,
        ] {
            assert_eq!(answer.status, 502, "{}", answer.text());
        }
    }
}

/// Whatever was asked for stayed in memory for as long as its client did not read it: forty clients held 301 MB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_answers_that_nobody_reads_are_few_and_small_ones_are_served_all_the_while() {
    const READERS: usize = 12;
    let registry = FakeRegistry::start().await;
    let large = |n: usize| {
        let padding = format!("{n:04}").repeat(1 << 20);
        let annotations = serde_json::json!({ "padding": padding });
        let index =
            serde_json::json!({"schemaVersion": 2, "manifests": [], "annotations": annotations});
        Manifest::of(OCI_INDEX, &index)
    };
    let mut paths = Vec::new();
    for n in 0..READERS {
        let manifest = large(n);
        registry.put_manifest("team/app", None, &manifest);
        paths.push(format!("/v2/team/app/manifests/{}", manifest.digest));
    }
    let image = images::image(66, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let mirror = Mirror::of(&registry).await;
    let (mut held, mut refused) = (Vec::new(), 0);
    for path in &paths {
        let reader = mirror.open(path).await;
        match reader.status {
            200 => held.push(reader),
            503 | 429 => refused += 1,
            status => panic!("{status}"),
        }
    }
    // One address has half of 64 MiB.
    assert!((4..=8).contains(&held.len()), "{} are held", held.len());
    assert_eq!(held.len() + refused, READERS);
    mirror
        .get(TAG)
        .await
        .assert_bytes(200, &image.manifest.bytes);
    drop(held);
    let served = async {
        while mirror.get(&paths[READERS - 1]).await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    crate::common::within("the last one", served).await;
}
