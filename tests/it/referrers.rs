//! Lists: what of them is passed on, what refers to a digest, and what is served while upstream cannot say.

use std::time::Duration;

use crate::common::images::{self, Blob, OCI_INDEX};
use crate::common::mirror::{STALE_IF_ERROR, TTL};
use crate::common::{
    Answer, Dialect, FakeRegistry, Fault, Image, Kind, Manifest, Mirror, MirrorBuilder, Rule,
};
use http::Method;
use serde_json::{Value, json};

const TAGS: &str = "/v2/team/app/tags/list";
const TAG: &str = "/v2/team/app/manifests/v1";
const STALE: &str = "roadstead; fwd=stale";

/// A registry with an image, a mirror of it, and where its referrers are.
async fn world(seed: u64) -> (FakeRegistry, Mirror, Image, String) {
    let registry = FakeRegistry::start().await;
    let image = images::image(seed, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let mirror = Mirror::of(&registry).await;
    let path = format!("/v2/team/app/referrers/{}", image.manifest.digest);
    (registry, mirror, image, path)
}

fn says(status: u16, headers: &[(&'static str, &str)], body: &str) -> Fault {
    let headers = headers
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()));
    Fault::Answer {
        status,
        headers: headers.collect(),
        body: body.to_owned(),
    }
}

fn value(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

/// An index, 200, with so many entries.
#[track_caller]
fn assert_entries(answer: &Answer, count: usize, what: &str) {
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    assert_eq!(answer.header("content-type"), OCI_INDEX, "{what}");
    let value = value(answer);
    assert_eq!(value["schemaVersion"], 2, "{what}");
    assert_eq!(value["mediaType"], OCI_INDEX, "{what}");
    assert_eq!(
        value["manifests"].as_array().unwrap().len(),
        count,
        "{what}"
    );
}

/// Where `Link` points, on this server.
fn next(answer: &Answer) -> String {
    let link = answer.header("link");
    assert!(link.ends_with(">; rel=\"next\""), "{link:?}");
    link[1..link.find('>').unwrap()].to_owned()
}

/// Lists have no digest: whatever type upstream gave them was passed on, so that a picture with a script in it ran as
/// this mirror's own page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_json_or_nothing() {
    let (registry, mirror, _image, referrers) = world(1).await;
    let svg = "<svg xmlns=\"http://www.w3.org/2000/svg\"><script>alert(1)</script></svg>";
    let tags = r#"{"name":"team/app","tags":["v1"],"manifest":{"x":1}}"#;
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[]}}"#);
    for content_type in [
        "image/svg+xml",
        "application/xhtml+xml",
        "text/plain",
        "text/html; x",
    ] {
        // A header that makes a page look like a registry's answer.
        let headers = [
            ("content-type", content_type),
            ("docker-content-digest", "sha256:0"),
        ];
        for (kind, path, right, expected) in [
            (Kind::Tags, TAGS, tags, "application/json"),
            (Kind::Referrers, &*referrers, &*index, OCI_INDEX),
        ] {
            registry.heal();
            registry.fault(Rule::all(kind), says(200, &headers, right));
            let answer = mirror.get(path).await;
            answer.assert_bytes(200, right.as_bytes());
            assert_eq!(answer.header("content-type"), expected);
            for wrong in [
                svg,
                "",
                "{}",
                "[]",
                "\"v1\"",
                r#"{"errors":[{"code":"X"}]}"#,
                r#"{"name":"team/app","tags":[1]}"#,
                r#"{"name":"team/app","tags":["<script>alert(1)</script>"]}"#,
                r#"{"manifests":[{"digest":"<script>"}]}"#,
            ] {
                // Nothing that was seen stands in for it.
                let mirror = Mirror::of(&registry).await;
                registry.heal();
                registry.fault(Rule::all(kind), says(200, &headers, wrong));
                let answer = mirror.get(path).await;
                assert_eq!(answer.status, 502, "{path} {wrong}: {}", answer.text());
                assert_eq!(answer.header("content-type"), "application/json");
                assert!(!answer.text().contains("script"), "{}", answer.text());
            }
        }
    }
    // One odd name does not cost the others.
    registry.heal();
    let odd = r#"{"name":"team/app","tags":["v1","<b>","v2"]}"#;
    registry.fault(Rule::all(Kind::Tags), says(200, &[], odd));
    assert_eq!(value(&mirror.get(TAGS).await)["tags"], json!(["v1", "v2"]));
}

