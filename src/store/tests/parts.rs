//! Each part of the store, made without the others that it does not need.

use super::*;
use crate::oci::Repository;
use crate::oci::directory::Source;
use crate::store::capacity::bounds::Bounds;
use crate::store::capacity::reservation::Room;
use crate::store::cas::Cas;
use crate::store::cas::fill_state::Shared;
use crate::store::cas::ingest::Sink;
use crate::store::metadata::facts::Facts;
use crate::store::metadata::index::Index;
use crate::store::metadata::records::Records;

const MAX: u64 = 10_000_000;

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp(1_000_000)))
}

fn layout(dir: &TempDir) -> Arc<Layout> {
    let metrics = Metrics::new(std::iter::empty());
    let disk = Disk::new(Injection::default(), Arc::new(Health::new(metrics)));
    Arc::new(Layout::open(dir.path(), disk).unwrap())
}

fn index(layout: &Arc<Layout>) -> Arc<Index> {
    Arc::new(load::open_index(layout).unwrap())
}

fn contents(dir: &TempDir) -> Arc<Contents> {
    let layout = layout(dir);
    let (journal, _) = layout.journal().unwrap();
    let bounds = Bounds::new(&config(dir.path(), MAX), MAX, 0);
    let records = Records::new(index(&layout));
    let metrics = Metrics::new(std::iter::empty());
    let contents = Contents::new(layout, journal, bounds, records, metrics, clock(), None);
    Arc::new(contents)
}

fn cas(dir: &TempDir) -> Cas {
    let contents = contents(dir);
    let quarantine = Arc::new(Quarantine::new(&contents));
    let capacity = Arc::new(Capacity::new(&contents, &quarantine));
    Cas::new(&contents, &quarantine, &capacity)
}

#[test]
fn the_disk_has_files_by_their_digests() {
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(&dir);
    let (digest, bytes) = content(1000);
    layout.blobs().commit_bytes(&digest, &bytes, 0).unwrap();
    assert_eq!(layout.blobs().find(&digest).unwrap().unwrap().size, 1000);
    assert_eq!(layout.health().trouble(), None);
}

#[tokio::test]
async fn metadata_knows_repositories_without_any_blob() {
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(&dir);
    let access = Access::new(Facts::new(index(&layout)), layout.work());
    let events = Arc::new(Events::new(Metrics::new(std::iter::empty())));
    let metadata = Metadata::new(access, clock(), events);
    let source = Source {
        upstream: UpstreamName::parse("docker.io").unwrap(),
        repository: Repository::parse("library/app").unwrap(),
    };
    let (digest, _) = content(1);
    let link = Link::of(crate::oci::manifest::ChildKind::Blob, Some(1));
    metadata.record_links(&source, vec![(digest, link)]).await;
    assert_eq!(metadata.link(&source, &digest).await, Some(link));
}

#[test]
fn capacity_reserves_what_there_is_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let cas = cas(&dir);
    let most = cas.contents().ledger().max();
    cas.capacity().reserve(most).unwrap();
    assert!(cas.capacity().reserve(1).is_err());
    cas.contents().release(most);
    cas.capacity().reserve(1).unwrap();
}

#[tokio::test]
async fn content_is_published_and_read_by_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    let cas = cas(&dir);
    let (digest, bytes) = content(1000);
    cas.put(&digest, bytes.clone()).await.unwrap();
    assert_eq!(cas.contents().contains(&digest), Some(1000));
    // And one on its way.
    let (other, _) = content(2000);
    let key = FillKey::new(&UpstreamName::parse("docker.io").unwrap(), other);
    let room = Room::reserve(&cas, key, Some(2000)).unwrap();
    let sink = Sink::open(room, &Arc::new(Shared::new(key))).unwrap();
    assert_eq!(sink.hashed(), 0);
    drop(sink);
    assert_eq!(cas.contents().totals(), (1, 1000));
}

#[tokio::test]
async fn maintenance_finds_files_that_nobody_knows_and_sets_damaged_ones_aside() {
    let dir = tempfile::tempdir().unwrap();
    let contents = contents(&dir);
    let (digest, bytes) = content(1000);
    let blobs = contents.layout().blobs();
    blobs.commit_bytes(&digest, &bytes, 0).unwrap();
    let scan = Scan::new(&contents);
    assert_eq!(Arc::new(scan).find(&digest).await, Some(1000));
    let quarantine = Arc::new(Quarantine::new(&contents));
    let file = contents.open_checked(&digest, 1000).unwrap();
    let looked_at = LookedAt(Some(file));
    quarantine.damaged(&digest, "a test", looked_at).await;
    assert_eq!(contents.contains(&digest), None);
    assert_eq!(quarantine.bytes(), 1000);
}
