//! Hosted repositories: what is pushed here, over HTTP.

mod abuse;
mod access;
mod adopt;
mod backup;
mod broken;
mod collect;
mod commands;
mod deletes;
mod events;
mod expire;
mod killed;
mod let_go;
mod manifests;
mod mounts;
mod names;
mod pages;
mod push;
mod removal;
mod search;
mod verify;

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use roadstead::config::Config;
use roadstead::hosted::{self, NamespaceWanted, Visibility};
use tokio_util::sync::CancellationToken;

use crate::common::images::sha256;
use crate::common::{ADMIN, Answer, Mirror, MirrorBuilder};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A registry with two public namespaces, whose upstream is not there.
pub(crate) fn registry() -> MirrorBuilder {
    MirrorBuilder::secluded(&["docker.io"]).with(|config| hosts(config, |_| {}))
}

/// Has a server host repositories.
pub(crate) fn hosts(config: &mut Config, change: impl FnOnce(&mut hosted::Config)) {
    let mut hosted = hosted::Config {
        enabled: true,
        namespaces: vec![namespace("team"), namespace("other")],
        gc_grace: Duration::from_hours(1),
        ..hosted::Config::default()
    };
    change(&mut hosted);
    config.hosted = Some(Box::new(hosted));
}

pub(crate) fn namespace(name: &str) -> NamespaceWanted {
    NamespaceWanted {
        name: name.to_owned(),
        visibility: Visibility::Public,
        quota: None,
        sparse: false,
    }
}

/// Pushes and pulls.
pub(crate) trait Pushes {
    async fn send(&self, method: Method, path: &str, body: &[u8]) -> Answer;

    /// Begins an upload; its path.
    async fn begin(&self, repository: &str) -> String {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let begun = self.send(Method::POST, &path, b"").await;
        assert_eq!(begun.status, 202, "{}", begun.text());
        begun.header("location").to_owned()
    }

    /// Pushes a blob in one request; its digest.
    async fn blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let pushed = self.send(Method::POST, &path, bytes).await;
        assert_eq!(pushed.status, 201, "{}", pushed.text());
        assert_eq!(pushed.header("docker-content-digest"), digest);
        digest
    }

    async fn put(&self, repository: &str, reference: &str, manifest: &str) -> Answer {
        let path = format!("/v2/{repository}/manifests/{reference}");
        self.send(Method::PUT, &path, manifest.as_bytes()).await
    }

    /// Pushes an image of one layer under a tag; its manifest's digest.
    async fn image(&self, repository: &str, tag: &str, layer: &[u8]) -> String {
        let manifest = self.parts(repository, layer).await;
        let put = self.put(repository, tag, &manifest).await;
        assert_eq!(put.status, 201, "{}", put.text());
        sha256(manifest.as_bytes())
    }

    /// Pushes the blobs of an image; its manifest.
    async fn parts(&self, repository: &str, layer: &[u8]) -> String {
        let config = self.blob(repository, b"{}").await;
        let digest = self.blob(repository, layer).await;
        manifest(&config, &[(&digest, layer.len())])
    }

    async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, b"").await
    }
}

impl Pushes for Mirror {
    async fn send(&self, method: Method, path: &str, body: &[u8]) -> Answer {
        let body = Bytes::copy_from_slice(body);
        self.client.ask_with(method, path, &[], body).await
    }
}

/// Asks the admin API of a server that changes something; its answer.
pub(crate) async fn admin(mirror: &Mirror, method: Method, target: &str) -> Answer {
    let target = format!("/api/v1/{target}");
    mirror.admin.ask(method, &target, &[ADMIN]).await
}

/// What the admin API says.
pub(crate) async fn asked(mirror: &Mirror, target: &str) -> serde_json::Value {
    let answer = admin(mirror, Method::GET, target).await;
    assert_eq!(answer.status, 200, "{target}: {}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// An image manifest.
pub(crate) fn manifest(config: &str, layers: &[(&str, usize)]) -> String {
    let layers: Vec<_> = layers
        .iter()
        .map(|(digest, size)| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size,
            })
        })
        .collect();
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2 },
        "layers": layers,
    })
    .to_string()
}

/// An index of these manifests.
pub(crate) fn index(manifests: &[(&str, usize)]) -> String {
    let manifests: Vec<_> = manifests
        .iter()
        .map(|(digest, size)| {
            serde_json::json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": size })
        })
        .collect();
    serde_json::json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests })
        .to_string()
}

/// Collects all garbage that is due, after the clock was moved.
pub(crate) async fn collect_after(mirror: &Mirror, passed: Duration) {
    mirror.clock.advance(passed);
    let hosted = mirror.hosted();
    hosted.collect_due(&CancellationToken::new()).await.unwrap();
}
