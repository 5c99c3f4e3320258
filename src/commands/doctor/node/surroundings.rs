//! The mirror, the node, and the image that is pulled.

use url::Url;

use super::files::Node;
use crate::commands::client_config::mirror::Mirror;
use crate::oci::ImageName;

/// One client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    Docker,
    Containerd,
    Podman,
}

impl Client {
    /// Its name in the ids of checks.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::Podman => "podman",
        }
    }
}

/// What the files of a client are held against.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) node: Node,
    pub(super) server: Url,
    pub(super) mirror: Mirror,
    /// The registries whose images should come through the mirror.
    pub(super) registries: Vec<String>,
    /// The mirror's certificate is one that this machine believes; true for plain HTTP.
    pub(super) is_trusted: bool,
}

/// An image to be pulled.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// The name as the user has it.
    pub(super) text: String,
    /// The image at its registry, where the mirror's own name stands before it.
    pub(super) name: ImageName,
    /// The mirror's own name stands before it.
    pub(super) is_by_mirror: bool,
}

impl Image {
    /// The image of this name.
    ///
    /// # Errors
    /// One line: it is none.
    pub(super) fn of(text: &str, mirror: &Mirror) -> Result<Self, String> {
        let prefix = format!("{}/", mirror.authority());
        let own = text.strip_prefix(&prefix);
        let name = ImageName::parse(own.unwrap_or(text));
        let name = name.map_err(|why| format!("--image {text:?}: {why}"))?;
        Ok(Self {
            text: text.to_owned(),
            name,
            is_by_mirror: own.is_some(),
        })
    }
}
