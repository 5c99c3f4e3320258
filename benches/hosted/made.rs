//! A catalogue with many manifests, made by the acts that a server does.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use futures_util::{StreamExt as _, stream};
use roadstead::catalogue::hosted::{Act, HostedAct, ManifestPut, NamespaceWanted, TagPut};
use roadstead::catalogue::{Catalogue, Config, DATABASE};
use roadstead::clock::Timestamp;
use roadstead::hosted::Visibility;
use roadstead::oci::digest::Algorithm;
use roadstead::oci::{Digest, Repository, Tag};
use roadstead::telemetry::Metrics;

/// The repository of many tags.
pub(crate) const REPOSITORY: &str = "many/tags";

const MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// Some day in 2026, in milliseconds.
const NOW_MS: u64 = 1_790_000_000_000;

/// Acts that wait to be written at once: the writer takes 64 of them as one transaction.
const AT_ONCE: usize = 512;

/// A directory with a catalogue.
pub(crate) struct Made {
    pub(crate) dir: PathBuf,
    pub(crate) manifests: usize,
    /// Tags of [`REPOSITORY`], each of a manifest of its own.
    pub(crate) tags: usize,
    pub(crate) namespaces: usize,
    /// Manifests of [`REPOSITORY`] that refer to `subject`.
    pub(crate) referrers: usize,
    pub(crate) subject: Digest,
}

/// A tag of [`REPOSITORY`].
pub(crate) fn tag(number: usize) -> String {
    format!("v{number:06}")
}

fn namespace(number: usize) -> String {
    format!("team-{number:05}")
}

impl Made {
    /// A catalogue with so many manifests; made if it is not there.
    pub(crate) fn of(manifests: usize) -> Self {
        let tags = (manifests / 10).max(200);
        let made = Self {
            dir: Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hosted-{manifests}")),
            manifests,
            tags,
            namespaces: (manifests / 100).clamp(10, 10_000),
            referrers: (tags / 10).max(150),
            subject: manifest(0).digest,
        };
        let whole = made.dir.join("made");
        if !whole.exists() {
            fs::remove_dir_all(&made.dir).ok();
            fs::create_dir_all(&made.dir).unwrap();
            let begun = Instant::now();
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(made.fill());
            println!("made in {} s", begun.elapsed().as_secs());
            fs::write(whole, "").unwrap();
        }
        made
    }

    /// Namespaces that the client may see: the one of many tags, one in the middle, and the last.
    pub(crate) fn visible(&self) -> [String; 3] {
        let last = self.namespaces - 2;
        ["many".to_owned(), namespace(last / 2), namespace(last)]
    }

    /// The repositories in them.
    pub(crate) fn seen(&self) -> [String; 3] {
        let [many, middle, last] = self.visible();
        [
            format!("{many}/tags"),
            format!("{middle}/app"),
            format!("{last}/app"),
        ]
    }

    pub(crate) fn bytes(&self) -> u64 {
        fs::metadata(self.dir.join("state").join(DATABASE))
            .unwrap()
            .len()
    }

    async fn fill(&self) {
        let config = Config::of(self.dir.join("state"));
        let opened = tokio::task::spawn_blocking(move || {
            Catalogue::open(&config, Metrics::new(std::iter::empty()))
        });
        let catalogue = opened.await.unwrap();
        let others = (0..self.namespaces - 1).map(namespace);
        let names = || std::iter::once("many".to_owned()).chain(others.clone());
        act_all(&catalogue, names().map(put_namespace)).await;
        let repositories = names().map(|name| match name.as_str() {
            "many" => REPOSITORY.to_owned(),
            other => format!("{other}/app"),
        });
        let repositories: Vec<Repository> = repositories
            .map(|it| Repository::parse(&it).unwrap())
            .collect();
        let links = repositories
            .iter()
            .flat_map(|it| [link(it, 0), link(it, 1)]);
        act_all(&catalogue, links).await;
        let puts = (0..self.manifests).map(|number| {
            let mut put = manifest(number);
            if number < self.tags {
                let tag = Tag::parse(&tag(number)).unwrap();
                let immutable = false;
                put.tags = vec![TagPut { tag, immutable }];
            } else if number < self.tags + self.referrers {
                put.subject = Some(self.subject);
                put.artifact_type = Some("application/vnd.example.sbom".to_owned());
            } else {
                let other = 1 + number % (repositories.len() - 1);
                put.repository = repositories[other].clone();
            }
            Act::PutManifest(Box::new(put))
        });
        act_all(&catalogue, puts).await;
        catalogue.close().await;
    }
}

async fn act_all(catalogue: &Catalogue, acts: impl Iterator<Item = Act>) {
    let acts = stream::iter(acts).map(|act| async move {
        let at = Timestamp(NOW_MS);
        let by = "somebody".to_owned();
        let done = catalogue.act(HostedAct { act, at, by }).await;
        done.unwrap().unwrap();
    });
    acts.buffer_unordered(AT_ONCE).collect::<()>().await;
}

fn put_namespace(name: String) -> Act {
    Act::PutNamespace {
        wanted: NamespaceWanted {
            name,
            visibility: Visibility::Private,
            quota: Some(1 << 40),
            sparse: false,
        },
        only_new: true,
    }
}

/// The config and the layer of all images.
fn blob(number: u8) -> Digest {
    Digest::of(Algorithm::Sha256, &[number])
}

fn link(repository: &Repository, number: u8) -> Act {
    Act::Link {
        repository: repository.clone(),
        digest: blob(number),
        size: Some(20_000_000),
        until: Timestamp(NOW_MS + 86_400_000),
    }
}

/// A manifest of [`REPOSITORY`], of the size that manifests have.
fn manifest(number: usize) -> ManifestPut {
    let bytes = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MEDIA_TYPE}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":20000000}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":20000000}}],"annotations":{{"number":"{number}"}}}}"#,
        blob(0),
        blob(1)
    );
    ManifestPut {
        repository: Repository::parse(REPOSITORY).unwrap(),
        digest: Digest::of(Algorithm::Sha256, bytes.as_bytes()),
        media_type: MEDIA_TYPE.to_owned(),
        bytes: bytes.into(),
        artifact_type: None,
        subject: None,
        annotations: Some(format!(r#"{{"number":"{number}"}}"#)),
        blobs: vec![blob(0), blob(1)],
        foreign: Vec::new(),
        manifests: Vec::new(),
        tags: Vec::new(),
        condition: None,
    }
}
