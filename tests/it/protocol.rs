//! The protocol as a table: request → status, headers, body. One row or one
//! test for each rule that a client relies on.

use crate::common::images::{self, DOCKER_LIST, OCI_INDEX, OCI_MANIFEST, SCHEMA1_SIGNED};
use crate::common::{Answer, Dialect, FakeRegistry, Kind, Manifest, Mirror, World};
use http::Method;

const HIT: &str = "roadstead; hit";
const MISS: &str = "roadstead; fwd=miss; stored";

/// What a row expects.
struct Row<'a> {
    name: &'a str,
    method: Method,
    path: String,
    headers: Vec<(&'a str, String)>,
    status: u16,
    /// Header → value; an empty value: absent.
    answer: Vec<(&'a str, String)>,
    body: Option<&'a [u8]>,
    code: &'a str,
}

fn row(name: &str, path: impl Into<String>, status: u16) -> Row<'_> {
    Row {
        name,
        method: Method::GET,
        path: path.into(),
        headers: Vec::new(),
        status,
        answer: Vec::new(),
        body: None,
        code: "",
    }
}

impl<'a> Row<'a> {
    fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }
    fn send(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
    fn gives(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.answer.push((name, value.into()));
        self
    }
    fn body(mut self, body: &'a [u8]) -> Self {
        self.body = Some(body);
        self
    }
    fn code(mut self, code: &'a str) -> Self {
        self.code = code;
        self
    }

    async fn check(&self, mirror: &Mirror) -> Answer {
        let headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let answer = mirror
            .client
            .ask(self.method.clone(), &self.path, &headers)
            .await;
        let name = self.name;
        assert_eq!(answer.status, self.status, "{name}: {}", answer.text());
        assert_eq!(answer.ending, crate::common::Ending::Clean, "{name}");
        for (header, value) in &self.answer {
            assert_eq!(answer.header(header), value, "{name}: header {header}");
        }
        if let Some(body) = self.body {
            assert!(answer.body == body, "{name}: body {:?}", answer.text());
        }
        if !self.code.is_empty() {
            assert_eq!(answer.header("content-type"), "application/json", "{name}");
            assert_eq!(answer.code(), self.code, "{name}");
        }
        if self.method == Method::HEAD {
            assert!(answer.body.is_empty(), "{name}: HEAD has no body");
        }
        // Identity is asked of upstream and served: a coded body would not match its digest.
        assert_eq!(answer.header("content-encoding"), "", "{name}");
        answer
    }
}