/// The pages behind the first were never reached: what the upstream's cursor says was dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn referrers_are_paged_in_the_upstreams_words() {
    let (registry, mirror, image, referrers) = world(2).await;
    let page = |artifact_type: &str| {
        let artifact = images::artifact(&image.manifest, artifact_type, &Blob::noise(5, 30));
        let other = images::artifact(&image.manifest, "application/other", &Blob::noise(6, 30));
        let list =
            images::referrers_index(&[(&artifact, artifact_type), (&other, "application/other")]);
        String::from_utf8(list.bytes.to_vec()).unwrap()
    };
    for (link, ns) in [
        (
            "</v2/team/app/referrers/x?next=a%2Bb%26&n=2>; rel=\"next\"",
            "",
        ),
        (
            "<https://elsewhere.example/v2/x?next=a%2Bb%26&n=2>; rel=next",
            "&ns=docker.io",
        ),
    ] {
        registry.heal();
        registry.reset();
        for number in 1..=3 {
            let links = [("link", link)];
            let links = if number < 3 { &links[..] } else { &[] };
            let text = page(&format!("application/{number}"));
            registry.fault(Rule::all(Kind::Referrers).times(1), says(200, links, &text));
        }
        let first = mirror.get(&format!("{referrers}?x=1{ns}")).await;
        assert_entries(&first, 2, link);
        let path = next(&first);
        assert!(path.starts_with(&referrers), "{path}");
        assert!(path.contains(&ns.replace('&', "")), "{path}");
        let second = mirror.get(&path).await;
        assert_entries(&second, 2, link);
        assert!(second.text().contains("application/2"), "{}", second.text());
        // It points at itself: whoever follows it would never end.
        assert_eq!(second.header("link"), "");
        let asked = registry.counters().records;
        assert_eq!(asked.last().unwrap().query, "next=a%2Bb%26&n=2");
    }
    // The filter holds over pages, whoever applies it.
    registry.heal();
    let link = ("link", "</v2/team/app/referrers/x?next=2>; rel=\"next\"");
    registry.fault(
        Rule::all(Kind::Referrers).times(1),
        says(200, &[link], &page("application/1")),
    );
    registry.fault(
        Rule::all(Kind::Referrers).times(1),
        says(200, &[], &page("application/2")),
    );
    let filtered = format!("{referrers}?artifactType=application/other");
    let first = mirror.get(&filtered).await;
    let second = mirror.get(&next(&first)).await;
    for answer in [&first, &second] {
        assert_entries(answer, 1, "filtered");
        assert_eq!(answer.header("oci-filters-applied"), "artifactType");
        assert!(answer.text().contains("application/other"));
    }
    let query = &registry.counters().records.last().unwrap().query.clone();
    assert!(
        query.contains("next=2") && query.contains("artifactType=application%2Fother"),
        "{query}"
    );
}

