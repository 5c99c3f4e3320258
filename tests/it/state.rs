//! What may not be lost: imported names and pins outlive the cache, its index and a kill, are acknowledged only when
//! they are durable, and are never begun anew by themselves.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::SystemTime;

use http::Method;
use roadstead::catalogue::Gate;
use roadstead::config::Config;
use roadstead::mirror::Revalidate;
use roadstead::store::{Amount, DiskOp, Fault, Faults, Injection};
use serde_json::Value;
use tempfile::TempDir;

use crate::carry::{assert_pulls, export, import, try_import};
use crate::commands::program;
use crate::common::images::image;
use crate::common::mirror::TTL;
use crate::common::{ADMIN, Dialect, FakeRegistry, Mirror, MirrorBuilder, World, within};

const NGINX: &str = "docker.io/library/nginx:1.27";
const PIN: &str = "/api/v1/pins?image=nginx:1.27";

/// An index that cannot be written, so that nothing leaves the memory.
#[derive(Debug, Default)]
struct Index(AtomicBool);

impl Faults for Index {
    fn before(&self, op: DiskOp, _: &Path) -> Result<(), Fault> {
        let writes = matches!(op, DiskOp::WriteIndex | DiskOp::SyncIndex);
        if writes && self.0.load(Ordering::SeqCst) {
            return Err(io::Error::from(io::ErrorKind::StorageFull).into());
        }
        Ok(())
    }
}

/// An image in a layout, and a mirror that reaches no upstream.
struct Site {
    world: World,
    dir: TempDir,
    far: Mirror,
}

impl Site {
    async fn new() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let world = World::new().await;
        let dir = TempDir::new().unwrap();
        export(&world.mirror, &["nginx:1.27"], &dir.path().join("layout")).await;
        let far = MirrorBuilder::secluded(&["docker.io"]).with(change);
        let far = far.start().await;
        Self { world, dir, far }
    }

    fn layout(&self) -> PathBuf {
        self.dir.path().join("layout")
    }

    async fn import(&self) {
        let brought = import(&self.far, &self.layout()).await;
        assert_eq!(brought[0].0, NGINX);
    }

    async fn restarts_after(self, meddle: impl FnOnce(&Path)) -> Self {
        Self {
            far: Box::pin(self.far.restart_after(meddle)).await,
            ..self
        }
    }

    async fn is_pulled(&self) {
        assert_pulls(
            &self.far,
            "library/nginx",
            "docker.io",
            "1.27",
            &self.world.image,
        )
        .await;
    }

    fn manifest(&self) -> &str {
        &self.world.image.manifest.digest
    }
}

async fn admin(mirror: &Mirror, method: Method, path: &str) -> (u16, Value) {
    let answer = mirror.admin.ask(method, path, &[ADMIN]).await;
    let body = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    (answer.status, body)
}

async fn pins(mirror: &Mirror) -> Vec<String> {
    let (status, said) = admin(mirror, Method::GET, "/api/v1/pins").await;
    assert_eq!(status, 200, "{said}");
    let pins = said["pins"].as_array().unwrap().iter();
    pins.map(|pin| pin["image"].as_str().unwrap().to_owned())
        .collect()
}

