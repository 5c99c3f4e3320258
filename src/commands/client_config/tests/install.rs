//! Files below a root: written, compared, taken back.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::super::client::Client;
use super::super::diff::unified;
use super::super::files::Root;
use super::super::install::{Change, Job, Outcome};
use super::super::mirror::Mirror;
use super::{THREE, mirror};

struct Site {
    dir: TempDir,
    client: Client,
    mirror: Mirror,
}

impl Site {
    fn new(client: Client) -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            client,
            mirror: mirror(THREE, "http://m.example:5000"),
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn root(&self) -> Root {
        Root::open(self.dir.path()).unwrap()
    }

    fn job<'a>(&'a self, root: &'a Root) -> Job<'a> {
        Job {
            client: self.client,
            mirror: &self.mirror,
            home: "/root",
            root,
        }
    }

    fn try_write(&self) -> Result<Vec<Outcome>, Vec<String>> {
        self.job(&self.root()).write()
    }

    fn try_diff(&self) -> Result<Vec<(String, String)>, Vec<String>> {
        self.job(&self.root()).diff()
    }

    fn try_undo(&self) -> Result<Vec<Outcome>, (Vec<Outcome>, Vec<String>)> {
        self.job(&self.root()).undo()
    }

    #[track_caller]
    fn write(&self) -> Vec<Outcome> {
        self.try_write().unwrap()
    }

    #[track_caller]
    fn undo(&self) -> Vec<Outcome> {
        self.try_undo().unwrap()
    }

    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        collect(self.dir.path(), &mut found);
        let root = format!("{}/", self.dir.path().display());
        let mut found: Vec<String> = found.iter().map(|it| it.replace(&root, "")).collect();
        found.sort();
        found
    }
}

fn collect(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            collect(&path, found);
        } else {
            found.push(path.display().to_string());
        }
    }
}

fn changes(outcomes: &[Outcome]) -> Vec<Change> {
    outcomes.iter().map(|it| it.change).collect()
}

const DAEMON: &str = "etc/docker/daemon.json";
const MINE: &str = "{\n  \"log-driver\": \"journald\"\n}\n";

