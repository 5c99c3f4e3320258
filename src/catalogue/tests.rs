#![expect(
    clippy::disallowed_methods,
    reason = "a test owns its files, and damages them"
)]

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use tempfile::TempDir;

use super::*;
use crate::clock::Timestamp;
use crate::oci::{Digest, Reference, Repository, Tag, UpstreamName};

mod broken;
mod looking;

fn metrics() -> Metrics {
    Metrics::new(std::iter::empty())
}

fn open(dir: &TempDir) -> Catalogue {
    Catalogue::open(&config(dir), metrics())
}

fn config(dir: &TempDir) -> Config {
    Config::of(dir.path().join("state"))
}

fn source(repository: &str) -> Source {
    Source {
        upstream: UpstreamName::parse("docker.io").unwrap(),
        repository: Repository::parse(repository).unwrap(),
    }
}

fn tag(text: &str) -> Tag {
    Tag::parse(text).unwrap()
}

fn digest(number: u8) -> Digest {
    Digest::Sha256([number; 32])
}

fn imported(number: u8) -> ImportedTag {
    ImportedTag {
        digest: digest(number),
        media_type: "application/vnd.oci.image.index.v1+json".to_owned(),
        imported: Timestamp(1_790_000_000_000),
    }
}

fn link(number: u8) -> ImportedLink {
    let link = Link {
        manifest: false,
        blob: true,
        given: true,
        size: Some(u64::from(number)),
    };
    ImportedLink {
        digest: digest(number),
        link,
    }
}

fn import(repository: &str, name: &str, number: u8) -> Change {
    Change::Import {
        source: source(repository),
        tag: Some((tag(name), imported(number))),
        links: vec![link(number), link(number + 1)],
    }
}

fn pin(repository: &str, digests: &[u8]) -> HandPin {
    HandPin {
        source: source(repository),
        reference: Reference::Tag(tag("v1")),
        since: Timestamp(7),
        digests: digests.iter().map(|number| digest(*number)).collect(),
    }
}

#[tokio::test]
async fn what_was_answered_is_there_after_the_next_start() {
    let dir = TempDir::new().unwrap();
    let catalogue = open(&dir);
    assert_eq!(catalogue.trouble(), None);
    assert!(!catalogue.may_have(&source("team/app")));
    catalogue.commit(import("team/app", "v1", 1)).await.unwrap();
    catalogue
        .commit(Change::Pin(pin("team/app", &[1, 2])))
        .await
        .unwrap();
    catalogue
        .commit(Change::Pin(pin("team/b", &[3])))
        .await
        .unwrap();
    let gone = Change::Unpin(source("team/b"), Reference::Tag(tag("v1")));
    catalogue.commit(gone).await.unwrap();
    for round in 0..2 {
        // Answered at once, and not only by the next process.
        let opened = if round == 0 {
            catalogue.clone()
        } else {
            open(&dir)
        };
        assert!(opened.may_have(&source("team/app")));
        assert!(!opened.may_have(&source("team/b")));
        let found = opened.imported_tag(&source("team/app"), &tag("v1")).await;
        assert_eq!(found, Ok(Some(imported(1))));
        let found = opened.imported_tag(&source("team/app"), &tag("v2")).await;
        assert_eq!(found, Ok(None));
        let found = opened.imported_link(&source("team/app"), &digest(2)).await;
        assert_eq!(found, Ok(Some(link(2).link)));
        let found = opened
            .imported_link(&source("team/other"), &digest(2))
            .await;
        assert_eq!(found, Ok(None));
        assert_eq!(opened.pins().await, Ok(vec![pin("team/app", &[1, 2])]));
        opened.close().await;
    }
}