/// Registries without the API say so in many ways. Clients break where one subject is 200 and the next 404.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_api_the_tag_says_it_or_there_are_none() {
    for status in [400, 404, 405, 406, 501] {
        let (registry, mirror, image, referrers) = world(3).await;
        registry.fault(
            Rule::all(Kind::Referrers),
            says(status, &[], "404 page not found"),
        );
        let tag = image.manifest.digest.replace(':', "-");
        let none = mirror.get(&referrers).await;
        assert_entries(&none, 0, &format!("{status}: no tag"));
        let counters = registry.counters();
        assert_eq!(counters.of(&Method::GET, Kind::Referrers), 1, "{status}");
        assert_eq!(
            (counters.manifest_heads(&tag), counters.manifest_gets(&tag)),
            (1, 0)
        );
        // A signature, or whatever else stands under that name, is no list.
        registry.put_manifest("team/app", Some(&tag), &image.manifest);
        assert_entries(
            &mirror.get(&referrers).await,
            0,
            &format!("{status}: an image"),
        );
        let artifact = images::artifact(&image.manifest, "application/sbom", &Blob::noise(8, 30));
        let index = images::referrers_index(&[(&artifact, "application/sbom")]);
        registry.put_manifest("team/app", Some(&tag), &index);
        mirror.clock.advance(TTL);
        assert_entries(
            &mirror.get(&referrers).await,
            1,
            &format!("{status}: an index"),
        );
        let filtered = mirror.get(&format!("{referrers}?artifactType=a/b")).await;
        assert_entries(&filtered, 0, "filtered");
        assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
        // A registry that does not answer HEAD is asked with GET.
        let (registry, mirror, image, referrers) = world(4).await;
        registry.fault(Rule::all(Kind::Referrers), says(status, &[], ""));
        registry.options(|options| options.head = false);
        let tag = image.manifest.digest.replace(':', "-");
        assert_entries(&mirror.get(&referrers).await, 0, "no HEAD, no tag");
        registry.put_manifest("team/app", Some(&tag), &index);
        assert_entries(&mirror.get(&referrers).await, 1, "no HEAD");
    }
}

/// Who looks for a signature must not take a failure for there being none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_no_empty_list() {
    for status in [401, 403, 429, 500, 502, 503] {
        let (registry, mirror, _image, referrers) = world(5).await;
        registry.fault(Rule::all(Kind::Referrers), Fault::Status(status));
        let answer = mirror.get(&referrers).await;
        assert!(
            answer.status >= 400 && answer.status != 404,
            "{status}: {}",
            answer.status
        );
        // The API is not there, and the tag cannot be asked for.
        registry.heal();
        registry.options(|options| options.referrers = false);
        registry.fault(Rule::all(Kind::Manifest), Fault::Status(status));
        let answer = mirror.get(&referrers).await;
        assert!(
            answer.status >= 400 && answer.status != 404,
            "{status}: {}",
            answer.status
        );
    }
    // That there is no such repository is told, unless something of it was seen here.
    let (registry, mirror, _image, referrers) = world(6).await;
    registry.options(|options| options.referrers = false);
    let answer = mirror.get(&referrers).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (404, "NAME_UNKNOWN")
    );
    assert_eq!(mirror.get(TAG).await.status, 200);
    assert_entries(&mirror.get(&referrers).await, 0, "it is known here");
}

/// An empty list is believed for `negative_ttl`: every pull of a fleet with a signature policy asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_there_are_none_is_asked_once() {
    for api in [true, false] {
        let registry = FakeRegistry::start().await;
        let image = images::image(7, &[1000], Dialect::Oci);
        registry.put_image("team/app", Some("v1"), &image);
        if !api {
            registry.fault(Rule::all(Kind::Referrers), says(405, &[], ""));
        }
        let mirror = MirrorBuilder::of(&registry)
            .with(|config| config.tags.defaults.negative_ttl = Duration::from_secs(10))
            .start()
            .await;
        let path = format!("/v2/team/app/referrers/{}", image.manifest.digest);
        let cost = if api { 1 } else { 2 };
        for _ in 0..5 {
            assert_entries(&mirror.get(&path).await, 0, "none");
        }
        assert_eq!(registry.counters().records.len(), cost, "{api}");
        mirror.clock.advance(Duration::from_secs(10));
        registry.heal();
        let artifact = images::artifact(&image.manifest, "application/sbom", &Blob::noise(9, 30));
        registry.put_image("team/app", None, &artifact);
        assert_entries(&mirror.get(&path).await, 1, "pushed since");
    }
}

