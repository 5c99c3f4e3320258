//! The index within its part of the store.

use super::*;
use crate::oci::directory::Source;
use crate::oci::{AcceptClass, Repository, Tag, UpstreamName};
use crate::store::metadata::index::Table;

fn source(upstream: &str, repository: &str) -> Source {
    Source {
        upstream: UpstreamName::parse(upstream).unwrap(),
        repository: Repository::parse(repository).unwrap(),
    }
}

fn digest(number: u32) -> Digest {
    Digest::of(Algorithm::Sha256, &number.to_be_bytes())
}

/// Links of content that is not stored, in repositories with long names.
async fn link_many(store: &Store, upstream: &str, from: u32) {
    for part in 0..20 {
        let repository = format!("{}/{part}", "r".repeat(240));
        let links = (0..1000).map(|n| (digest(from + part * 1000 + n), Link::default()));
        store
            .metadata()
            .record_links(&source(upstream, &repository), links.collect())
            .await;
    }
}

fn keep_up(store: &Store) -> u64 {
    store.known_flush();
    store.capacity().account_for_index();
    store.contents().layout().index().bytes().unwrap()
}

impl Store {
    fn known_flush(&self) {
        assert!(self.contents().records.flush());
    }
}

/// The index had no bound but days: links of manifests that nobody has any more took all of a small cache.
#[tokio::test]
async fn an_index_that_outgrows_its_part_forgets_and_becomes_smaller() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 25_000_000);
    let most = (25_000_000 + capacity::INDEX_STEP_BYTES) / 5;
    let kept = put(&store, 1, 1000).await;
    let app = source("quay.io", "team/app");
    store
        .metadata()
        .record_links(&app, vec![(kept, Link::default())])
        .await;
    let tag = Tag::parse("v1").unwrap();
    let record = TagRecord {
        class: AcceptClass::MODERN,
        digest: kept,
        media_type: "a/b".to_owned(),
        checked: store.contents().clock.now(),
        origin: Origin::Upstream,
    };
    store.metadata().record_tag(&app, &tag, record).await;
    for round in 0..2 {
        link_many(&store, "docker.io", round * 20_000).await;
        let bytes = keep_up(&store);
        assert!(bytes <= most, "{bytes} of {most} in round {round}");
    }
    assert!(store.contents().ledger().max() >= 25_000_000 - most);
    let linked = |source: &Source, digest: &Digest| {
        let key = metadata::schema::link_key(source, digest);
        store
            .inner
            .expiry
            .facts()
            .index()
            .read(Table::Links, &key)
            .is_some()
    };
    assert!(linked(&app, &kept), "its content is stored");
    let key = metadata::schema::tag_key(&app, &tag);
    assert!(
        store
            .inner
            .expiry
            .facts()
            .index()
            .read(Table::Tags, &key)
            .is_some()
    );
    assert!(store.contents().records.read(&kept).is_some());
    assert_eq!(store.trouble(), None);
    drop(store);
    let store = open(dir.path(), 25_000_000);
    assert_eq!(store.contains(&kept), Some(1000));
}

/// As a version before left it: media types of megabytes. No blob was stored any more, and all seemed well.
#[tokio::test]
async fn an_index_that_left_no_room_is_made_smaller_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut blobs = Vec::new();
    {
        let store = open(dir.path(), 100_000_000);
        for seed in 0..3 {
            blobs.push(put(&store, seed, 100_000).await);
        }
        let index = store.inner.expiry.facts().index();
        for blob in &blobs {
            let key = metadata::schema::digest_key(blob);
            index.change(Table::MediaTypes, key, Some(vec![b'x'; 4_000_000]));
        }
        store.known_flush();
        assert!(store.contents().layout().index().bytes().unwrap() > 12_000_000);
    }
    let store = open(dir.path(), 10_000_000);
    let most = (10_000_000 + capacity::INDEX_STEP_BYTES) / 5;
    let bytes = store.contents().layout().index().bytes().unwrap();
    assert!(bytes <= most, "{bytes}");
    assert!(store.contents().ledger().max() >= 9_000_000);
    assert_eq!(store.trouble(), None);
    for (seed, blob) in (0..3).zip(&blobs) {
        let bytes = stored(&store, blob).await.unwrap();
        assert_eq!(bytes, vec![seed; 100_000]);
    }
    put(&store, 9, 5_000_000).await;
}

/// If that is of no use, it is begun anew: blobs are found by their files.
#[tokio::test]
async fn an_index_that_stays_too_large_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let blob = {
        let store = open(dir.path(), 100_000_000);
        let blob = put(&store, 1, 100_000).await;
        let index = store.inner.expiry.facts().index();
        for n in 0..100_000 {
            // Blobs that an earlier version may have had by the million.
            let key = metadata::schema::digest_key(&digest(n));
            index.change(Table::Blobs, key, Some(vec![0; 21]));
        }
        store.known_flush();
        assert!(store.contents().layout().index().bytes().unwrap() > 4_000_000);
        blob
    };
    let store = open(dir.path(), 1_000_000);
    assert!(store.contents().layout().index().bytes().unwrap() < 1_000_000);
    store.scan().all();
    assert_eq!(stored(&store, &blob).await.unwrap(), vec![1; 100_000]);
    assert_eq!(store.trouble(), None);
}

/// Nothing can be stored: `/readyz` said ok.
#[tokio::test]
async fn a_store_without_room_for_anything_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = Metrics::new(std::iter::empty());
    let with = |max_size: u64| {
        let config = Config {
            max_size: Amount::Bytes(max_size),
            ..config(dir.path(), 0)
        };
        let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
        Store::open(&config, clock, metrics.clone()).unwrap()
    };
    let store = with(capacity::INDEX_STEP_BYTES);
    let why = store.trouble().unwrap();
    assert!(
        why.contains("no room") && why.contains("cache.max_size"),
        "{why}"
    );
    assert!(metrics.render().contains("roadstead_store_degraded 1\n"));
    drop(store);
    let store = with(10 * capacity::INDEX_STEP_BYTES);
    assert_eq!(store.trouble(), None);
    // All of it is in use: that passes, and is said when it does not.
    let mut open = Vec::new();
    for seed in 0..18 {
        let digest = put(&store, seed, 1 << 20).await;
        open.push(store.blob(&digest).await.unwrap());
    }
    Upkeep(store.clone()).keep_up(false);
    assert_eq!(store.trouble(), None);
    for _ in 0..30 {
        Upkeep(store.clone()).keep_up(false);
    }
    assert!(store.trouble().unwrap().contains("in use"));
    drop(open);
    Upkeep(store.clone()).keep_up(false);
    assert_eq!(store.trouble(), None);
    assert!(metrics.render().contains("roadstead_store_degraded 0\n"));
}