#[tokio::test]
async fn an_import_adds_to_what_is_known_and_a_removal_takes_it_away() {
    let dir = TempDir::new().unwrap();
    let catalogue = open(&dir);
    catalogue.commit(import("a", "v1", 1)).await.unwrap();
    let by_name = ImportedLink {
        digest: digest(1),
        link: Link {
            manifest: true,
            blob: false,
            given: false,
            size: None,
        },
    };
    let again = Change::Import {
        source: source("a"),
        tag: Some((tag("v1"), imported(9))),
        links: vec![by_name],
    };
    catalogue.commit(again).await.unwrap();
    let both = Link {
        manifest: true,
        blob: true,
        given: true,
        size: Some(1),
    };
    let found = catalogue.imported_link(&source("a"), &digest(1)).await;
    assert_eq!(found, Ok(Some(both)));
    let found = catalogue.imported_tag(&source("a"), &tag("v1")).await;
    assert_eq!(found, Ok(Some(imported(9))));
    let names = vec![Name::Tag(tag("v1")), Name::Digest(digest(1))];
    catalogue
        .commit(Change::Forget(source("a"), names))
        .await
        .unwrap();
    assert_eq!(catalogue.tag_page(None).await, Ok(Vec::new()));
    let left = catalogue.link_page(None).await.unwrap();
    assert_eq!(left, vec![(source("a"), link(2))]);
    // What is not pinned is not pinned by saying anew what belongs to it.
    catalogue
        .commit(Change::Renew(pin("a", &[1])))
        .await
        .unwrap();
    assert_eq!(catalogue.pins().await, Ok(Vec::new()));
}

#[tokio::test]
async fn pages_go_on_where_the_one_before_ended() {
    let dir = TempDir::new().unwrap();
    let catalogue = open(&dir);
    for number in 0..20 {
        let name = format!("v{number:02}");
        catalogue.commit(import("a", &name, number)).await.unwrap();
    }
    let all = catalogue.tag_page(None).await.unwrap();
    assert_eq!(all.len(), 20);
    let (source, tag, _) = &all[11];
    let rest = catalogue
        .tag_page(Some(&(source.clone(), tag.clone())))
        .await;
    assert_eq!(rest.unwrap(), all[12..]);
    let all = catalogue.link_page(None).await.unwrap();
    assert_eq!(all.len(), 21);
    let (source, link) = &all[20];
    let rest = catalogue
        .link_page(Some(&(source.clone(), link.digest)))
        .await;
    assert_eq!(rest, Ok(Vec::new()));
}

#[tokio::test]
async fn what_an_earlier_version_left_is_taken_over_and_changes_nothing_newer() {
    let dir = TempDir::new().unwrap();
    let catalogue = open(&dir);
    assert_eq!(catalogue.has_adopted().await, Ok(false));
    catalogue.commit(import("a", "v1", 1)).await.unwrap();
    catalogue.commit(Change::Pin(pin("a", &[1]))).await.unwrap();
    let legacy = Legacy {
        tags: vec![
            (source("a"), tag("v1"), imported(5)),
            (source("b"), tag("v1"), imported(6)),
        ],
        links: vec![(source("b"), link(6))],
        pins: vec![pin("a", &[5]), pin("b", &[6])],
        complete: true,
    };
    catalogue.commit(Change::Adopt(legacy)).await.unwrap();
    assert_eq!(catalogue.has_adopted().await, Ok(true));
    assert!(catalogue.may_have(&source("b")));
    let found = catalogue.imported_tag(&source("a"), &tag("v1")).await;
    assert_eq!(found, Ok(Some(imported(1))));
    let pins = catalogue.pins().await.unwrap();
    assert_eq!(pins, vec![pin("a", &[1]), pin("b", &[6])]);
}

/// Nothing is answered before its commit, and all that waits meanwhile is one commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_answered_before_the_commit_and_who_waits_shares_it() {
    let dir = TempDir::new().unwrap();
    let (came, comes) = mpsc::channel();
    let (open_gate, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let mut config = config(&dir);
    let first = AtomicBool::new(true);
    config.gate = Gate::of(move || {
        // The look at the start, whether it can be written.
        if !first.swap(false, Ordering::SeqCst) {
            came.send(()).ok();
            gate.lock().unwrap().recv().ok();
        }
        Ok(())
    });
    let catalogue = Catalogue::open(&config, metrics());
    let committing = |number: u8| {
        let catalogue = catalogue.clone();
        let change = Change::Pin(pin(&format!("r{number}"), &[number]));
        tokio::task::spawn(async move { catalogue.commit(change).await })
    };
    let head = committing(0);
    tokio::task::block_in_place(|| comes.recv().unwrap());
    assert!(!head.is_finished());
    let others: Vec<_> = (1..20).map(committing).collect();
    // All of them wait for the thread: each has taken its part of the queue.
    while catalogue.inner.queue.available_permits() > QUEUE_BYTES_MAX as usize - 20 * 200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(catalogue.pins().await, Ok(Vec::new()));
    open_gate.send(()).unwrap();
    head.await.unwrap().unwrap();
    let mut commits = 0;
    let all = async {
        for other in others {
            other.await.unwrap().unwrap();
        }
    };
    tokio::pin!(all);
    loop {
        tokio::select! {
            () = &mut all => break,
            () = tokio::task::yield_now() => {}
        }
        if comes.try_recv().is_ok() {
            commits += 1;
            open_gate.send(()).unwrap();
        }
    }
    assert!(commits < 19, "{commits} commits for 19 changes");
    assert_eq!(catalogue.pins().await.unwrap().len(), 20);
    drop(open_gate);
    catalogue.close().await;
}

