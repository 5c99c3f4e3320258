//! The files of each client, and how they are joined with what is there.

#![expect(clippy::disallowed_methods, reason = "the files of a test are its own")]

mod install;
mod merge;

use std::fmt::Write as _;

use clap::ValueEnum as _;
use serde_json::Value;

use super::client::Client;
use super::mirror::{HUB, Mirror};
use super::piece::Form;
use super::plan::{Plan, plan};
use crate::config::{Config, Overrides};

/// The configuration that this text is.
pub(super) fn config(text: &str) -> Config {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, text).unwrap();
    let flags = Overrides {
        config: Some(file),
        ..Overrides::default()
    };
    Config::from_layers(&flags, [], &[]).unwrap()
}

pub(super) const THREE: &str = "[upstream.\"docker.io\"]\nendpoints = [\"https://registry-1.docker.io\"]\ndefault = true\n[upstream.\"ghcr.io\"]\nendpoints = [\"https://ghcr.io\"]\n[upstream.\"quay.io\"]\nendpoints = [\"https://quay.io\"]\n";

/// A mirror of these upstreams at this address.
pub(super) fn mirror(text: &str, server: &str) -> Mirror {
    Mirror::of(&config(text), Some(server.parse().unwrap()), false).unwrap()
}

fn derived(text: &str, for_dockerd: bool) -> Result<Mirror, String> {
    Mirror::of(&config(text), None, for_dockerd)
}

/// All that is printed of a plan.
fn printed(plan: &Plan) -> String {
    let mut text = String::new();
    for piece in &plan.pieces {
        let (path, content) = (&piece.path, piece.form.fresh());
        write!(text, "==> {path} <==\n{content}").unwrap();
        for line in [piece.restart, piece.note] {
            if !line.is_empty() {
                writeln!(text, "# {line}").unwrap();
            }
        }
    }
    for note in &plan.notes {
        writeln!(text, "# {note}").unwrap();
    }
    text
}

/// Each client over plain HTTP, and over HTTPS with an authority of its own. `UPDATE_REFERENCE=1` writes it anew.
#[test]
fn each_client_has_these_files() {
    let plain = mirror(THREE, "http://roadstead.internal:5000");
    let mut secure = mirror(THREE, "https://roadstead.internal:5000");
    secure.ca = Some("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n".to_owned());
    let mut text = String::new();
    for client in Client::value_variants() {
        for mirror in [&plain, &secure] {
            let name = client.to_possible_value().unwrap();
            let url = mirror.url();
            writeln!(text, "######## {} {url}\n", name.get_name()).unwrap();
            writeln!(text, "{}", printed(&plan(*client, mirror, "/home/u"))).unwrap();
        }
    }
    let file = "src/commands/client_config/tests/golden.txt";
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(file, &text).unwrap();
    }
    let golden = std::fs::read_to_string(file).unwrap_or_default();
    assert!(golden == text, "UPDATE_REFERENCE=1 writes it anew:\n{text}");
}

