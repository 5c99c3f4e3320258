//! The files of each client.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::buildkit::Buildkitd;
use super::client::Client;
use super::cri::CERTS;
use super::hosts::{Host, quoted};
use super::json::Daemon;
use super::mirror::{HUB, Mirror, fits_in_a_path};
use super::piece::{Form, Piece};
use super::rancher::{Registries, key};

/// The files, and facts about all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The files, in the order in which they are written.
    pub(super) pieces: Vec<Piece>,
    /// Facts, a line each.
    pub(super) notes: Vec<String>,
}

/// The name of a file with the mirror's authority.
const CA: &str = "roadstead-ca.crt";
/// The head of a file that nobody else writes.
const HEAD: &str = "# Written by `roadstead client-config`: the next --write replaces changes.";
const RELOAD_DOCKER: &str = "systemctl reload docker";

/// The files of a client. `home`: the directory of the user that runs Docker Desktop.
pub(super) fn plan(client: Client, mirror: &Mirror, home: &str) -> Plan {
    let mut plan = Plan {
        pieces: Vec::new(),
        notes: mirror.notes.clone(),
    };
    let desktop = format!("{home}/.docker");
    match client {
        Client::Docker => plan.dockerd(mirror, "/etc/docker", RELOAD_DOCKER),
        Client::DockerDesktop => plan.dockerd(mirror, &desktop, "restart Docker Desktop"),
        Client::Containerd => plan.containerd(mirror),
        Client::Nerdctl => {
            plan.hosts(mirror, CERTS);
            plan.note("for rootless nerdctl the files go below ~/.config/containerd/certs.d; nerdctl build asks a buildkitd: client-config buildkit");
        }
        Client::K3s => plan.rancher(mirror, "k3s", "systemctl restart k3s (agents: k3s-agent)"),
        Client::Rke2 => plan.rancher(
            mirror,
            "rke2",
            "systemctl restart rke2-server (agents: rke2-agent)",
        ),
        Client::Crio => plan.containers(mirror, "systemctl reload crio"),
        Client::Podman => plan.containers(mirror, ""),
        Client::Buildkit => plan.buildkit(mirror),
        Client::Kind => plan.kind(mirror),
        Client::Talos => plan.talos(mirror),
        Client::GithubRunner => plan.github(mirror),
        Client::GitlabRunner => plan.gitlab(mirror),
    }
    plan
}

impl Plan {
    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    fn add(&mut self, path: String, form: Form, restart: &'static str) {
        self.pieces.push(Piece {
            path,
            form,
            restart,
            note: "",
        });
    }

    /// A note on the file that was added last.
    fn note_file(&mut self, note: &'static str) {
        if let Some(piece) = self.pieces.last_mut() {
            piece.note = note;
        }
    }

    /// The authority's certificate where the client looks for it.
    fn authority(&mut self, mirror: &Mirror, path: String) {
        if let Some(ca) = &mirror.ca {
            self.add(path, Form::Own(ca.clone()), "");
        }
    }

    fn dockerd(&mut self, mirror: &Mirror, folder: &str, restart: &'static str) {
        let daemon = daemon(mirror);
        if daemon.mirror.is_some() || daemon.insecure.is_some() {
            self.add(
                format!("{folder}/daemon.json"),
                Form::Daemon(daemon),
                restart,
            );
        }
        self.authority(
            mirror,
            format!("{folder}/certs.d/{}/ca.crt", mirror.authority()),
        );
        if !mirror.has_hub {
            self.note(format!(
                "registry-mirrors was left out: a request of dockerd names no registry, and {HUB} is not the default upstream of this configuration (default = true)"
            ));
        }
        let names = mirror.upstreams.iter().map(String::as_str);
        let others = names.filter(|name| *name != HUB && fits_in_a_path(name));
        let others: Vec<&str> = others.collect();
        if !others.is_empty() {
            self.note(format!(
                "dockerd mirrors {HUB} alone; images of {} are pulled by the mirror's name: docker pull {}",
                others.join(", "),
                mirror.example()
            ));
        }
    }

