//! Layouts that other tools wrote, and such as are broken or meant to do harm.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{assert_pulls, import, secluded, try_export, try_import};
use crate::common::images::{image, noise};
use crate::common::{Dialect, Image, World};

/// A layout in a directory, to be spoilt.
struct Spoilt {
    dir: TempDir,
    image: Image,
}

impl Spoilt {
    /// A whole one, as other tools write them: the name is a tag alone.
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let image = image(7, &[1500, 3000], Dialect::Oci);
        let spoilt = Self { dir, image };
        fs::create_dir_all(spoilt.path("blobs/sha256")).unwrap();
        spoilt.write("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#);
        spoilt.write_index(&json!({"org.opencontainers.image.ref.name": "v1"}));
        for blob in spoilt.image.blobs() {
            spoilt.write(&Self::blob(&blob.digest), &blob.bytes);
        }
        let manifest = &spoilt.image.manifest;
        spoilt.write(&Self::blob(&manifest.digest), &manifest.bytes);
        spoilt
    }

    fn blob(digest: &str) -> String {
        format!("blobs/sha256/{}", &digest["sha256:".len()..])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn write_index(&self, annotations: &Value) {
        let manifest = &self.image.manifest;
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": manifest.media_type, "digest": manifest.digest,
            "size": manifest.bytes.len(), "annotations": annotations}]});
        self.write("index.json", index.to_string().as_bytes());
    }

    /// An archive of it, as `tar` makes them.
    fn archive(&self) -> PathBuf {
        let path = self.dir.path().join("archive.tar");
        let mut builder = tar::Builder::new(fs::File::create(&path).unwrap());
        for name in ["oci-layout", "index.json", "blobs"] {
            let from = self.path(name);
            let inside = format!("./{name}");
            if from.is_dir() {
                builder.append_dir_all(inside, from).unwrap();
            } else {
                builder.append_path_with_name(from, inside).unwrap();
            }
        }
        builder.finish().unwrap();
        path
    }
}

const NAMED: [(&str, Option<&str>); 1] = [("app:1", None)];

#[tokio::test]
async fn layouts_of_other_tools_are_imported_under_a_given_name() {
    let whole = Spoilt::new();
    let far = secluded().await;
    let error = try_import(&far, whole.dir.path(), &[]).await.unwrap_err();
    assert!(error.to_string().contains("write IMAGE=REF"), "{error}");
    let none = [("app:1", Some("v2"))];
    let error = try_import(&far, whole.dir.path(), &none).await.unwrap_err();
    assert!(
        error.to_string().contains("no image called \"v2\""),
        "{error}"
    );
    for (path, naming, tag) in [
        (whole.dir.path().to_path_buf(), ("app:1", None), "1"),
        (whole.archive(), ("app:2", Some("v1")), "2"),
    ] {
        let puts = try_import(&far, &path, &[naming]).await.unwrap();
        assert_eq!(puts[0].failed, None);
        assert_pulls(&far, "library/app", "docker.io", tag, &whole.image).await;
    }
    // A full name in either annotation will do.
    whole.write_index(&json!({"io.containerd.image.name": "ghcr.io/a/b:3"}));
    assert_eq!(
        import(&far, whole.dir.path()).await,
        [("ghcr.io/a/b:3".to_owned(), 0)]
    );
    assert_pulls(&far, "a/b", "ghcr.io", "3", &whole.image).await;
    let unknown = [("registry.example/a:1", None)];
    let puts = try_import(&far, whole.dir.path(), &unknown).await.unwrap();
    let failed = puts[0].failed.as_ref().unwrap().to_string();
    assert!(
        failed.contains("registry.example is not configured"),
        "{failed}"
    );
}

/// Does something bad to a layout, and says which file it was.
type Harm = fn(&Spoilt) -> String;