#[test]
fn what_was_there_is_merged_kept_and_restored() {
    let site = Site::new(Client::Docker);
    site.put(DAEMON, MINE);
    fs::set_permissions(site.path(DAEMON), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(site.try_diff().unwrap().len(), 1);
    assert_eq!(site.text(DAEMON), MINE);
    let wrote = site.write();
    assert_eq!(changes(&wrote), [Change::Written]);
    assert_eq!(wrote[0].restart, "systemctl reload docker");
    assert!(site.text(DAEMON).contains("http://m.example:5000"));
    let bits = |path: &str| fs::metadata(site.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(bits(DAEMON), 0o640);
    let backup = format!("{DAEMON}.roadstead-backup");
    assert_eq!((site.text(&backup).as_str(), bits(&backup)), (MINE, 0o640));
    assert_eq!(changes(&site.write()), [Change::None]);
    assert_eq!(site.try_diff().unwrap(), Vec::new());
    assert_eq!(changes(&site.undo()), [Change::Restored]);
    assert_eq!((site.text(DAEMON).as_str(), bits(DAEMON)), (MINE, 0o640));
    assert_eq!(site.files(), [DAEMON]);
    assert_eq!(changes(&site.undo()), [Change::None]);
}

/// Another address of the mirror takes the place of the one before, and the backup stays the original.
#[test]
fn a_mirror_that_moves_leaves_nothing_behind() {
    let mut site = Site::new(Client::Docker);
    site.put(DAEMON, MINE);
    site.write();
    site.mirror = mirror(THREE, "http://other.example:5000");
    site.write();
    let text = site.text(DAEMON);
    assert!(
        text.contains("other.example") && !text.contains("m.example"),
        "{text}"
    );
    assert_eq!(site.text(&format!("{DAEMON}.roadstead-backup")), MINE);
    // Somebody else works on it: that stays, whatever follows.
    let changed = text.replace("journald", "local");
    site.put(DAEMON, &changed);
    site.mirror = mirror(THREE, "http://third.example:5000");
    site.write();
    let text = site.text(DAEMON);
    assert!(
        text.contains("third") && !text.contains("other") && text.contains("local"),
        "{text}"
    );
    site.mirror = mirror(THREE, "http://m.example:5000");
    site.write();
    let text = site.text(DAEMON);
    assert!(
        text.contains("m.example") && !text.contains("third") && text.contains("local"),
        "{text}"
    );
    let undone = site.undo();
    assert_eq!(changes(&undone), [Change::Cleaned]);
    assert_eq!(site.text(DAEMON), MINE.replace("journald", "local"));
}

#[test]
fn files_and_directories_that_were_made_go_again() {
    for client in [
        Client::Containerd,
        Client::Podman,
        Client::K3s,
        Client::Buildkit,
        Client::Kind,
        Client::Talos,
        Client::GitlabRunner,
    ] {
        let mut site = Site::new(client);
        site.mirror = mirror(THREE, "https://m.example:5000");
        site.mirror.ca = Some("-----BEGIN CERTIFICATE-----\n".to_owned());
        let written = site.write();
        assert!(
            written.iter().all(|it| it.change == Change::Written),
            "{written:?}"
        );
        assert!(site.write().iter().all(|it| it.change == Change::None));
        let undone = site.undo();
        assert!(
            undone.iter().all(|it| it.change == Change::Removed),
            "{undone:?}"
        );
        let left: Vec<_> = fs::read_dir(site.dir.path()).unwrap().collect();
        assert!(left.is_empty(), "{client:?}: {left:?} {:?}", site.files());
    }
}

#[test]
fn a_file_that_cannot_be_merged_stops_all_of_them() {
    let site = Site::new(Client::Containerd);
    site.put("etc/containerd/config.toml", "version = 2\n[");
    let errors = site.try_write().unwrap_err();
    assert!(
        errors[0].contains("etc/containerd/config.toml:2: is no TOML"),
        "{errors:?}"
    );
    assert_eq!(site.files(), ["etc/containerd/config.toml"]);
    assert!(site.try_diff().is_err());
}

#[test]
fn an_own_file_that_was_changed_is_healed_and_never_removed() {
    let site = Site::new(Client::Podman);
    site.write();
    let conf = "etc/containers/registries.conf.d/50-roadstead.conf";
    let ours = site.text(conf);
    site.put(conf, "# mine\n");
    let (_, errors) = site.try_undo().unwrap_err();
    assert!(errors[0].contains("was changed since"), "{errors:?}");
    assert_eq!(site.text(conf), "# mine\n");
    assert_eq!(changes(&site.write()), [Change::Written]);
    assert_eq!(site.text(conf), ours);
    fs::remove_file(site.path(conf)).unwrap();
    assert_eq!(changes(&site.write()), [Change::Written]);
    assert_eq!(changes(&site.undo()), [Change::Removed]);
}

#[test]
fn links_are_written_through_and_lead_nowhere_outside() {
    let outside = TempDir::new().unwrap();
    let site = Site::new(Client::Docker);
    site.put("opt/daemon.json", MINE);
    fs::create_dir_all(site.path("etc/docker")).unwrap();
    // An absolute link begins at the root, and `..` does not lead out of it.
    symlink("/../../opt/x", site.path(DAEMON)).unwrap();
    symlink("../opt/daemon.json", site.path("opt/x")).unwrap();
    let written = site.write();
    assert!(written[0].path.ends_with("/opt/daemon.json"), "{written:?}");
    assert!(site.text("opt/daemon.json").contains("m.example"));
    assert_eq!(site.text("opt/daemon.json.roadstead-backup"), MINE);
    assert!(site.path(DAEMON).is_symlink());
    site.undo();
    assert_eq!(site.text("opt/daemon.json"), MINE);

    let site = Site::new(Client::Docker);
    symlink(outside.path(), site.path("etc")).unwrap();
    site.write();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    let inside = outside
        .path()
        .strip_prefix("/")
        .unwrap()
        .join("docker/daemon.json");
    assert!(site.dir.path().join(inside).is_file());

    let site = Site::new(Client::Docker);
    fs::create_dir_all(site.path("etc/docker")).unwrap();
    symlink("daemon.json", site.path(DAEMON)).unwrap();
    let errors = site.try_write().unwrap_err();
    assert!(
        errors[0].starts_with("cannot read /etc/docker/daemon.json"),
        "{errors:?}"
    );
}

#[test]
fn what_is_no_file_is_left() {
    let site = Site::new(Client::Docker);
    fs::create_dir_all(site.path(DAEMON)).unwrap();
    let errors = site.try_write().unwrap_err();
    assert!(errors[0].contains("is no plain file"), "{errors:?}");
    let site = Site::new(Client::Docker);
    site.put("etc/docker", "");
    assert!(site.try_write().is_err());
    let site = Site::new(Client::Docker);
    fs::create_dir_all(site.path("etc/docker")).unwrap();
    fs::write(site.path(DAEMON), [0xff, 0xfe]).unwrap();
    assert!(site.try_write().is_err());
}

#[test]
fn a_diff_is_unified() {
    let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10";
    let new = "0\n1\n2\n3\n4\n5\n6\n7\n8\n10";
    assert_eq!(
        unified("/f", Some(old), Some(new)),
        "--- a/f\n+++ b/f\n@@ -1,3 +1,4 @@\n+0\n 1\n 2\n 3\n@@ -6,5 +7,4 @@\n 6\n 7\n 8\n-9\n 10\n\\ No newline at end of file\n"
    );
    let far: String = (0..20)
        .flat_map(|it| [it.to_string(), "\n".to_owned()])
        .collect();
    let other = far.replace("5\n", "x\n").replace("1x\n", "15\n");
    assert_eq!(
        unified("/f", Some(&far), Some(&other)),
        "--- a/f\n+++ b/f\n@@ -3,7 +3,7 @@\n 2\n 3\n 4\n-5\n+x\n 6\n 7\n 8\n"
    );
    assert_eq!(
        unified("/f", None, Some("a\n")),
        "--- /dev/null\n+++ b/f\n@@ -0,0 +1,1 @@\n+a\n"
    );
    assert_eq!(unified("/f", Some("a"), Some("a")), "");
}