    /// hosts.toml for each registry, below this directory.
    fn hosts(&mut self, mirror: &Mirror, folder: &str) {
        let ca = mirror.ca.as_ref().map(|_| format!("{CERTS}/{CA}"));
        self.authority(mirror, format!("{folder}/{CA}"));
        for upstream in &mirror.upstreams {
            let host = Host {
                url: mirror.url(),
                ca: ca.clone(),
            };
            self.add(
                format!("{folder}/{upstream}/hosts.toml"),
                Form::Host(host),
                "",
            );
        }
    }

    fn containerd(&mut self, mirror: &Mirror) {
        self.hosts(mirror, CERTS);
        let path = "/etc/containerd/config.toml".to_owned();
        self.add(path, Form::Cri, "systemctl restart containerd");
        self.note_file("in a file of version 3 (containerd 2.x) the table is [plugins.\"io.containerd.cri.v1.images\".registry]; --write sees to it");
        self.note("hosts.toml is read at each pull; config.toml needs a restart of containerd. ctr reads neither without --hosts-dir");
    }

    fn rancher(&mut self, mirror: &Mirror, name: &str, restart: &'static str) {
        let folder = format!("/etc/rancher/{name}");
        let ca = format!("{folder}/{CA}");
        let registries = Registries {
            url: mirror.url(),
            authority: mirror.authority(),
            upstreams: mirror.upstreams.clone(),
            ca: mirror.ca.as_ref().map(|_| ca.clone()),
        };
        self.authority(mirror, ca);
        let path = format!("{folder}/registries.yaml");
        self.add(path, Form::Registries(registries), restart);
        self.note("on every node, servers and agents");
    }

    fn containers(&mut self, mirror: &Mirror, restart: &'static str) {
        let folder = "/etc/containers";
        let path = format!("{folder}/registries.conf.d/50-roadstead.conf");
        self.add(path, Form::Own(registries_conf(mirror)), restart);
        self.authority(
            mirror,
            format!("{folder}/certs.d/{}/ca.crt", mirror.authority()),
        );
        let left_out = mirror.upstreams.iter().filter(|name| !fits_in_a_path(name));
        let left_out: Vec<&str> = left_out.map(String::as_str).collect();
        if !left_out.is_empty() {
            self.note(format!(
                "left out: {}: the mirror's path would have the port, which no image's name may have, and every pull from there would fail. With a host name of the mirror in the upstream's `hosts`, a [[registry.mirror]] with that name as its location leads there",
                left_out.join(", ")
            ));
        }
    }

    fn buildkit(&mut self, mirror: &Mirror) {
        let folder = "/etc/buildkit";
        let ca = format!("{folder}/{CA}");
        let buildkitd = Buildkitd {
            authority: mirror.authority(),
            upstreams: mirror.upstreams.clone(),
            http: !mirror.has_tls(),
            ca: mirror.ca.as_ref().map(|_| ca.clone()),
        };
        self.authority(mirror, ca);
        let path = format!("{folder}/buildkitd.toml");
        self.add(
            path.clone(),
            Form::Buildkitd(buildkitd),
            "systemctl restart buildkit",
        );
        self.note(format!(
            "buildx keeps the file that a builder was created with: docker buildx create --name roadstead --driver docker-container --buildkitd-config {path} --use --bootstrap"
        ));
    }

    fn kind(&mut self, mirror: &Mirror) {
        self.hosts(mirror, "certs.d");
        self.add(
            "roadstead-kind.yaml".to_owned(),
            Form::Own(format!("{HEAD}\n{KIND}")),
            "kind create cluster --config roadstead-kind.yaml",
        );
        self.note("nodes that run already: for node in $(kind get nodes); do docker exec \"$node\" mkdir -p /etc/containerd && docker cp certs.d \"$node\":/etc/containerd/; done");
    }

    fn talos(&mut self, mirror: &Mirror) {
        self.add(
            "roadstead-talos.yaml".to_owned(),
            Form::Own(talos(mirror)),
            "talosctl patch machineconfig --patch @roadstead-talos.yaml --nodes NODES",
        );
        self.note("Talos 1.12 and later also has documents of its own for this (RegistryMirrorConfig): use one form or the other");
    }