const HARMED_FILES: [(&str, Harm); 4] = [
    ("no file oci-layout", |it| {
        fs::remove_file(it.path("oci-layout")).unwrap();
        String::new()
    }),
    ("version \"2.0.0\"", |it| {
        it.write("oci-layout", br#"{"imageLayoutVersion": "2.0.0"}"#);
        "oci-layout".to_owned()
    }),
    ("docker save", |it| {
        fs::remove_file(it.path("oci-layout")).unwrap();
        it.write("manifest.json", b"[]");
        String::new()
    }),
    ("index.json", |it| {
        it.write("index.json", b"{\"schemaVersion\": 2, \"manifests\": [");
        String::new()
    }),
];

const HARMED_BLOBS: [(&str, Harm); 7] = [
    ("is missing", |it| {
        let blob = Spoilt::blob(&it.image.layers[1].digest);
        fs::remove_file(it.path(&blob)).unwrap();
        blob
    }),
    ("is missing", |it| {
        let blob = Spoilt::blob(&it.image.manifest.digest);
        fs::remove_file(it.path(&blob)).unwrap();
        blob
    }),
    ("the bytes have the digest sha256:", |it| {
        let blob = Spoilt::blob(&it.image.layers[0].digest);
        it.write(&blob, &noise(9, 1500));
        blob
    }),
    ("the bytes have the digest sha256:", |it| {
        let blob = Spoilt::blob(&it.image.manifest.digest);
        let mut bytes = it.image.manifest.bytes.to_vec();
        bytes[5] ^= 1;
        it.write(&blob, &bytes);
        blob
    }),
    ("has 20 bytes, and should have 1500", |it| {
        let blob = Spoilt::blob(&it.image.layers[0].digest);
        it.write(&blob, &[0; 20]);
        blob
    }),
    ("is no plain file", |it| {
        let blob = Spoilt::blob(&it.image.layers[0].digest);
        fs::remove_file(it.path(&blob)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", it.path(&blob)).unwrap();
        blob
    }),
    ("not a digest", |it| {
        let index = json!({"schemaVersion": 2, "manifests": [
                {"mediaType": "m", "digest": "../../../etc/passwd", "size": 5}]});
        it.write("index.json", index.to_string().as_bytes());
        String::new()
    }),
];

#[tokio::test]
async fn what_is_wrong_with_a_layout_is_said_and_nothing_of_the_image_is_served() {
    for (words, harm) in HARMED_FILES.into_iter().chain(HARMED_BLOBS) {
        // A new one each time: what the one before has is not asked of the layout.
        let far = secluded().await;
        let spoilt = Spoilt::new();
        let file = harm(&spoilt);
        let said = match try_import(&far, spoilt.dir.path(), &NAMED).await {
            Ok(puts) => puts[0].failed.as_ref().map(ToString::to_string),
            Err(error) => Some(error.to_string()),
        };
        let said = said.unwrap_or_else(|| panic!("imported in spite of: {words}"));
        assert!(
            said.contains(words) && said.contains(&file),
            "{words}: {said}"
        );
        let accept = [("accept", spoilt.image.manifest.media_type.as_str())];
        let answer = far.get_with("/v2/library/app/manifests/1", &accept).await;
        assert_eq!(answer.status, 502, "{words}: no tag");
    }
}

#[tokio::test]
async fn broken_archives_are_refused_by_the_name_of_the_entry() {
    let spoilt = Spoilt::new();
    let whole = fs::read(spoilt.archive()).unwrap();
    let far = secluded().await;
    let refused = async |bytes: &[u8], words: &str| {
        let path = spoilt.path("broken.tar");
        fs::write(&path, bytes).unwrap();
        let said = match try_import(&far, &path, &NAMED).await {
            Ok(puts) => puts[0].failed.clone().map(|it| it.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let said = said.unwrap_or_else(|| panic!("imported in spite of: {words}"));
        assert!(said.contains(words), "{words}: {said}");
    };
    refused(b"", "it is empty").await;
    refused(&[0x1f, 0x8b, 8, 0, 1, 2, 3], "compressed").await;
    refused(&noise(3, 5000), "no tar archive").await;
    // Cut within the last file, behind which there is nothing but two records of zeros.
    let cut = whole.len() - 1024 - 700;
    refused(&whole[..cut], "it was cut short").await;
    let evil = |entry: &str, kind: tar::EntryType, size: u64| {
        let mut header = tar::Header::new_gnu();
        // Set by hand: the crate would not write such a name.
        header.as_gnu_mut().unwrap().name[..entry.len()].copy_from_slice(entry.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        if kind.is_symlink() {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        [header.as_bytes().as_slice(), &whole].concat()
    };
    let file = tar::EntryType::Regular;
    refused(
        &evil("../../etc/cron.d/x", file, 0),
        "leads out of the archive",
    )
    .await;
    refused(&evil("/etc/cron.d/x", file, 0), "leads out of the archive").await;
    let link = tar::EntryType::Symlink;
    refused(
        &evil("blobs/sha256/aa", link, 0),
        "blobs/sha256/aa: is no plain file",
    )
    .await;
    refused(
        &evil("blobs/sha256/bb", file, 1 << 50),
        "blobs/sha256/bb: is said to have",
    )
    .await;
    assert!(!spoilt.path("etc").exists());
}

/// Whoever else may write into the target had planted links there, and an export wrote through them.
#[tokio::test]
async fn an_export_writes_nowhere_but_below_its_target() {
    let world = World::new().await;
    let hex = &world.layer().digest["sha256:".len()..];
    let outside = TempDir::new().unwrap();
    let victim = outside.path().join("victim");
    for planted in [
        "blobs".to_owned(),
        "blobs/sha256".to_owned(),
        format!("blobs/sha256/{hex}"),
        format!("blobs/sha256/{hex}.part"),
        "index.json".to_owned(),
        "index.json.part".to_owned(),
        "oci-layout.part".to_owned(),
    ] {
        for hard in [false, true] {
            fs::write(&victim, "precious").unwrap();
            let dir = TempDir::new().unwrap();
            let at = dir.path().join(&planted);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            let is_folder = planted == "blobs" || planted == "blobs/sha256";
            if is_folder {
                std::os::unix::fs::symlink(outside.path(), &at).unwrap();
            } else if hard {
                fs::hard_link(&victim, &at).unwrap();
            } else {
                std::os::unix::fs::symlink(&victim, &at).unwrap();
            }
            let exported = try_export(&world.mirror, &["nginx:1.27"], dir.path(), "all").await;
            assert_eq!(fs::read(&victim).unwrap(), b"precious", "{planted}");
            assert_eq!(
                fs::read_dir(outside.path()).unwrap().count(),
                1,
                "{planted}"
            );
            if is_folder || planted == "index.json" {
                // An index that is none of a layout is not gone on with either.
                let said = exported.unwrap_err().to_string();
                assert!(!is_folder || said.contains("symbolic link"), "{said}");
            } else {
                exported.unwrap();
                assert!(
                    at.symlink_metadata().is_err() || !at.is_symlink(),
                    "{planted}"
                );
            }
        }
    }
    // An archive, under the name that it has until it is whole.
    let dir = TempDir::new().unwrap();
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, dir.path().join("a.tar.part")).unwrap();
    let archive = dir.path().join("a.tar");
    try_export(&world.mirror, &["nginx:1.27"], &archive, "all")
        .await
        .unwrap();
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    assert!(archive.is_file() && !archive.is_symlink());
}

/// What lies behind a link is not of the layout.
#[tokio::test]
async fn a_folder_that_leads_out_of_a_layout_is_not_followed() {
    for folder in ["blobs", "blobs/sha256"] {
        let far = secluded().await;
        let spoilt = Spoilt::new();
        let elsewhere = TempDir::new().unwrap();
        let moved = elsewhere.path().join("moved");
        fs::rename(spoilt.path(folder), &moved).unwrap();
        std::os::unix::fs::symlink(moved, spoilt.path(folder)).unwrap();
        let said = match try_import(&far, spoilt.dir.path(), &NAMED).await {
            Ok(puts) => puts[0].failed.as_ref().map(ToString::to_string),
            Err(error) => Some(error.to_string()),
        };
        let said = said.unwrap_or_else(|| panic!("followed {folder}"));
        assert!(said.contains("symbolic link"), "{said}");
    }
}
