//! The pages for people: safe in a browser, in two languages, live, and only for those who may read.

use super::{bytes_of, pull, shared};
use crate::access::{House, basic, config};
use crate::common::images::{Blob, Image, Manifest, OCI_MANIFEST, image};
use crate::common::{Answer, Dialect, FakeRegistry, Mirror, MirrorBuilder, World, within};
use http::Method;
use serde_json::json;
use std::time::Duration;

const PAGES: [&str; 5] = ["/", "/images", "/hosted", "/clients", "/configuration"];

/// As many as may listen at once.
const LISTENERS_MAX: usize = 16;

async fn page(mirror: &Mirror, path: &str) -> String {
    let answer = mirror.admin.get(path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    assert_safe(&answer, path);
    answer.text()
}

/// Nothing comes from elsewhere, nothing runs that is not a file of ours, nobody frames it.
#[track_caller]
fn assert_safe(answer: &Answer, path: &str) {
    let policy = answer.header("content-security-policy");
    for part in [
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ] {
        assert!(policy.contains(part), "{path}: {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("referrer-policy"), "no-referrer");
    let text = answer.text();
    // Addresses in files for clients are text, and no links.
    for sign in [
        "href=\"http",
        "href=\"//",
        "src=\"http",
        "src=\"//",
        "action=\"http",
        "style=\"",
        "<style",
        " onclick=",
        "url(",
        "@import",
    ] {
        assert!(!text.contains(sign), "{path}: {sign}");
    }
    let scripts = text.matches("<script").count();
    let own = text.matches("<script src=\"/assets/page.").count();
    assert_eq!(scripts, own, "{path}");
}

#[tokio::test]
async fn pages_are_safe_and_show_what_there_is() {
    let shared = shared().await;
    let mirror = &shared.mirror;
    let overview = page(mirror, "/").await;
    for text in [
        "Hit ratio",
        "docker.io",
        "ghcr.io",
        "Fills under way",
        "Evictions",
        "Recent pulls",
        "docker.io/library/app:1",
        "lang=\"en\"",
        "data-events=\"/events?window=hour&amp;lang=en\"",
    ] {
        assert!(overview.contains(text), "{text}: {overview}");
    }
    let images = page(mirror, "/images").await;
    for image in ["library/app:1", "library/app:2", "org/other:v1"] {
        assert!(images.contains(image), "{image}");
    }
    assert!(images.contains("linux/amd64"));
    let found = page(mirror, "/images?q=OTHER").await;
    assert!(found.contains("org/other:v1") && !found.contains("library/app"));
    let none = page(mirror, "/images?q=nowhere").await;
    assert!(none.contains("No image has this in its name."));
    let inspected = page(mirror, "/images/inspect?image=docker.io/library/app:1").await;
    assert!(inspected.contains(&shared.base.digest));
    assert!(
        inspected.contains("ghcr.io/org/other"),
        "the base layer is shared"
    );
    let configuration = page(mirror, "/configuration").await;
    assert!(configuration.contains("[upstream.&#34;docker.io&#34;]"));
    let clients = page(mirror, "/clients").await;
    assert!(clients.contains("127.0.0.1") && !clients.contains("No client has been seen yet."));
    let head = mirror.admin.head("/").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[tokio::test]
async fn a_list_of_images_goes_on_page_by_page() {
    let hub = FakeRegistry::start().await;
    let only = image(1, &[1000], Dialect::Oci);
    for number in 0..60 {
        hub.put_image("library/app", Some(&format!("v{number:02}")), &only);
    }
    let mirror = Mirror::of(&hub).await;
    for number in 0..60 {
        let path = format!("/v2/library/app/manifests/v{number:02}");
        assert_eq!(mirror.get(&path).await.status, 200);
    }
    let first = page(&mirror, "/images?q=app").await;
    assert!(first.contains("app:v00<") && first.contains("app:v49<"));
    assert!(!first.contains("app:v50<"));
    let (_, link) = first.split_once("<a rel=\"next\" href=\"").unwrap();
    let link = link.split('"').next().unwrap().replace("&amp;", "&");
    let second = page(&mirror, &link).await;
    assert!(second.contains("app:v50<") && second.contains("app:v59<"));
    assert!(!second.contains("app:v49<") && !second.contains("rel=\"next\""));
}

#[tokio::test]
async fn what_others_wrote_is_only_text() {
    let hub = FakeRegistry::start().await;
    let evil = "<script>alert(1)</script>\" onload='x' \u{202e}\u{1b}[2J";
    let config = json!({
        "os": "linux", "architecture": "amd64",
        "config": { "Labels": { "a": evil, evil: "b" }, "Cmd": [evil], "User": evil },
    });
    let config = Blob::of(config.to_string());
    let layer = Blob::noise(3, 1000);
    let part = |blob: &Blob, kind: &str| json!({ "mediaType": kind, "digest": blob.digest, "size": blob.bytes.len() });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": part(&config, "application/vnd.oci.image.config.v1+json"),
        "layers": [part(&layer, "application/x-<script>")],
    });
    let evil_image = Image {
        manifest: Manifest::of(OCI_MANIFEST, &manifest),
        config,
        layers: vec![layer],
    };
    hub.put_image("library/evil", Some("1"), &evil_image);
    let mirror = Mirror::of(&hub).await;
    pull(&mirror, "docker.io", "library/evil", "1", &evil_image).await;
    let inspected = page(&mirror, "/images/inspect?image=evil:1").await;
    assert!(inspected.contains("&lt;script&gt;alert(1)&lt;/script&gt;&#34; onload=&#39;x&#39;"));
    assert!(!inspected.contains(['\u{202e}', '\u{1b}']));
    let query = "%3Cscript%3Ealert(1)%3C%2Fscript%3E%22%E2%80%AE";
    for (path, status) in [
        (format!("/images?q={query}"), 200),
        (format!("/images/inspect?image={query}"), 400),
        (format!("/images?after={query}"), 400),
        (format!("/clients?server={query}"), 400),
        (format!("/?window={query}&lang={query}"), 200),
        ("/images/inspect?image=nothing:1".to_owned(), 404),
    ] {
        let answer = mirror.admin.get(&path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
        assert_safe(&answer, &path);
        assert!(!answer.text().contains("<script>"), "{path}");
        assert!(!answer.text().contains('\u{202e}'), "{path}");
    }
}

#[tokio::test]
async fn pages_speak_two_languages() {
    let world = World::new().await;
    let admin = &world.mirror.admin;
    for path in PAGES {
        let chinese = admin
            .get_with(path, &[("accept-language", "zh-CN,zh;q=0.9")])
            .await;
        assert!(chinese.text().contains("lang=\"zh-Hans\""), "{path}");
        assert!(chinese.text().contains("概览"), "{path}");
        assert_eq!(chinese.header("vary"), "Accept-Language, Cookie");
        assert_eq!(chinese.header("set-cookie"), "");
        let english = admin.get(path).await.text();
        assert!(english.contains("lang=\"en\"") && english.contains("Overview"));
        // The link to the other language is all that there is of it.
        let foreign = english
            .chars()
            .filter(|c| ('\u{4e00}'..='\u{9fff}').contains(c));
        assert_eq!(foreign.collect::<String>(), "中文", "{path}");
    }
    let chosen = admin.get("/images?q=a&lang=zh").await;
    let cookie = chosen.header("set-cookie");
    assert!(cookie.starts_with("roadstead_lang=zh; Path=/;"), "{cookie}");
    assert!(cookie.contains("SameSite=Lax") && cookie.contains("HttpOnly"));
    assert!(chosen.text().contains("href=\"/images?q=a&amp;lang=en\""));
    let later = admin
        .get_with("/", &[("cookie", "roadstead_lang=zh")])
        .await;
    assert!(later.text().contains("概览"));
}

#[tokio::test]
async fn files_are_kept_for_ever_and_pages_not_at_all() {
    let world = World::new().await;
    let admin = &world.mirror.admin;
    let overview = admin.get("/").await;
    assert_eq!(overview.header("cache-control"), "no-store");
    let text = overview.text();
    let mut files: Vec<&str> = text
        .split('"')
        .filter(|it| it.starts_with("/assets/"))
        .collect();
    files.sort_unstable();
    files.dedup();
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        let answer = admin.get(file).await;
        assert_eq!(answer.status, 200, "{file}");
        assert_safe(&answer, file);
        assert!(answer.header("cache-control").contains("immutable"));
        assert!(answer.body.len() < 10_000, "{file}: {}", answer.body.len());
    }
    for gone in ["/assets/page.00000000.js", "/assets/", "/assets/../x"] {
        assert_eq!(admin.get(gone).await.status, 404, "{gone}");
    }
    // Other paths are as they were.
    let nothing = admin.get("/nothing").await;
    assert_eq!(
        (nothing.status, nothing.text()),
        (404, "not found\n".to_owned())
    );
}

#[tokio::test]
async fn pages_only_read_and_answer_no_other_site() {
    let world = World::new().await;
    let admin = &world.mirror.admin;
    for path in PAGES.iter().chain(&["/events", "/images/inspect"]) {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let admin_header = [("x-roadstead-admin", "1")];
            let answer = admin.ask(method, path, &admin_header).await;
            assert_eq!(answer.status, 405, "{path}");
            assert_eq!(answer.header("allow"), "GET, HEAD");
        }
        for headers in [
            &[("host", "evil.example:5001")][..],
            &[("origin", "https://evil.example")],
            &[("sec-fetch-site", "cross-site")],
            &[
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "iframe"),
            ],
        ] {
            let answer = admin.get_with(path, headers).await;
            assert_eq!(answer.status, 403, "{path} {headers:?}");
            assert_safe(&answer, path);
        }
    }
    let link = [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
    ];
    assert_eq!(admin.get_with("/", &link).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_for_those_who_may_read() {
    let rules = r#"
[access]
htpasswd = HTPASSWD
admin = "identity"
[[access.attach]]
user = "eve"
policies = ["auditor"]
[[access.attach]]
user = "alice"
policies = ["read-only"]
"#;
    let house = House::with(&["eve", "alice"], rules).await;
    let admin = house.mirror.admin;
    for path in PAGES.iter().chain(&["/images/inspect?image=a:1"]) {
        let nobody = admin.get(path).await;
        assert_eq!(nobody.status, 401, "{path}");
        assert_eq!(
            nobody.header("www-authenticate"),
            "Basic realm=\"roadstead\""
        );
        assert_safe(&nobody, path);
        let ask = |who: &str| {
            let authorization = basic(who, &format!("{who}!"));
            async move {
                admin
                    .get_with(path, &[("authorization", &authorization)])
                    .await
            }
        };
        assert_eq!(ask("alice").await.status, 403, "{path}");
        assert_eq!(ask("mallory").await.status, 401, "{path}");
        let status = if path.contains('?') { 404 } else { 200 };
        assert_eq!(ask("eve").await.status, status, "{path}");
    }
    assert_eq!(admin.get("/events").await.status, 401);
    for open in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(admin.get(open).await.status, 200, "{open}");
    }
}

#[tokio::test]
async fn no_secret_is_shown() {
    let hub = FakeRegistry::start().await;
    let url = hub.url();
    let table = format!(
        "[upstream.\"docker.io\"]\nendpoints = [\"{url}\"]\nusername = \"robot\"\npassword = \"hunter2-password\"\n"
    );
    let mirror = MirrorBuilder::of(&hub)
        .with(|all| all.upstreams = config(&table).upstreams)
        .start()
        .await;
    let configuration = page(&mirror, "/configuration").await;
    assert!(configuration.contains("robot") && configuration.contains("***"));
    for path in PAGES {
        assert!(!page(&mirror, path).await.contains("hunter2"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_overview_is_told_what_changes() {
    let world = World::new().await;
    let mut events = world.mirror.admin.open("/events?lang=zh", &[]).await;
    assert_eq!(events.status, 200);
    assert_eq!(events.headers["content-type"], "text/event-stream");
    let mut told = String::new();
    let mut until = async |sign: &str| {
        while !told.contains(sign) {
            let piece = events.piece().await.expect("events go on");
            told.push_str(std::str::from_utf8(&piece).unwrap());
        }
        std::mem::take(&mut told)
    };
    let first = until("\"id\":\"evictions\"").await;
    assert!(first.starts_with("retry: "), "{first}");
    assert!(first.contains("event: part\ndata: {\"id\":\"figures\"") && first.contains("命中率"));
    pull(
        &world.mirror,
        "docker.io",
        "library/nginx",
        "1.27",
        &world.image,
    )
    .await;
    let size = roadstead::format::size(bytes_of(&world.image));
    let news = until(&size).await;
    assert!(
        !news.contains("\"id\":\"evictions\""),
        "it has not changed: {news}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_are_bounded_and_keep_nobody_waiting() {
    let world = World::new().await;
    let admin = world.mirror.admin;
    let mut listeners = Vec::new();
    for _ in 0..LISTENERS_MAX {
        let mut events = admin.open("/events", &[]).await;
        assert_eq!(events.status, 200);
        // Then it reads nothing more.
        events.exactly(5).await;
        listeners.push(events);
    }
    let refused = admin.get("/events").await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(admin.get("/").await.status, 200);
    assert_eq!(admin.get("/readyz").await.status, 200);
    listeners.pop();
    let deadline = tokio::time::Instant::now() + crate::common::WAIT_MAX;
    while admin.open("/events", &[]).await.status != 200 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "no place is given back"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_end_when_the_drain_begins() {
    let hub = FakeRegistry::start().await;
    let blob = Blob::noise(7, 300_000);
    hub.put_blob("library/app", &blob);
    let gate = hub.gate(&blob.digest);
    gate.release(100_000);
    let mirror = MirrorBuilder::of(&hub)
        .with(|config| config.server.drain_timeout = Duration::from_mins(1))
        .start()
        .await;
    let path = format!("/v2/library/app/blobs/{}", blob.digest);
    let mut reader = mirror.open(&path).await;
    reader.exactly(1000).await;
    let admin = mirror.admin;
    let mut events = admin.open("/events", &[]).await;
    events.exactly(5).await;
    let stopping = tokio::spawn(mirror.stop());
    // The pull goes on, and so does the drain.
    within("the end of events", events.rest()).await;
    assert_eq!(admin.get("/events").await.status, 503);
    let overview = admin.get("/").await;
    assert!(overview.text().contains("draining"), "{}", overview.text());
    gate.open();
    reader.assert_rest_equals(&blob.bytes[1000..]).await;
    within("the end", stopping).await.unwrap();
}

#[tokio::test]
async fn charts_are_drawn_once_there_are_samples() {
    let world = World::new().await;
    let empty = page(&world.mirror, "/").await;
    assert!(empty.contains("Samples are taken from the start on."));
    let deadline = tokio::time::Instant::now() + crate::common::WAIT_MAX;
    pull(
        &world.mirror,
        "docker.io",
        "library/nginx",
        "1.27",
        &world.image,
    )
    .await;
    loop {
        // Each look of the server finds it a minute later.
        world.mirror.clock.advance(Duration::from_mins(1));
        let overview = page(&world.mirror, "/?window=hour").await;
        if overview.contains("class=\"line\" d=\"M") && overview.contains("saved in this period") {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{overview}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let week = page(&world.mirror, "/?window=week").await;
    assert!(week.contains("<a href=\"/?window=week\" aria-current=\"true\">"));
}
