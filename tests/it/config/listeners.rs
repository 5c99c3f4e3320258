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

#[test]
fn they_can_be_read_back() {
    for text in [MANY, ALONE, WITHOUT_TLS] {
        let config = file(text).unwrap();
        let printed = config.to_toml();
        assert_eq!(file(&printed).unwrap(), config, "{printed}");
    }
    let many = file(MANY).unwrap().server;
    assert!(many.listeners[1].tls && !many.listeners[0].tls);
    assert_eq!(many.tls.unwrap().pairs.len(), 2);
}