/// A form's own grammar reads it.
#[test]
fn each_file_parses() {
    let mut secure = mirror(THREE, "https://mirror:5000");
    secure.ca = Some("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n".to_owned());
    for client in Client::value_variants() {
        for mirror in [&mirror(THREE, "http://[fd00::1]:5000"), &secure] {
            for piece in plan(*client, mirror, "/home/u").pieces {
                let text = piece.form.fresh();
                let extension = piece.path.rsplit('.').next();
                match extension {
                    Some("json") => drop(serde_json::from_str::<Value>(&text).unwrap()),
                    Some("toml" | "conf") => drop(text.parse::<toml::Table>().unwrap()),
                    Some("yaml") => drop(serde_saphyr::from_str::<Value>(&text).unwrap()),
                    Some("crt") => assert!(text.contains("CERTIFICATE")),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

fn form(client: Client, mirror: &Mirror, path: &str) -> Form {
    let pieces = plan(client, mirror, "/home/u").pieces;
    let piece = pieces.into_iter().find(|it| it.path == path);
    piece.unwrap().form
}

/// The samples and pages that users may follow instead say the same.
#[test]
fn samples_and_pages_agree() {
    let mirror = mirror(THREE, "http://roadstead.internal:5000");
    let toml = |text: &str| text.parse::<toml::Table>().unwrap();
    let conf = "/etc/containers/registries.conf.d/50-roadstead.conf";
    let conf = form(Client::Podman, &mirror, conf).fresh();
    let sample = include_str!("../../../deploy/clients/registries.conf");
    assert_eq!(toml(&conf), toml(sample));
    let hosts = "/etc/containerd/certs.d/ghcr.io/hosts.toml";
    let hosts = form(Client::Containerd, &mirror, hosts).fresh();
    let sample = include_str!("../../../deploy/clients/hosts.toml");
    assert_eq!(toml(&hosts), toml(sample));
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let daemon = form(Client::Docker, &mirror, "/etc/docker/daemon.json").fresh();
    let sample = json(include_str!("../../../deploy/clients/daemon.json"));
    assert_eq!(
        json(&daemon)["registry-mirrors"],
        sample["registry-mirrors"]
    );
    let page = include_str!("../../../docs/clients/docker.md");
    assert!(pages_blocks(page).any(|block| {
        serde_json::from_str::<Value>(&block).is_ok_and(|block| block == json(&daemon))
    }));
    let buildkitd = "/etc/buildkit/buildkitd.toml";
    let buildkitd = toml(&form(Client::Buildkit, &mirror, buildkitd).fresh());
    let page = include_str!("../../../docs/clients/buildkit.md");
    assert!(pages_blocks(page).any(|block| block.parse() == Ok(buildkitd.clone())));
}

/// The blocks of code of a page.
fn pages_blocks(page: &str) -> impl Iterator<Item = String> {
    let mut blocks = vec![String::new()];
    for line in page.lines() {
        let code = line.strip_prefix("    ").or(line.is_empty().then_some(""));
        match (code, blocks.last_mut()) {
            (Some(code), Some(block)) => writeln!(block, "{code}").unwrap(),
            _ => blocks.push(String::new()),
        }
    }
    blocks.into_iter()
}

#[test]
fn the_address_is_that_of_the_listener() {
    for (text, expected) in [
        (
            "[server]\nlisten = \"0.0.0.0:5000\"\n",
            "http://127.0.0.1:5000",
        ),
        (
            "[server]\nlisten = \"[::]:5000\"\n",
            "http://127.0.0.1:5000",
        ),
        ("[server]\nlisten = \"10.1.2.3:80\"\n", "http://10.1.2.3"),
        (
            "[server]\nlisten = \"[fd00::1]:5000\"\n",
            "http://[fd00::1]:5000",
        ),
        ("", "http://127.0.0.1:5000"),
    ] {
        let found = derived(text, false).unwrap();
        assert_eq!(found.url(), expected, "{text}");
        let is_alone = found.is_loopback();
        assert_eq!(
            found.notes.iter().any(|it| it.contains("--server")),
            is_alone
        );
        // Without [upstream] tables, those that are built in.
        assert!(found.has_hub && found.upstreams.len() > 3, "{found:?}");
    }
    let error = derived("[server]\nlisten = \"127.0.0.1:0\"\n", false).unwrap_err();
    assert!(error.contains("--server"), "{error}");
}

#[test]
fn a_name_is_told_from_a_repository() {
    for (server, url, authority) in [
        ("http://mirror", "http://mirror:80", "mirror:80"),
        ("https://mirror", "https://mirror:443", "mirror:443"),
        ("https://m.example/", "https://m.example", "m.example"),
        ("http://localhost", "http://localhost", "localhost"),
        (
            "http://10.0.0.1:5000",
            "http://10.0.0.1:5000",
            "10.0.0.1:5000",
        ),
    ] {
        let mirror = mirror(THREE, server);
        assert_eq!((&*mirror.url(), &*mirror.authority()), (url, authority));
    }
    let path = Mirror::of(
        &config(THREE),
        Some("http://m.example/a".parse().unwrap()),
        false,
    );
    assert!(path.unwrap_err().contains("path"));
}

const RULES: &str =
    "[access]\nallow = [\"10.0.0.0/8\"]\n[[server.listener]]\naddress = \"10.0.0.1:5000\"\n";

/// dockerd sends the password of Docker Hub to a mirror that challenges it.
#[test]
fn dockerd_is_led_to_a_listener_that_asks_nobody() {
    let open =
        format!("{RULES}[[server.listener]]\naddress = \"10.0.0.1:5009\"\naccess = \"open\"\n");
    assert_eq!(derived(&open, true).unwrap().url(), "http://10.0.0.1:5009");
    assert_eq!(derived(&open, false).unwrap().url(), "http://10.0.0.1:5000");
    let told = |text: &str, server: Option<&str>| {
        let server = server.map(|it| it.parse().unwrap());
        let mirror = Mirror::of(&config(text), server, true).unwrap();
        mirror.notes.join("\n")
    };
    assert!(!told(&open, None).contains("warning"));
    assert!(told(RULES, None).contains("warning: there are rules of access"));
    assert!(told(RULES, None).contains("access = \"open\""));
    let asks = told(&open, Some("http://m.example:5000"));
    assert!(asks.contains("lead it to 10.0.0.1:5009"), "{asks}");
    assert_eq!(told(&open, Some("http://m.example:5009")), "");
}

/// A request of dockerd names no registry: with another default it would be given other images of the same name.
#[test]
fn without_docker_hub_as_the_default_dockerd_has_no_mirror() {
    let other = "[upstream.\"ghcr.io\"]\nendpoints = [\"https://ghcr.io\"]\n";
    let mirror = mirror(other, "http://m.example:5000");
    let plan = plan(Client::Docker, &mirror, "/root");
    let text = printed(&plan);
    assert!(
        !text.contains("\"registry-mirrors\"") && text.contains("insecure"),
        "{text}"
    );
    assert!(
        text.contains(&format!("{HUB} is not the default upstream")),
        "{text}"
    );
}
