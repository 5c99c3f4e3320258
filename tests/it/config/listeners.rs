//! Listeners as `check` prints them.

use super::file;

const MANY: &str = r#"
[server]
admin_socket = "/run/a.sock"
admin_hosts = ["mirror.corp"]
trusted_proxies = ["10.0.0.0/8", "fd00::1"]
[[server.listener]]
name = "dockerd"
address = ":1"
access = "open"
tls = false
[[server.listener]]
address = ":2"
proxy_protocol = true
[server.tls]
client_ca = "ca"
client_auth = "optional"
[[server.tls.pair]]
cert = "a"
key = "b"
[[server.tls.pair]]
cert = "c"
key = "d"
[server.admin_tls]
cert = "a"
key = "b"
client_ca = "c"
"#;

const ALONE: &str = r#"
[server]
proxy_protocol = true
trusted_proxies = ["10.0.0.0/8"]
[server.tls]
cert = "a"
key = "b"
client_ca = "c"
"#;

const WITHOUT_TLS: &str = r#"
[[server.listener]]
address = ":1"
tls = false
[server.tls]
cert = "a"
key = "b"
"#;

const TRANSPARENT: &str = r#"
[server]
listen = ":443"
[server.transparent]
[state]
dir = "/state"
[upstream."docker.io"]
endpoints = ["https://registry-1.docker.io"]
[upstream."registry.corp:5000"]
endpoints = ["https://registry.corp:5000"]
[upstream."10.0.0.1:5000"]
endpoints = ["https://10.0.0.1:5000"]
"#;

const TRANSPARENT_TOO: &str = r#"
[server]
admin_tls = { cert = "a", key = "b", client_ca = "c", client_crl = "d" }
[server.tls]
cert = "a"
key = "b"
client_ca = "c"
client_crl = "d"
[server.transparent]
ca = "e"
ca_key = "f"
names = ["registry-1.docker.io", "hub.mirror.corp"]
[upstream."docker.io"]
endpoints = ["https://registry-1.docker.io"]
hosts = ["hub.mirror.corp"]
"#;

#[test]
fn transparent_mode_is_a_listener_with_the_names_of_the_upstreams() {
    let server = file(TRANSPARENT).unwrap().server;
    assert!(server.listeners[0].tls);
    let tls = server.tls.unwrap();
    let transparent = tls.transparent.unwrap();
    assert!(tls.pairs.is_empty());
    assert_eq!(transparent.ca.to_str(), Some("/state/ca.crt"));
    assert_eq!(transparent.ca_key.to_str(), Some("/state/ca.key"));
    let hosts = transparent.hosts.iter();
    let hosts: Vec<_> = hosts
        .map(|it| (&*it.host, it.port, it.upstream.as_str()))
        .collect();
    assert_eq!(
        hosts,
        [
            ("docker.io", None, "docker.io"),
            ("registry-1.docker.io", None, "docker.io"),
            ("index.docker.io", None, "docker.io"),
            ("registry.corp", Some(5000), "registry.corp:5000"),
        ]
    );
    let server = file(TRANSPARENT_TOO).unwrap().server;
    let transparent = server.tls.unwrap().transparent.unwrap();
    let hosts = ["registry-1.docker.io", "hub.mirror.corp"];
    assert_eq!(transparent.certified(), hosts);
    assert!(
        file("[server]\nlisten = ':1'\n")
            .unwrap()
            .server
            .tls
            .is_none()
    );
}

#[test]
fn they_can_be_read_back() {
    for text in [MANY, ALONE, WITHOUT_TLS, TRANSPARENT, TRANSPARENT_TOO] {
        let config = file(text).unwrap();
        let printed = config.to_toml();
        assert_eq!(file(&printed).unwrap(), config, "{printed}");
    }
    let many = file(MANY).unwrap().server;
    assert!(many.listeners[1].tls && !many.listeners[0].tls);
    assert_eq!(many.tls.unwrap().pairs.len(), 2);
}