/// `crane ls`, `skopeo list-tags`, `oras discover` and `regctl image copy --digest-tags` failed with upstream down,
/// although everything that they would have pulled was here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_were_seen_outlive_the_upstream() {
    let (registry, mirror, image, referrers) = world(8).await;
    for tag in ["v2", "v3"] {
        registry.put_manifest("team/app", Some(tag), &image.manifest);
    }
    let sbom = images::artifact(&image.manifest, "application/sbom", &Blob::noise(5, 30));
    registry.put_image("team/app", None, &sbom);
    let limited = format!("{TAGS}?n=1000");
    let filtered = format!("{referrers}?artifactType=application/sbom");
    for path in [&limited, &referrers] {
        let answer = mirror.get(path).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("warning"), "");
    }
    registry.go_down().await;
    let check = async |path: &str, expected: &str| {
        let answer = mirror.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(answer.header("cache-status"), STALE, "{path}");
        assert!(answer.header("warning").starts_with("110 "), "{path}");
        assert!(
            answer.text().contains(expected),
            "{path}: {}",
            answer.text()
        );
        answer
    };
    check(&limited, r#"["v1","v2","v3"]"#).await;
    check(&referrers, &sbom.manifest.digest).await;
    check(&filtered, &sbom.manifest.digest).await;
    // What follows from what was seen: all of the tags, and their pages.
    check(TAGS, r#"["v1","v2","v3"]"#).await;
    let first = check(&format!("{TAGS}?n=2"), r#"["v1","v2"]"#).await;
    let rest = check(&next(&first), r#"["v3"]"#).await;
    assert_eq!(rest.header("link"), "");
    // What was not seen is no empty list.
    assert_eq!(mirror.get("/v2/team/other/tags/list").await.status, 502);
    let other = format!("/v2/team/app/referrers/{}", sbom.manifest.digest);
    assert_eq!(mirror.get(&other).await.status, 502);
    // As long as tags are, and no longer.
    mirror.clock.advance(TTL + STALE_IF_ERROR);
    assert_eq!(mirror.get(&limited).await.status, 502);
    assert_eq!(mirror.get(&referrers).await.status, 502);
}

/// The failures that a tag is served stale for are those that a list is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_stale_by_the_rules_of_tags() {
    for (fault, stale) in [
        (Fault::Status(500), true),
        (Fault::RateLimited(30), true),
        (says(200, &[], "<html>"), true),
        (Fault::Status(401), false),
        (Fault::Status(403), false),
        (Fault::Status(404), false),
    ] {
        let (registry, mirror, image, referrers) = world(10).await;
        let sbom = images::artifact(&image.manifest, "application/sbom", &Blob::noise(5, 30));
        registry.put_image("team/app", None, &sbom);
        assert_eq!(mirror.get(TAGS).await.status, 200);
        assert_entries(&mirror.get(&referrers).await, 1, "seen");
        registry.fault(Rule::all(Kind::Tags), fault.clone());
        registry.fault(Rule::all(Kind::Referrers), fault.clone());
        registry.fault(Rule::all(Kind::Manifest), fault.clone());
        let tags = mirror.get(TAGS).await;
        assert_eq!(
            tags.header("cache-status") == STALE,
            stale,
            "{fault:?}: {}",
            tags.status
        );
        let list = mirror.get(&referrers).await;
        assert_eq!(
            list.header("cache-status") == STALE,
            stale,
            "{fault:?}: {}",
            list.status
        );
        if stale {
            assert_entries(&list, 1, "stale");
            // While it fails it is not asked by everybody.
            let asked = registry.counters().records.len();
            assert_eq!(mirror.get(TAGS).await.header("cache-status"), STALE);
            assert_eq!(registry.counters().records.len(), asked);
        } else {
            assert_ne!(tags.status, 200);
        }
    }
}

/// The tag that stands in for the API is stale like any tag, after a restart too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_referrers_tag_outlives_the_process() {
    let (registry, mirror, image, referrers) = world(11).await;
    registry.options(|options| options.referrers = false);
    let artifact = images::artifact(&image.manifest, "application/sbom", &Blob::noise(8, 30));
    let index: Manifest = images::referrers_index(&[(&artifact, "application/sbom")]);
    let tag = image.manifest.digest.replace(':', "-");
    registry.put_manifest("team/app", Some(&tag), &index);
    assert_entries(&mirror.get(&referrers).await, 1, "by tag");
    let mirror = mirror.restart().await;
    registry.go_down().await;
    mirror.clock.advance(TTL);
    let answer = mirror.get(&referrers).await;
    assert_entries(&answer, 1, "by tag, stale");
    assert_eq!(answer.header("cache-status"), STALE);
}