async fn check_all(mirror: &Mirror, rows: Vec<Row<'_>>) {
    for row in rows {
        row.check(mirror).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ping_answers_without_asking_anybody() {
    let world = World::new().await;
    let version = ("docker-distribution-api-version", "registry/2.0");
    check_all(
        &world.mirror,
        vec![
            row("ping", "/v2/", 200).gives(version.0, version.1),
            row("ping without slash", "/v2", 200).gives(version.0, version.1),
            row("ping by HEAD", "/v2/", 200)
                .method(Method::HEAD)
                .gives(version.0, version.1),
            row("ping as containerd does it", "/v2/?ns=ghcr.io", 200),
        ],
    )
    .await;
    assert_eq!(world.upstream_requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_ways_to_name_an_upstream() {
    let world = World::new().await;
    let app = &world.app.manifest;
    let nginx = &world.image.manifest;
    check_all(
        &world.mirror,
        vec![
            row("ns", "/v2/org/app/manifests/v1?ns=ghcr.io", 200)
                .gives("oci-namespace", "ghcr.io")
                .gives("docker-content-digest", &app.digest)
                .body(&app.bytes),
            row("host", "/v2/org/app/manifests/v1", 200)
                .send("Host", "ghcr.mirror.corp")
                .gives("oci-namespace", "")
                .body(&app.bytes),
            row(
                "host with a port, other case",
                "/v2/org/app/manifests/v1",
                200,
            )
            .send("Host", "GHCR.mirror.corp:5000")
            .body(&app.bytes),
            row("path prefix", "/v2/ghcr.io/org/app/manifests/v1", 200).body(&app.bytes),
            row(
                "path prefix, library added",
                "/v2/docker.io/nginx/manifests/1.27",
                200,
            )
            .body(&nginx.bytes),
            row(
                "path prefix, library written",
                "/v2/docker.io/library/nginx/manifests/1.27",
                200,
            )
            .body(&nginx.bytes),
            row("default", "/v2/library/nginx/manifests/1.27", 200).body(&nginx.bytes),
            row(
                "ns goes before host",
                "/v2/library/nginx/manifests/1.27?ns=docker.io",
                200,
            )
            .send("Host", "ghcr.mirror.corp")
            .gives("oci-namespace", "docker.io")
            .body(&nginx.bytes),
            row(
                "host goes before path",
                "/v2/docker.io/nginx/manifests/1.27",
                404,
            )
            .send("Host", "ghcr.mirror.corp"),
        ],
    )
    .await;
}

/// containerd with `override_path`, Talos and k3s send the name in `ns` and in the path; others write a port, or the
/// name of Docker Hub's server. All were 404.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_named_twice_or_in_other_words_is_the_same() {
    let world = World::new().await;
    for (path, name, header) in [
        ("ghcr.io/org/app/manifests/v1?ns=ghcr.io", "ghcr.io", ""),
        ("ghcr.io/org/app/manifests/v1?ns=ghcr.io:443", "ghcr.io", ""),
        ("org/app/manifests/v1?ns=GHCR.io:443", "ghcr.io", ""),
        ("ghcr.io:443/org/app/manifests/v1", "", ""),
        ("org/app/manifests/v1", "ghcr.io", "ghcr.io"),
        ("org/app/manifests/v1?ns=", "ghcr.io", "ghcr.io:443"),
        ("ghcr.io/org/app/manifests/v1", "ghcr.io", "ghcr.io"),
        ("org/app/manifests/v1?ns=ghcr.io", "ghcr.io", "docker.io"),
        (
            "nginx/manifests/1.27?ns=registry-1.docker.io",
            "docker.io",
            "",
        ),
        (
            "docker.io/nginx/manifests/1.27?ns=docker.io",
            "docker.io",
            "",
        ),
        ("index.docker.io/nginx/manifests/1.27", "", ""),
        (
            "library/nginx/manifests/1.27",
            "docker.io",
            "registry-1.docker.io",
        ),
    ] {
        let body = if path.contains("nginx") {
            &world.image.manifest.bytes
        } else {
            &world.app.manifest.bytes
        };
        let mut row = row(path, format!("/v2/{path}"), 200);
        if !header.is_empty() {
            row = row.send("OCI-Namespace", header);
        }
        row.gives("oci-namespace", name)
            .body(body)
            .check(&world.mirror)
            .await;
    }
    let unknown = row("unknown", "/v2/org/app/manifests/v1", 404).code("NAME_UNKNOWN");
    let unknown = unknown.send("OCI-Namespace", "evil.example");
    unknown.check(&world.mirror).await;
    let next = world
        .mirror
        .get("/v2/ghcr.io/org/app/tags/list?n=1&ns=ghcr.io");
    assert_eq!(next.await.status, 200);
}

/// git-pkgs/proxy#303, dragonflyoss/client#1791: `ns` was taken as an address to dial.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_upstreams_are_never_dialled() {
    let world = World::new().await;
    let bystander = FakeRegistry::start().await;
    bystander.put_image("org/app", Some("v1"), &world.app);
    let authority = bystander.authority();
    let digest = &world.layer().digest;
    let paths = [
        format!("/v2/org/app/manifests/v1?ns={authority}"),
        format!("/v2/org/app/blobs/{digest}?ns={authority}"),
        format!("/v2/{authority}/org/app/manifests/v1"),
        "/v2/quay.io/org/app/manifests/v1".to_owned(),
        "/v2/org/app/tags/list?ns=quay.io".to_owned(),
        format!("/v2/org/app/referrers/{digest}?ns=quay.io"),
        "/v2/org/app/manifests/v1?ns=http://ghcr.io@127.0.0.1/".to_owned(),
        "/v2/localhost/org/app/manifests/v1".to_owned(),
    ];
    for path in paths {
        let answer = row("unknown", path, 404)
            .code("NAME_UNKNOWN")
            .check(&world.mirror)
            .await;
        assert!(answer.text().contains("docker.io"), "{}", answer.text());
        assert!(answer.text().contains("ghcr.io"), "{}", answer.text());
    }
    assert_eq!(bystander.counters().records.len(), 0);
    assert_eq!(world.upstream_requests(), 0);
}

/// sonatype and zot answered a HEAD without a length; containerd then pulls the manifest twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_says_digest_and_length_cold_and_warm() {
    let world = World::new().await;
    let manifest = &world.image.manifest;
    let layer = world.layer();
    let repository = "/v2/library/nginx";
    for _ in 0..2 {
        let by_tag = row("tag", format!("{repository}/manifests/1.27"), 200);
        let by_digest = row(
            "digest",
            format!("{repository}/manifests/{}", manifest.digest),
            200,
        );
        let blob = row("blob", format!("{repository}/blobs/{}", layer.digest), 200);
        for (row, digest, length) in [
            (by_tag, &manifest.digest, manifest.bytes.len()),
            (by_digest, &manifest.digest, manifest.bytes.len()),
            (blob, &layer.digest, layer.bytes.len()),
        ] {
            row.method(Method::HEAD)
                .gives("docker-content-digest", digest)
                .gives("content-length", length.to_string())
                .check(&world.mirror)
                .await;
        }
        let warm = format!("{repository}/blobs/{}", layer.digest);
        world
            .mirror
            .get(&warm)
            .await
            .assert_bytes(200, &layer.bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pull_says_its_digest_and_cache_status() {
    let world = World::new().await;
    let manifest = &world.image.manifest;
    let layer = world.layer();
    let tag = "/v2/library/nginx/manifests/1.27";
    let blob = format!("/v2/library/nginx/blobs/{}", layer.digest);
    let etag = format!("\"{}\"", layer.digest);
    for status in [MISS, HIT] {
        let row_tag = row("tag", tag, 200)
            .gives("cache-status", status)
            .gives("content-type", &manifest.media_type)
            .gives("docker-content-digest", &manifest.digest)
            .gives("etag", format!("\"{}\"", manifest.digest))
            .gives("content-length", manifest.bytes.len().to_string())
            .body(&manifest.bytes);
        row_tag.check(&world.mirror).await;
        let row_blob = row("blob", &blob, 200)
            .gives("cache-status", status)
            .gives("docker-content-digest", &layer.digest)
            .gives("etag", &etag)
            .gives("content-length", layer.bytes.len().to_string())
            .gives("accept-ranges", "bytes")
            .body(&layer.bytes);
        row_blob.check(&world.mirror).await;
        world.mirror.wait_for_fills().await;
    }
    // "In the cache" is what a second pull costs upstream: nothing.
    assert_eq!(world.hub.counters().blob_gets(&layer.digest), 1);
    assert_eq!(world.hub.counters().manifest_gets("1.27"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_have_the_specs_code() {
    let world = World::new().await;
    let unknown = images::sha256(b"nobody has this");
    let blobs = "/v2/library/nginx/blobs";
    let mut rows = vec![
        row("no such tag", "/v2/library/nginx/manifests/none", 404).code("MANIFEST_UNKNOWN"),
        row(
            "no such manifest",
            format!("/v2/library/nginx/manifests/{unknown}"),
            404,
        )
        .code("MANIFEST_UNKNOWN"),
        row("no such blob", format!("{blobs}/{unknown}"), 404).code("BLOB_UNKNOWN"),
        row("short digest", format!("{blobs}/sha256:abc"), 400).code("DIGEST_INVALID"),
        row(
            "upper case digest",
            format!("{blobs}/{}", unknown.to_uppercase()),
            400,
        )
        .code("DIGEST_INVALID"),
        row("a tag for a blob", format!("{blobs}/latest"), 400).code("DIGEST_INVALID"),
        row(
            "algorithm nobody can check",
            format!("{blobs}/blake9:{}", "a".repeat(64)),
            400,
        )
        .code("DIGEST_INVALID"),
        row("bad name", "/v2/Library/Nginx/manifests/1", 400).code("NAME_INVALID"),
        row("bad n", "/v2/library/nginx/tags/list?n=many", 400).code("PAGINATION_NUMBER_INVALID"),
    ];
    let pushes = [
        (Method::POST, format!("{blobs}/uploads/")),
        (Method::PUT, "/v2/library/nginx/manifests/1.27".to_owned()),
        (Method::PATCH, format!("{blobs}/uploads/1")),
        (Method::DELETE, format!("{blobs}/{}", world.layer().digest)),
    ];
    for (method, path) in pushes {
        rows.push(row("push", path, 405).method(method).code("UNSUPPORTED"));
    }
    check_all(&world.mirror, rows).await;
    let outside = world.mirror.get("/index.html").await;
    assert_eq!(outside.status, 404);
}

/// A bad digest or name is refused without upstream having been asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_goes_no_further() {
    let world = World::new().await;
    for path in [
        "/v2/library/nginx/blobs/sha256:abc",
        "/v2/library/../nginx/manifests/1.27",
        "/v2/library/%2e%2e/manifests/1.27",
        "/v2/a//b/manifests/1.27",
        "/v2/library/nginx/manifests/-bad-tag",
    ] {
        let answer = world.mirror.get(path).await;
        assert!(
            (400..500).contains(&answer.status),
            "{path}: {}",
            answer.status
        );
    }
    assert_eq!(world.upstream_requests(), 0);
}

/// containerd looks for a digest under `/blobs/` after a 404 under `/manifests/`; each kind
/// must be answered under its own path only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_are_no_blobs_and_blobs_no_manifests() {
    let world = World::new().await;
    let (manifest, layer) = (&world.image.manifest, world.layer());
    let right = [
        format!("/v2/library/nginx/manifests/{}", manifest.digest),
        format!("/v2/library/nginx/blobs/{}", layer.digest),
    ];
    for path in right {
        assert_eq!(world.mirror.get(&path).await.status, 200);
    }
    world.mirror.wait_for_fills().await;
    let wrong = [
        format!("/v2/library/nginx/blobs/{}", manifest.digest),
        format!("/v2/library/nginx/manifests/{}", layer.digest),
    ];
    for path in wrong {
        assert_eq!(world.mirror.get(&path).await.status, 404, "{path}");
        assert_eq!(world.mirror.head(&path).await.status, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditional_requests_compare_the_digest() {
    let world = World::new().await;
    let layer = world.layer();
    let blob = format!("/v2/library/nginx/blobs/{}", layer.digest);
    let tag = "/v2/library/nginx/manifests/1.27";
    world
        .mirror
        .get(&blob)
        .await
        .assert_bytes(200, &layer.bytes);
    let etag = format!("\"{}\"", layer.digest);
    let manifest_etag = format!("\"{}\"", world.image.manifest.digest);
    check_all(
        &world.mirror,
        vec![
            row("blob unchanged", &blob, 304)
                .send("If-None-Match", &etag)
                .body(b""),
            row("blob changed", &blob, 200)
                .send("If-None-Match", "\"other\"")
                .body(&layer.bytes),
            row("tag unchanged", tag, 304)
                .send("If-None-Match", &manifest_etag)
                .gives("etag", &manifest_etag)
                .body(b""),
            row("tag changed", tag, 200)
                .send("If-None-Match", &etag)
                .body(&world.image.manifest.bytes),
        ],
    )
    .await;
}

/// goharbor/harbor#19806: media types and bytes come through as they are, all kinds of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_pass_byte_exact_with_their_media_type() {
    let world = World::new().await;
    let list = images::index(&[(&world.image, "amd64")], Dialect::Docker);
    let index = images::index(&[(&world.image, "arm64")], Dialect::Oci);
    let schema1 = Manifest::raw(
        SCHEMA1_SIGNED,
        "{\n   \"schemaVersion\": 1,\n   \"name\": \"old\",\n   \"tag\": \"1\",\n   \"fsLayers\": [],\n   \"history\": []\n}",
    );
    let spaced = Manifest::raw(
        OCI_MANIFEST,
        format!(
            "{{ \"layers\":[] ,\n\n \"config\":{{\"digest\":\"{}\",\"size\":{},\"mediaType\":\"a/b\"}},\"schemaVersion\":2}}  ",
            world.image.config.digest,
            world.image.config.bytes.len()
        ),
    );
    let kinds = [
        (&list, DOCKER_LIST),
        (&index, OCI_INDEX),
        (&schema1, SCHEMA1_SIGNED),
        (&spaced, OCI_MANIFEST),
    ];
    for (manifest, media_type) in kinds {
        world
            .hub
            .put_manifest("library/nginx", Some("kind"), manifest);
        let path = format!("/v2/library/nginx/manifests/{}", manifest.digest);
        for _ in 0..2 {
            row(media_type, &path, 200)
                .send("Accept", media_type)
                .gives("content-type", media_type)
                .gives("docker-content-digest", &manifest.digest)
                .body(&manifest.bytes)
                .check(&world.mirror)
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_codings_and_credentials_stay_here() {
    let world = World::new().await;
    let blob = format!("/v2/library/nginx/blobs/{}", world.layer().digest);
    for path in ["/v2/library/nginx/manifests/1.27", &blob] {
        row("coded", path, 200)
            .send("Accept-Encoding", "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5")
            .send("Authorization", "Basic Y2xpZW50OnNlY3JldA==")
            .send("Cookie", "session=1")
            .check(&world.mirror)
            .await;
    }
    for record in world.hub.counters().records {
        let coding = record.header("accept-encoding");
        assert!(
            matches!(coding, "" | "identity"),
            "asked upstream for {coding}"
        );
        assert_eq!(record.header("authorization"), "");
        assert_eq!(record.header("cookie"), "");
    }
}

/// containerd refuses manifests above 4 MiB and a little; collecting more would only cost memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_manifests_are_refused_large_ones_served() {
    let world = World::new().await;
    let of_size = |size: usize| {
        let padding = "a".repeat(size);
        Manifest::of(
            OCI_INDEX,
            &serde_json::json!({"schemaVersion": 2, "manifests": [], "annotations": {"pad": padding}}),
        )
    };
    let large = of_size(4_393_000);
    world
        .hub
        .put_manifest("library/nginx", Some("large"), &large);
    world
        .hub
        .put_manifest("library/nginx", Some("huge"), &of_size(5_000_000));
    let answer = world.mirror.get("/v2/library/nginx/manifests/large").await;
    answer.assert_bytes(200, &large.bytes);
    let refused = world.mirror.get("/v2/library/nginx/manifests/huge").await;
    assert_eq!(refused.status, 502);
    assert_eq!(refused.code(), "MANIFEST_INVALID");
}

/// Upstream's own deprecation notes reach the person who pulls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstreams_warnings_are_passed_on() {
    let world = World::new().await;
    let warning = "299 - \"this image is deprecated\"";
    world
        .hub
        .options(|options| options.extra_headers = vec![("Warning", warning.to_owned())]);
    let answer = world.mirror.get("/v2/library/nginx/manifests/1.27").await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.all("warning").contains(&warning),
        "{:?}",
        answer.headers
    );
}

/// Upstream is asked for manifests in formats it can choose from, not for `*/*`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_hears_the_formats_of_the_client() {
    let world = World::new().await;
    let accept = format!("{DOCKER_LIST}, {OCI_INDEX}");
    let headers = [("Accept", accept.as_str())];
    world
        .mirror
        .get_with("/v2/library/nginx/manifests/1.27", &headers)
        .await;
    let counters = world.hub.counters();
    let asked = counters
        .records
        .iter()
        .find(|r| r.kind == Kind::Manifest)
        .unwrap();
    let heard = asked.header("accept");
    assert!(
        heard.contains(DOCKER_LIST) && heard.contains(OCI_INDEX),
        "{heard}"
    );
}