    fn github(&mut self, mirror: &Mirror) {
        self.dockerd(mirror, "/etc/docker", RELOAD_DOCKER);
        self.buildkit(mirror);
        self.note("jobs that build with buildx: docker/setup-buildx-action with buildkitd-config: /etc/buildkit/buildkitd.toml");
    }

    fn gitlab(&mut self, mirror: &Mirror) {
        self.dockerd(mirror, "/etc/docker", RELOAD_DOCKER);
        let daemon = daemon(mirror);
        if daemon.mirror.is_none() && daemon.insecure.is_none() {
            return;
        }
        let path = "/etc/roadstead-daemon.json".to_owned();
        self.add(path, Form::Own(daemon.fresh()), "");
        let authorities = mirror.ca.as_ref();
        let authorities =
            authorities.map_or("", |_| "\"/etc/docker/certs.d:/etc/docker/certs.d:ro\", ");
        let volumes = format!(
            "[[runners]]\n  executor = \"docker\"\n  [runners.docker]\n    privileged = true\n    volumes = [\"/cache\", \"/etc/roadstead-daemon.json:/etc/docker/daemon.json:ro\", {authorities}\"/certs/client\"]\n"
        );
        let path = "/etc/gitlab-runner/config.toml".to_owned();
        self.add(path, Form::ByHand(volumes), "gitlab-runner restart");
        self.note_file("the entries in volumes give docker:dind the mirror; the file holds the runner's token and is not written here: add them by hand");
        self.note(format!(
            "without the volume a job can say it itself: services: [{{ name: docker:27-dind, command: [\"--registry-mirror\", \"{}\"] }}]",
            mirror.url()
        ));
    }
}

fn daemon(mirror: &Mirror) -> Daemon {
    let is_insecure = !mirror.has_tls() && !mirror.is_loopback();
    Daemon {
        mirror: mirror.has_hub.then(|| mirror.url()),
        // dockerd takes loopback addresses for insecure by itself.
        insecure: is_insecure.then(|| mirror.authority()),
    }
}

fn registries_conf(mirror: &Mirror) -> String {
    let mut text = format!("{HEAD}\n");
    for upstream in mirror.upstreams.iter().filter(|name| fits_in_a_path(name)) {
        let name = quoted(upstream);
        let location = quoted(&format!("{}/{upstream}", mirror.authority()));
        // Writing to a String cannot fail, here and below.
        write!(
            text,
            "\n[[registry]]\nprefix = {name}\nlocation = {name}\n[[registry.mirror]]\nlocation = {location}\n"
        )
        .ok();
        if !mirror.has_tls() {
            text.push_str("insecure = true\n");
        }
    }
    text
}

fn talos(mirror: &Mirror) -> String {
    let mut text = format!("{HEAD}\nmachine:\n  registries:\n    mirrors:\n");
    for upstream in &mirror.upstreams {
        let (name, url) = (key(upstream), mirror.url());
        write!(
            text,
            "      {name}:\n        endpoints:\n          - {url}\n"
        )
        .ok();
    }
    if let Some(ca) = &mirror.ca {
        let (name, ca) = (key(&mirror.authority()), STANDARD.encode(ca));
        write!(
            text,
            "    config:\n      {name}:\n        tls:\n          ca: {ca}\n"
        )
        .ok();
    }
    text
}

/// A cluster of two nodes; its user adds others.
const KIND: &str = "\
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
# Node images of kind 0.27 and later have config_path set: leave the patch out there.
containerdConfigPatches:
  - |-
    [plugins.\"io.containerd.grpc.v1.cri\".registry]
      config_path = \"/etc/containerd/certs.d\"
nodes:
  - role: control-plane
    extraMounts:
      - hostPath: ./certs.d
        containerPath: /etc/containerd/certs.d
  - role: worker
    extraMounts:
      - hostPath: ./certs.d
        containerPath: /etc/containerd/certs.d
";
