//! One function for each fuzz target: it takes any bytes, and panics where a property does not hold.
//!
//! `tests/it/fuzz_corpus.rs` compiles this file too, and runs the corpus through it.

use roadstead::access::condition::Window;
use roadstead::access::credentials::Credentials;
use roadstead::access::ldap::{message, names};
use roadstead::access::oidc::Trust;
use roadstead::access::scope::SCOPES_MAX;
use roadstead::access::{self, Actions, Guard, Pattern, Resource, Scope, ram};
use roadstead::clock::{ManualClock, Timestamp};
use roadstead::commands::airgap;
use roadstead::config::{Config, Overrides};
use roadstead::oci::directory::{Directory, Entry};
use roadstead::oci::range::parse_content_range;
use roadstead::oci::route::{Action, Target};
use roadstead::oci::{AcceptClass, ByteRange, ImageName, UpstreamName, challenge, link, manifest};
use roadstead::server::proxy_protocol::{self, Head};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

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

/// A head of the PROXY protocol: what is whole stays so whatever follows, and no beginning of it is.
pub fn proxy_head(data: &[u8]) {
    let parsed = proxy_protocol::parse(data);
    let Ok(Head::Whole(length, _)) = parsed else {
        return;
    };
    assert!(length <= data.len(), "{length} of {} bytes", data.len());
    let (head, _rest) = data.split_at(length);
    assert_eq!(proxy_protocol::parse(head), parsed);
    for end in 0..length {
        let (begun, _rest) = head.split_at(end);
        assert_eq!(proxy_protocol::parse(begun), Ok(Head::Begun), "up to {end}");
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
        // Every star stands for nothing, too. What is understood otherwise, as a repository of one component at Docker Hub, is
        // another name.
        let name = pattern.as_str().replace('*', "");
        if let Ok(resource) = Resource::parse(&name)
            && resource.as_str() == name
        {
            assert!(pattern.matches(&resource), "{pattern:?} {name:?}");
        }
    }
}

/// A policy of Alibaba Cloud's RAM: what is taken is about content alone, and what is not is told with its place.
pub fn ram_document(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let upstreams = ["acr.example".to_owned()];
    for upstreams in [&[][..], &upstreams[..]] {
        match ram::parse(text, upstreams) {
            Ok(statements) => {
                for statement in statements {
                    assert!(!statement.resources.is_empty());
                    for pattern in &statement.resources {
                        let name = pattern.as_str();
                        let is_content =
                            name.starts_with("mirror/") || name.starts_with("repository/");
                        assert!(is_content, "{name}");
                        assert_eq!(Pattern::parse(name).as_ref(), Ok(pattern));
                    }
                }
            }
            Err(why) => {
                let has_place = why.starts_with("line ") || why.starts_with("has more than");
                assert!(has_place && !why.contains('\n'), "{why}");
            }
        }
    }
}

/// Names on their way into a directory: each stays one value, whatever it is. The same bytes as a template and as a name
/// that a directory sends.
pub fn directory_names(data: &[u8]) {
    let Ok(user) = std::str::from_utf8(data) else {
        return;
    };
    let filter = names::filter("(uid={user})", user, "cn={user}");
    let part = |bytes: &[u8]| {
        ldap3::asn1::Tag::OctetString(ldap3::asn1::OctetString {
            inner: bytes.to_vec(),
            ..Default::default()
        })
    };
    let equality = ldap3::asn1::Tag::Sequence(ldap3::asn1::Sequence {
        class: ldap3::asn1::TagClass::Context,
        id: 3,
        inner: vec![part(b"uid"), part(user.as_bytes())],
    });
    assert_eq!(ldap3::parse_filter(&filter), Ok(equality), "{filter}");
    let dn = names::bind_name("uid={user},ou=people", user);
    let dn = dn.expect("a distinguished name takes every user");
    assert!(dn.ends_with(",ou=people"), "{dn}");
    let expected = (!user.is_empty()).then_some(user);
    assert_eq!(names::first_value(&dn).as_deref(), expected, "{dn}");
    if let Some(name) = names::bind_name("{user}@corp.example", user) {
        assert_eq!(name, format!("{user}@corp.example"));
    }
    if let Some(plain) = names::plain(user) {
        assert_eq!(names::plain(&plain).as_ref(), Some(&plain));
    }
    if let Err(why) = names::check_filter(user) {
        assert!(!why.is_empty());
    } else {
        let filter = names::filter(user, "*)(", "cn=(*");
        assert!(ldap3::parse_filter(&filter).is_ok(), "{filter}");
    }
    drop((names::check_bind_name(user), names::first_value(user)));
}

/// A message of a directory: what is whole stays so whatever follows, and no beginning of it is.
pub fn directory_message(data: &[u8]) {
    let Ok(Some(length)) = message::length(data) else {
        return;
    };
    assert!(length <= 1 << 20);
    let Some((whole, _rest)) = data.split_at_checked(length) else {
        return;
    };
    let Ok(parsed) = message::parse(whole) else {
        return;
    };
    assert_eq!(message::parse(whole), Ok(parsed));
    for end in 0..length {
        let (begun, _rest) = whole.split_at(end);
        assert!(matches!(message::length(begun), Ok(None | Some(_))));
        assert!(message::parse(begun).is_err(), "up to {end}");
    }
}

/// A value of `Authorization` where there are no users and no tokens: nothing is believed.
pub fn token(data: &[u8]) {
    static DOOR: OnceLock<(tokio::runtime::Runtime, Guard)> = OnceLock::new();
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (runtime, guard) = DOOR.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().expect("a runtime");
        let issuer = Trust {
            name: "ci".to_owned(),
            // Nobody listens there, and it is dialled once.
            issuer: "http://127.0.0.1:1".parse().expect("a URL"),
            audience: vec!["roadstead".to_owned()],
            claims: std::collections::BTreeMap::new(),
            ca_file: None,
        };
        let config = access::Config {
            enabled: true,
            oidc: vec![issuer],
            ..access::Config::default()
        };
        let clock = Arc::new(ManualClock::new(Timestamp(1_790_000_000_000)));
        let metrics = roadstead::telemetry::Metrics::new(std::iter::empty());
        let guard = runtime.block_on(Guard::open(config, None, clock, metrics));
        (runtime, guard.expect("nothing is read"))
    });
    for line in text.lines() {
        let source = std::net::IpAddr::from([127, 0, 0, 1]);
        let found = runtime.block_on(guard.identify(line, source));
        assert!(found.is_err(), "{line} is believed");
    }
}
