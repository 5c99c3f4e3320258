//! One function for each fuzz target: it takes any bytes, and panics where a property does not hold.
//!
//! `tests/it/fuzz_corpus.rs` compiles this file too, and runs the corpus through it.

use roadstead::access::condition::Window;
use roadstead::access::credentials::Credentials;
use roadstead::access::scope::SCOPES_MAX;
use roadstead::access::{Actions, Pattern, Resource, Scope};
use roadstead::commands::airgap;
use roadstead::config::{Config, Overrides};
use roadstead::oci::directory::{Directory, Entry};
use roadstead::oci::range::parse_content_range;
use roadstead::oci::route::{Action, Target};
use roadstead::oci::{AcceptClass, ByteRange, ImageName, UpstreamName, challenge, link, manifest};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

/// A request target: `METHOD PATH[?QUERY]`, and the `Host` header on the next line.
pub fn route(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (request, host) = text.split_once('\n').unwrap_or((text, ""));
    let (method, target) = request.split_once(' ').unwrap_or(("GET", request));
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let Ok(method) = http::Method::from_bytes(method.as_bytes()) else {
        return;
    };
    let _action = Action::of(&method);
    // What clients may name instead of a registry.
    drop(ImageName::parse(target));
    let Ok(parsed) = Target::parse(path, query) else {
        return;
    };
    let printed = parsed.route.path();
    assert!(printed.starts_with("/v2/"), "{printed}");
    let again = Target::parse(&printed, query);
    assert_eq!(
        again.map(|again| again.route),
        Ok(parsed.route),
        "{printed} means another route"
    );
    directory(path, parsed.ns.as_deref(), host);
}

/// Whatever a client writes, only configured names are upstreams.
fn directory(path: &str, ns: Option<&str>, host: &str) {
    let names = ["docker.io", "ghcr.io", "localhost:5000"];
    let entries = names.iter().filter_map(|name| {
        Some(Entry {
            name: UpstreamName::parse(name).ok()?,
            hosts: vec![format!("mirror.{name}")],
            default: *name == "docker.io",
        })
    });
    let directory = Directory::new(entries.collect());
    if let Ok(source) = directory.resolve(ns, Some(host), path.trim_start_matches("/v2/")) {
        assert!(names.contains(&source.upstream.as_str()));
    }
}

/// A `Range` header, and a `Content-Range` header.
pub fn range(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some(range) = ByteRange::parse(text) {
        for total in [0, 1, 1000, u64::MAX] {
            if let Ok(bytes) = range.resolve(total) {
                assert!(bytes.start < bytes.end && bytes.end <= total, "{bytes:?}");
            }
        }
    }
    if let Some((bytes, total)) = parse_content_range(text) {
        assert!(bytes.start < bytes.end);
        assert!(total.is_none_or(|total| bytes.end <= total));
    }
}

/// `WWW-Authenticate` headers, one a line; and `Accept` headers.
pub fn challenge(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for challenge in challenge::parse(text.lines()) {
        if let challenge::Challenge::Bearer { realm, .. } = challenge {
            assert!(!realm.is_empty());
        }
    }
    let class = AcceptClass::from_headers(text.lines());
    let again = AcceptClass::from_headers(std::iter::once(class.header().as_str()));
    assert_eq!(class, again, "an Accept header means another class");
}

/// A `Content-Type`, and after a line feed a manifest.
pub fn manifest(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (head, body) = data.split_at(end);
    let content_type = std::str::from_utf8(head).ok().filter(|it| !it.is_empty());
    let body = body.strip_prefix(b"\n").unwrap_or(body);
    if let Ok(inspection) = manifest::inspect(content_type, body) {
        let header = http::HeaderValue::from_str(&inspection.media_type);
        assert!(header.is_ok(), "{:?} is no header", inspection.media_type);
        let mut digests: Vec<_> = inspection.children.iter().map(|it| it.digest).collect();
        let all = digests.len();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), all, "a digest is named twice");
    }
}

/// `Link` headers, one a line.
pub fn link(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some(next) = link::next_page(text.lines()) {
        let header = next.header("/v2/library/app/tags/list");
        assert!(http::HeaderValue::from_str(&header).is_ok(), "{header:?}");
        let again = link::next_page(std::iter::once(header.as_str()));
        assert_eq!(again, Some(next), "{header} leads elsewhere");
    }
}

/// A configuration file. A configuration that is accepted prints as one that is accepted.
pub fn configuration(data: &[u8]) {
    let Some(path) = as_file(data) else { return };
    let read = |path: PathBuf| {
        let flags = Overrides {
            config: Some(path),
            ..Overrides::default()
        };
        Config::from_layers(&flags, [], &[])
    };
    match read(path.path()) {
        Ok(config) => {
            let printed = config.to_toml();
            let Some(again) = as_file(printed.as_bytes()) else {
                return;
            };
            // Masked secrets may make no sense to whoever reads them again; nothing else may be lost.
            if !printed.contains("***") {
                assert_eq!(read(again.path()).as_ref(), Ok(&config), "{printed}");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// An archive that is to be imported.
pub fn import_archive(data: &[u8]) {
    let Some(path) = as_file(data) else { return };
    match airgap::layout_digests(&path.path()) {
        Ok(digests) => assert!(digests.len() <= data.len()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A file in memory, with a path.
struct InMemory(std::fs::File);

impl InMemory {
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

fn as_file(data: &[u8]) -> Option<InMemory> {
    let descriptor = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
    let mut file = std::fs::File::from(descriptor);
    file.write_all(data).ok()?;
    Some(InMemory(file))
}

/// What a client says of itself, and what it wants a token for: whatever is read means the same when it is written again.
pub fn credentials(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (authorization, scopes) = text.split_once('\n').unwrap_or((text, text));
    if let Some(Credentials::Basic { user, .. }) = Credentials::parse(authorization) {
        assert!(!user.contains(':'), "a user's name ends at the first colon");
    }
    let read = Scope::parse_all(scopes.lines());
    assert!(read.len() <= SCOPES_MAX);
    for scope in read {
        let written = format!("{}:{}:{}", scope.kind, scope.name, scope.actions.join(","));
        assert_eq!(Scope::parse_all([written.as_str()].into_iter()), [scope]);
    }
}

/// A statement's words and patterns: what is taken is understood as it was written, and a pattern means itself.
pub fn statement(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for line in text.lines() {
        // Any of them may be refused, in a sentence.
        if let Err(why) = Actions::parse(line) {
            assert!(!why.is_empty());
        }
        if let Ok(window) = line.parse::<Window>() {
            assert_eq!(window.as_str(), line);
        }
        let Ok(pattern) = Pattern::parse(line) else {
            continue;
        };
        let again = Pattern::parse(pattern.as_str()).expect("what was understood can be written");
        assert_eq!(again, pattern);
        // Every star stands for nothing, too.
        let name = pattern.as_str().replace('*', "");
        if let Ok(resource) = Resource::parse(&name) {
            assert!(pattern.matches(&resource), "{pattern:?} {name:?}");
        }
    }
}