fn empty(dir: &Path) {
    fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn names_and_pins_outlive_the_whole_cache_and_the_content_can_be_brought_again() {
    let site = Site::new().await;
    site.import().await;
    assert_eq!(admin(&site.far, Method::PUT, PIN).await.0, 200);
    let site = site.restarts_after(empty).await;
    assert_eq!(pins(&site.far).await, [NGINX]);
    // Nobody can be asked for it: it is said what to do.
    for path in [
        "/v2/library/nginx/manifests/1.27".to_owned(),
        format!("/v2/library/nginx/manifests/{}", site.manifest()),
    ] {
        let answer = site.far.get(&path).await;
        assert_eq!(
            (answer.status, answer.code()),
            (404, "MANIFEST_UNKNOWN".to_owned())
        );
        assert!(
            answer.text().contains("imported again"),
            "{}",
            answer.text()
        );
    }
    let layer = &site.world.layer().digest;
    let answer = site
        .far
        .get(&format!("/v2/library/nginx/blobs/{layer}"))
        .await;
    assert_eq!(
        (answer.status, answer.code()),
        (404, "BLOB_UNKNOWN".to_owned())
    );
    assert!(
        answer.text().contains("imported again"),
        "{}",
        answer.text()
    );
    // What was never imported is as it always was.
    let answer = site.far.get("/v2/library/other/manifests/1").await;
    assert_eq!(answer.status, 502);
    site.import().await;
    site.is_pulled().await;
    assert_eq!(pins(&site.far).await, [NGINX]);
}

#[tokio::test]
async fn what_upstream_has_is_fetched_again_after_the_whole_cache_was_deleted() {
    let world = World::new().await;
    let World {
        mirror, image, hub, ..
    } = world;
    assert_pulls(&mirror, "library/nginx", "docker.io", "1.27", &image).await;
    assert_eq!(admin(&mirror, Method::PUT, PIN).await.0, 200);
    let mirror = mirror.restart_after(empty).await;
    assert_pulls(&mirror, "library/nginx", "docker.io", "1.27", &image).await;
    assert_eq!(pins(&mirror).await, [NGINX]);
    for blob in image.blobs() {
        assert_eq!(hub.counters().blob_gets(&blob.digest), 2);
    }
}

#[tokio::test]
async fn an_import_is_served_without_the_index_and_listed_again() {
    let site = Site::new().await;
    site.import().await;
    assert_eq!(admin(&site.far, Method::PUT, PIN).await.0, 200);
    let site = site
        .restarts_after(|cache| fs::remove_file(cache.join("index.redb")).unwrap())
        .await;
    site.is_pulled().await;
    assert_eq!(pins(&site.far).await, [NGINX]);
    let listed = within("the list", async {
        loop {
            let (_, listed) = admin(&site.far, Method::GET, "/api/v1/images").await;
            if listed.to_string().contains("1.27") {
                return listed;
            }
            tokio::task::yield_now().await;
        }
    });
    assert!(listed.await.to_string().contains("library/nginx"));
}

/// An imported tag came back from the catalogue when upstream had deleted it: fresh after a refresh, and stale for ever
/// where tags are revalidated in the background.
#[tokio::test]
async fn an_imported_tag_that_upstream_has_deleted_does_not_come_back() {
    let world = World::new().await;
    let dir = TempDir::new().unwrap();
    let layout = dir.path().join("layout");
    export(&world.mirror, &["nginx:1.27"], &layout).await;
    let path = "/v2/library/nginx/manifests/1.27";
    let site = MirrorBuilder::of(&world.hub).start().await;
    import(&site, &layout).await;
    let background = MirrorBuilder::of(&world.hub)
        .with(|config| config.tags.defaults.revalidate = Revalidate::Background)
        .start()
        .await;
    import(&background, &layout).await;
    world.hub.delete_tag("library/nginx", "1.27");
    assert_eq!(site.get(path).await.status, 200, "its time has not run out");
    let (status, said) = admin(&site, Method::POST, "/api/v1/refresh?image=nginx:1.27").await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(site.get(path).await.status, 404);
    let site = site.restart().await;
    assert_eq!(site.get(path).await.status, 404);

    background.clock.advance(TTL * 2);
    within("the deletion", async {
        while background.get(path).await.status != 404 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for _ in 0..3 {
        assert_eq!(background.get(path).await.status, 404);
    }
}

/// Changes of an index that cannot be written wait in memory, and are dropped when they are too many.
#[tokio::test]
async fn an_import_outlives_an_index_that_was_never_written() {
    let disk = Arc::new(Index::default());
    let injection = Injection::of(Arc::clone(&disk) as _);
    let site = Site::with(|config| config.cache.injection = injection).await;
    disk.0.store(true, Ordering::SeqCst);
    site.import().await;
    assert_eq!(admin(&site.far, Method::PUT, PIN).await.0, 200);
    let healing = Arc::clone(&disk);
    let site = site
        .restarts_after(move |_| healing.0.store(false, Ordering::SeqCst))
        .await;
    site.is_pulled().await;
    assert_eq!(pins(&site.far).await, [NGINX]);
}

/// A gate that is open, holds up, or refuses.
fn gate() -> (
    Gate,
    mpsc::Receiver<()>,
    mpsc::Sender<io::Result<()>>,
    Arc<AtomicBool>,
) {
    let closed = Arc::new(AtomicBool::new(false));
    let (came, comes) = mpsc::channel();
    let (sender, passes) = mpsc::channel();
    let (is_closed, passes) = (Arc::clone(&closed), Mutex::new(passes));
    let gate = Gate::of(move || {
        if !is_closed.load(Ordering::SeqCst) {
            return Ok(());
        }
        came.send(()).ok();
        passes.lock().unwrap().recv().unwrap_or(Ok(()))
    });
    (gate, comes, sender, closed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_before_it_is_durable() {
    let (gate, comes, pass, closed) = gate();
    let site = Site::with(|config| config.state.gate = gate).await;
    site.import().await;
    closed.store(true, Ordering::SeqCst);
    let client = site.far.admin;
    let asking = async move { client.ask(Method::PUT, PIN, &[ADMIN]).await.status };
    let mut pinning = std::pin::pin!(asking);
    // It is at its commit, and not answered.
    let at_commit = tokio::task::spawn_blocking(move || {
        comes.recv().unwrap();
        comes
    });
    let comes = tokio::select! {
        early = &mut pinning => panic!("answered before the commit: {early:?}"),
        comes = at_commit => comes.unwrap(),
    };
    assert_eq!(pins(&site.far).await, [""; 0]);
    // Pulls wait for nothing of it.
    site.is_pulled().await;
    pass.send(Ok(())).unwrap();
    assert_eq!(pinning.await, 200);
    assert_eq!(pins(&site.far).await, [NGINX]);
    // One that fails is refused, told of, and has changed nothing.
    pass.send(Err(io::Error::from(io::ErrorKind::StorageFull)))
        .unwrap();
    let (status, said) = admin(&site.far, Method::DELETE, PIN).await;
    assert_eq!(status, 503, "{said}");
    assert!(
        said["error"].as_str().unwrap().contains("the catalogue in"),
        "{said}"
    );
    assert_eq!(pins(&site.far).await, [NGINX]);
    assert!(site.far.readyz().await.starts_with("degraded: "));
    // Without the thread's own look, which would wait here.
    let refused = try_import(&site.far, &site.layout(), &[]).await;
    assert!(refused.is_err() || refused.unwrap()[0].failed.is_some());
    site.is_pulled().await;
    closed.store(false, Ordering::SeqCst);
    drop((pass, comes));
    within("the catalogue", async {
        while site.far.readyz().await != "ok\n" && site.far.readyz().await.starts_with("degraded") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(admin(&site.far, Method::DELETE, PIN).await.0, 200);
    let site = site.restarts_after(|_| ()).await;
    assert_eq!(pins(&site.far).await, [""; 0]);
}

/// Pulls far more than fits: what is stored stays, and the rest passes through.
async fn crowd(hub: &FakeRegistry, mirror: &Mirror) {
    for seed in 100..106 {
        let (image, tag) = (image(seed, &[3 << 20], Dialect::Oci), seed.to_string());
        hub.put_image("library/crowd", Some(&tag), &image);
        assert_pulls(mirror, "library/crowd", "docker.io", &tag, &image).await;
    }
}

#[tokio::test]
async fn with_a_broken_catalogue_pulls_go_on_nothing_is_evicted_and_nothing_is_begun_anew() {
    let hub = FakeRegistry::start().await;
    let kept = image(1, &[1 << 20], Dialect::Oci);
    hub.put_image("library/nginx", Some("1.27"), &kept);
    let mirror = MirrorBuilder::of(&hub)
        .with(|config| config.cache.max_size = Amount::Bytes(8 << 20))
        .start()
        .await;
    assert_pulls(&mirror, "library/nginx", "docker.io", "1.27", &kept).await;
    assert_eq!(admin(&mirror, Method::PUT, PIN).await.0, 200);
    let database = mirror.state().join("catalogue.db");
    let (sound, path) = (Arc::new(Mutex::new(Vec::new())), database.clone());
    let saved = Arc::clone(&sound);
    let mirror = mirror
        .restart_after(move |cache| {
            *saved.lock().unwrap() = fs::read(&path).unwrap();
            fs::write(
                &path,
                b"no database at all, and longer than a header of one would be, by some bytes",
            )
            .unwrap();
            // What the index has of it must not be what saves the pin.
            fs::remove_file(cache.join("index.redb")).unwrap();
        })
        .await;
    let said = mirror.readyz().await;
    assert!(
        said.starts_with("degraded: ") && said.contains("catalogue.db is damaged"),
        "{said}"
    );
    assert!(
        mirror
            .metrics()
            .await
            .sum("roadstead_catalogue_degraded", &[])
            > 0.0
    );
    assert_pulls(&mirror, "library/nginx", "docker.io", "1.27", &kept).await;
    for (method, path) in [
        (Method::PUT, PIN),
        (Method::DELETE, "/api/v1/images?image=nginx:1.27"),
        (Method::POST, "/api/v1/gc"),
    ] {
        let (status, said) = admin(&mirror, method, path).await;
        assert_eq!(status, 503, "{path}: {said}");
        assert!(
            said["error"]
                .as_str()
                .unwrap()
                .contains("put a backup in its place"),
            "{said}"
        );
    }
    crowd(&hub, &mirror).await;
    for blob in kept.blobs() {
        assert!(mirror.blob_path(&blob.digest).exists());
    }
    assert!(fs::read(&database).unwrap().starts_with(b"no database"));
    // With the backup in its place, and the next start, all is as it was.
    let mirror = mirror
        .restart_after(|_| fs::write(&database, &*sound.lock().unwrap()).unwrap())
        .await;
    assert_eq!(pins(&mirror).await, [NGINX]);
    assert!(!mirror.readyz().await.starts_with("degraded"));
}

/// A cache of a version without a state directory: what its index has is taken over, once.
#[tokio::test]
async fn what_an_earlier_version_imported_and_pinned_is_taken_over() {
    let site = Site::new().await;
    site.import().await;
    assert_eq!(admin(&site.far, Method::PUT, PIN).await.0, 200);
    let state = site.far.state();
    let site = site.restarts_after(move |_| empty(&state)).await;
    assert_eq!(pins(&site.far).await, [NGINX]);
    let site = site.restarts_after(empty).await;
    assert_eq!(pins(&site.far).await, [NGINX]);
    let answer = site.far.get("/v2/library/nginx/manifests/1.27").await;
    assert_eq!(answer.status, 404);
    site.import().await;
    site.is_pulled().await;
}

#[tokio::test]
async fn what_is_removed_does_not_come_back_with_the_next_start() {
    let site = Site::new().await;
    site.import().await;
    let (status, said) = admin(&site.far, Method::DELETE, "/api/v1/images?image=nginx:1.27").await;
    assert_eq!(status, 200, "{said}");
    let site = site
        .restarts_after(|cache| fs::remove_file(cache.join("index.redb")).unwrap())
        .await;
    let answer = site.far.get("/v2/library/nginx/manifests/1.27").await;
    assert_eq!(answer.status, 502);
    let answer = site
        .far
        .get(&format!("/v2/library/nginx/manifests/{}", site.manifest()))
        .await;
    assert_eq!(answer.status, 502);
}

/// Each file's bytes and time of change. The socket for the next process has no bytes.
fn traces(dir: &Path) -> Vec<(PathBuf, Vec<u8>, SystemTime)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let found = fs::metadata(&path).unwrap();
            let is_file = found.is_file();
            let bytes = is_file.then(|| fs::read(&path).unwrap());
            (path, bytes.unwrap_or_default(), found.modified().unwrap())
        })
        .collect();
    files.sort();
    files
}

/// `state backup` beside a server, and commands on a cache without one, change no file of the state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_read_leave_no_trace() {
    let registry = FakeRegistry::start().await;
    let image = image(1, &[5000], Dialect::Oci);
    registry.put_image("library/nginx", Some("1.27"), &image);
    let mirror = MirrorBuilder::of(&registry).start().await;
    assert_pulls(&mirror, "library/nginx", "docker.io", "1.27", &image).await;
    assert_eq!(admin(&mirror, Method::PUT, PIN).await.0, 200);
    let (state, dir) = (mirror.state(), TempDir::new().unwrap());
    let run = async |arguments: &[&str]| {
        let output = program(arguments).await;
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let from = dir.path().join("beside.db");
    let text = |path: &Path| path.display().to_string();
    let (copy, of) = (text(&from), text(&state));
    let before = traces(&state);
    let said = run(&["state", "backup", "-o", &copy, "--state-dir", &of]).await;
    assert!(said.contains("was copied to"), "{said}");
    assert!(
        traces(&state) == before,
        "a backup beside a server left a trace"
    );
    // As the book says to restore it.
    let restored = state.clone();
    assert_eq!(admin(&mirror, Method::DELETE, PIN).await.0, 200);
    let mirror = mirror
        .restart_after(move |_| {
            fs::copy(&from, restored.join("catalogue.db")).unwrap();
        })
        .await;
    assert_eq!(pins(&mirror).await, [NGINX]);
    // Without a server: a copy of both directories, which nothing has open.
    let (cache_copy, state_copy) = (dir.path().join("c"), dir.path().join("s"));
    let (from_cache, from_state) = (mirror.store(), state.clone());
    let (to_cache, to_state) = (cache_copy.clone(), state_copy.clone());
    let _mirror = mirror
        .restart_after(move |_| {
            copy_all(&from_cache, &to_cache);
            copy_all(&from_state, &to_state);
        })
        .await;
    let before = traces(&state_copy);
    for command in ["ls", "pin", "status", "du"] {
        let (cache, state) = (text(&cache_copy), text(&state_copy));
        let said = run(&[command, "--cache-dir", &cache, "--state-dir", &state]).await;
        if command == "pin" {
            assert!(said.contains("nginx:1.27"), "{said}");
        }
        assert!(traces(&state_copy) == before, "{command} left a trace");
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}