#[tokio::test]
async fn a_failed_commit_is_refused_and_told_of_until_it_works_again() {
    let dir = TempDir::new().unwrap();
    let fails = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let (failing, asking) = (Arc::clone(&fails), Arc::clone(&asked));
    let mut config = config(&dir);
    config.gate = Gate::of(move || {
        asking.fetch_add(1, Ordering::SeqCst);
        if failing.load(Ordering::SeqCst) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    });
    let metrics = metrics();
    let catalogue = Catalogue::open(&config, metrics.clone());
    catalogue.commit(Change::Pin(pin("a", &[1]))).await.unwrap();
    fails.store(true, Ordering::SeqCst);
    let refused = catalogue.commit(Change::Pin(pin("b", &[1]))).await;
    let refused = refused.unwrap_err();
    assert!(
        matches!(&refused, CatalogueError::Unavailable(why) if why.contains("no storage space")),
        "{refused}"
    );
    assert!(catalogue.trouble().is_some());
    assert!(catalogue.must_be_writable().is_err());
    assert!(
        metrics
            .render()
            .contains("roadstead_catalogue_degraded 1\n")
    );
    // It is known what is in it all the same.
    assert!(catalogue.is_known());
    assert_eq!(catalogue.pins().await, Ok(vec![pin("a", &[1])]));
    fails.store(false, Ordering::SeqCst);
    catalogue.commit(Change::Pin(pin("b", &[1]))).await.unwrap();
    assert_eq!(catalogue.trouble(), None);
    assert!(catalogue.must_be_writable().is_ok());
    assert!(
        metrics
            .render()
            .contains("roadstead_catalogue_degraded 0\n")
    );
    assert_eq!(catalogue.pins().await.unwrap().len(), 2);
}

#[tokio::test]
async fn more_than_may_be_written_at_once_is_refused() {
    let dir = TempDir::new().unwrap();
    let catalogue = open(&dir);
    let links = Change::Import {
        source: source("a"),
        tag: None,
        links: vec![link(1); 200_000],
    };
    assert_eq!(catalogue.commit(links).await, Err(CatalogueError::TooLarge));
    catalogue.close().await;
    let closed = catalogue.commit(Change::Pin(pin("a", &[1]))).await;
    assert!(
        matches!(closed, Err(CatalogueError::Unavailable(_))),
        "{closed:?}"
    );
}

#[tokio::test]
async fn others_may_not_read_what_is_in_the_state_directory() {
    let dir = TempDir::new().unwrap();
    let catalogue = open(&dir);
    catalogue.commit(import("a", "v1", 1)).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&config(&dir).dir), 0o700);
    for entry in fs::read_dir(config(&dir).dir).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn a_backup_is_made_while_it_is_written_and_can_take_its_place() {
    let dir = TempDir::new().unwrap();
    let catalogue = open(&dir);
    catalogue.commit(import("a", "v1", 1)).await.unwrap();
    catalogue.commit(Change::Pin(pin("a", &[1]))).await.unwrap();
    let (state, copy) = (config(&dir).dir, dir.path().join("copy.db"));
    let made = backup(&state, &copy).unwrap();
    assert_eq!(made.of, state.join(DATABASE));
    assert_eq!(
        fs::metadata(&copy).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let again = backup(&state, &copy).unwrap_err().to_string();
    assert!(again.contains("is there already"), "{again}");
    catalogue
        .commit(Change::Pin(pin("later", &[1])))
        .await
        .unwrap();
    catalogue.close().await;
    // As the book has it.
    fs::copy(&copy, state.join(DATABASE)).unwrap();
    let restored = open(&dir);
    assert_eq!(restored.trouble(), None);
    assert_eq!(restored.pins().await, Ok(vec![pin("a", &[1])]));
    let none = backup(&dir.path().join("none"), &dir.path().join("x")).unwrap_err();
    assert!(none.to_string().contains("there is no catalogue"), "{none}");
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    assert!(
        left.iter()
            .all(|name| !name.to_string_lossy().ends_with(".new")),
        "{left:?}"
    );
}
