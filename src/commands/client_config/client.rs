//! The clients that can be configured.

use clap::ValueEnum;

/// A client, by the name of its page in docs/clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Client {
    /// dockerd on Linux: /etc/docker/daemon.json
    Docker,
    /// Docker Desktop: ~/.docker/daemon.json
    DockerDesktop,
    /// containerd, as Kubernetes uses it: hosts.toml for each registry, and `config_path`
    Containerd,
    /// k3s: registries.yaml
    K3s,
    /// RKE2: registries.yaml
    Rke2,
    /// CRI-O: a file in registries.conf.d
    Crio,
    /// Podman, Buildah and Skopeo: a file in registries.conf.d
    Podman,
    /// buildkitd and buildx: buildkitd.toml
    Buildkit,
    /// nerdctl: hosts.toml for each registry
    Nerdctl,
    /// kind: a cluster's configuration and the files that its nodes mount
    Kind,
    /// Talos Linux: a patch of the machine configuration
    Talos,
    /// A host of self-hosted GitHub runners: dockerd and buildx
    GithubRunner,
    /// A host of GitLab runners: dockerd and docker:dind
    GitlabRunner,
}

impl Client {
    /// True if dockerd's `registry-mirrors` are among its files: they take no challenge.
    pub(super) fn has_dockerd(self) -> bool {
        match self {
            Self::Docker | Self::DockerDesktop | Self::GithubRunner | Self::GitlabRunner => true,
            Self::Containerd
            | Self::K3s
            | Self::Rke2
            | Self::Crio
            | Self::Podman
            | Self::Buildkit
            | Self::Nerdctl
            | Self::Kind
            | Self::Talos => false,
        }
    }

    /// The directory that its files are below, unless the user says another: its files are the machine's, or files
    /// that another command is given.
    pub(super) fn root(self) -> &'static str {
        match self {
            Self::Kind | Self::Talos => ".",
            Self::Docker
            | Self::DockerDesktop
            | Self::Containerd
            | Self::K3s
            | Self::Rke2
            | Self::Crio
            | Self::Podman
            | Self::Buildkit
            | Self::Nerdctl
            | Self::GithubRunner
            | Self::GitlabRunner => "/",
        }
    }
}
