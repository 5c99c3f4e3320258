//! Fills from a second kind of source, with an endpoint of an upstream behind it.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "each behaviour of the scripted source differs in one place from that of a good one"
)]

mod nodes;

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::{self, StreamExt};
use futures_util::{FutureExt, future};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;
use crate::catalogue::{self, Catalogue};
use crate::clock::{ManualClock, Timestamp};
use crate::mirror::{Beside, BlobAnswer, Config, Mirror, Parts, Policy, UpstreamSet};
use crate::oci::{Algorithm, Directory, Repository, UpstreamName};
use crate::store::{self, Event, EventKinds, Heard, Store};
use crate::telemetry::Metrics;
use crate::upstream::{self, EndpointConfig, EndpointId, FetchError, Upstream};

const BLOB_BYTES: usize = 300_000;
const PIECE_BYTES: usize = 32 * 1024;

fn content() -> Bytes {
    (0..BLOB_BYTES)
        .map(|at| u8::try_from(at * 31 % 251).unwrap())
        .collect()
}

fn source() -> Source {
    Source {
        upstream: UpstreamName::parse("docker.io").unwrap(),
        repository: Repository::parse("library/app").unwrap(),
    }
}

/// The behaviour of a source.
#[derive(Clone, Copy, Debug)]
enum Act {
    Gives,
    DiesAt(usize),
    StallsAt(usize),
    EndsAt(usize),
    GivesWrongBytes,
    GivesEmptyPieces,
    GivesAnotherPart,
    SaysAnotherSize,
    /// In all it says.
    LiesOfItsSize,
    Lacks,
    Refuses,
    SaysNothing,
    AnswersNothing,
}

/// A source that is no upstream: no sockets, no endpoints.
#[derive(Debug)]
struct Peer {
    act: Act,
    kind: SourceKind,
    /// Time for which it is waited for.
    patience: Duration,
    reads: AtomicUsize,
    /// Number of questions for its size.
    stats: AtomicUsize,
    /// True if it is asked for what it has alone.
    is_holder: bool,
    distrusted: Mutex<Vec<Digest>>,
}

impl Peer {
    fn new(act: Act) -> Arc<Self> {
        Self::of(SourceKind::Tier, act)
    }

    fn of(kind: SourceKind, act: Act) -> Arc<Self> {
        Arc::new(Self::plain(kind, act))
    }

    fn plain(kind: SourceKind, act: Act) -> Self {
        Self {
            act,
            kind,
            patience: Duration::from_millis(100),
            reads: AtomicUsize::new(0),
            stats: AtomicUsize::new(0),
            is_holder: false,
            distrusted: Mutex::default(),
        }
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    fn answer(&self, range: &ReadRange<'_>) -> Result<BlobRead, FetchError> {
        let start = usize::try_from(range.start).unwrap();
        let end = range
            .end
            .map_or(BLOB_BYTES, |end| usize::try_from(end).unwrap());
        let all = match self.act {
            Act::GivesWrongBytes => Bytes::from(vec![7; BLOB_BYTES]),
            _ => content(),
        };
        let given = match self.act {
            Act::DiesAt(at) | Act::StallsAt(at) | Act::EndsAt(at) => end.min(at.max(start)),
            _ => end,
        };
        let part = all.slice(start..given);
        let mut pieces: Vec<_> = part
            .chunks(PIECE_BYTES)
            .map(|it| Ok(part.slice_ref(it)))
            .collect();
        let mut waits = false;
        match self.act {
            Act::Refuses => return Err(FetchError::Denied),
            Act::DiesAt(at) if at < end => {
                pieces.push(Err(FetchError::Broken("it died".to_owned())));
            }
            Act::StallsAt(at) if at < end => waits = true,
            Act::GivesEmptyPieces => pieces = vec![Ok(Bytes::new()); 3],
            _ => {}
        }
        let pieces = stream::iter(pieces);
        let pieces = if waits {
            pieces.chain(stream::pending()).boxed()
        } else {
            pieces.boxed()
        };
        let offset = match self.act {
            Act::GivesAnotherPart => range.start + 1,
            _ => range.start,
        };
        Ok(BlobRead {
            offset,
            ranged: true,
            endpoint: EndpointId::of(0),
            validator: None,
            total: match self.act {
                Act::LiesOfItsSize => Some(5),
                _ => Some(BLOB_BYTES as u64),
            },
            body: ReadBody::of(pieces, self.wait_max()),
        })
    }
}

impl BlobSource for Peer {
    fn name(&self, _: EndpointId) -> Cow<'static, str> {
        "peer".into()
    }

    fn kind(&self) -> SourceKind {
        self.kind
    }

    fn endpoints(&self, digest: &Digest) -> Vec<EndpointId> {
        let trusted = !self.distrusted.lock().unwrap().contains(digest);
        Vec::from_iter((trusted && !self.is_holder).then_some(EndpointId::of(0)))
    }

    fn holders(&self, digest: &Digest, _all: bool) -> Vec<EndpointId> {
        let trusted = !self.distrusted.lock().unwrap().contains(digest);
        Vec::from_iter((trusted && self.is_holder).then_some(EndpointId::of(0)))
    }

    fn holds<'a>(&'a self, _: BlobName<'a>, _: EndpointId) -> BoxFuture<'a, Option<u64>> {
        ready(match self.act {
            Act::Lacks => None,
            Act::SaysAnotherSize | Act::LiesOfItsSize => Some(5),
            _ => Some(BLOB_BYTES as u64),
        })
        .boxed()
    }

    fn stat<'a>(&'a self, _: BlobName<'a>) -> BoxFuture<'a, Result<Option<u64>, FetchError>> {
        self.stats.fetch_add(1, Ordering::Relaxed);
        match self.act {
            Act::Lacks => ready(Err(FetchError::NotFound { code: None })).boxed(),
            Act::SaysAnotherSize | Act::LiesOfItsSize => ready(Ok(Some(5))).boxed(),
            Act::SaysNothing => future::pending().boxed(),
            _ => ready(Ok(Some(BLOB_BYTES as u64))).boxed(),
        }
    }

    fn read<'a>(
        &'a self,
        _: BlobName<'a>,
        range: ReadRange<'a>,
    ) -> BoxFuture<'a, Result<BlobRead, FetchError>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        match self.act {
            Act::AnswersNothing => future::pending().boxed(),
            _ => ready(self.answer(&range)).boxed(),
        }
    }

    fn distrust(&self, _: EndpointId, digest: &Digest) {
        self.distrusted.lock().unwrap().push(*digest);
    }

    fn wait_max(&self) -> Duration {
        self.patience
    }
}

/// A registry on the loopback: one blob, or none.
struct Registry {
    address: std::net::SocketAddr,
    /// Method and first byte of each request.
    seen: Arc<Mutex<Vec<(String, u64)>>>,
    _task: JoinSet<()>,
}

impl Registry {
    async fn start(has_it: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut task = JoinSet::new();
        let log = Arc::clone(&seen);
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, has_it, Arc::clone(&log)));
            }
        });
        Self {
            address,
            seen,
            _task: task,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The first byte of each GET.
    fn gets(&self) -> Vec<u64> {
        let seen = self.seen.lock().unwrap();
        let gets = seen.iter().filter(|(method, _)| method == "GET");
        gets.map(|(_, start)| *start).collect()
    }
}

async fn serve(mut stream: TcpStream, has_it: bool, seen: Arc<Mutex<Vec<(String, u64)>>>) {
    let mut read = Vec::new();
    loop {
        while !read.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => read.push(byte),
                Err(_gone) => return,
            }
        }
        let head = String::from_utf8(std::mem::take(&mut read))
            .unwrap()
            .to_lowercase();
        let method = head.split(' ').next().unwrap().to_uppercase();
        let range = head
            .lines()
            .find_map(|line| line.strip_prefix("range: bytes="));
        let (start, end) = range.map_or(("0", ""), |range| range.split_once('-').unwrap());
        let start: usize = start.parse().unwrap();
        let end = end.parse().map_or(BLOB_BYTES, |last: usize| last + 1);
        seen.lock().unwrap().push((method.clone(), start as u64));
        let all = content();
        let part = all.slice(start..end);
        let answer = match (has_it, range) {
            (false, _) => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
            (true, None) => format!("HTTP/1.1 200 OK\r\ncontent-length: {BLOB_BYTES}\r\n\r\n"),
            (true, Some(_)) => format!(
                "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\ncontent-range: bytes {start}-{}/{BLOB_BYTES}\r\n\r\n",
                part.len(),
                end - 1,
            ),
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        if has_it && method == "GET" && stream.write_all(&part).await.is_err() {
            return;
        }
    }
}

/// A mirror of one upstream, with one other source before it.
struct World {
    mirror: Mirror,
    store: Store,
    digest: Digest,
    _dir: TempDir,
}

impl World {
    /// With `given`, the upstream has said before that the repository has the blob.
    async fn new(url: &str, peers: &[&Arc<Peer>], given: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp(1_790_000_000_000)));
        let metrics = Metrics::new(std::iter::empty());
        let config = store::Config::of(dir.path().to_path_buf(), store::Amount::Bytes(100_000_000));
        let store = Store::open(&config, Arc::clone(&clock) as _, metrics.clone()).unwrap();
        let endpoint = EndpointConfig::at(url.parse().unwrap());
        let hub = upstream::Config::of(source().upstream, vec![endpoint]);
        let parts = Parts {
            policies: Config::of(Policy::default()).into(),
            catalogue: Catalogue::open(
                &catalogue::Config::of(config.dir.with_file_name("state")),
                metrics.clone(),
            ),
            fill_on_range: FillOnRange::default(),
            upstreams: UpstreamSet {
                directory: Directory::new(Vec::new()),
                upstreams: vec![Upstream::new(&hub, metrics.clone()).unwrap()],
                public_views: Vec::new(),
                client_views: Vec::new(),
            },
            store: store.clone(),
            clock,
            metrics,
        };
        let peers = peers
            .iter()
            .map(|peer| Arc::clone(peer) as Arc<dyn BlobSource>);
        let digest = Digest::of(Algorithm::Sha256, &content());
        if given {
            let link = Link::of(ChildKind::Blob, Some(BLOB_BYTES as u64)).given();
            store
                .metadata()
                .record_links(&source(), vec![(digest, link)])
                .await;
        }
        Self {
            mirror: Mirror::among(
                parts,
                Beside {
                    sources: peers.collect(),
                    ..Beside::default()
                },
            ),
            store,
            digest,
            _dir: dir,
        }
    }

    async fn ask(&self, range: Option<ByteRange>) -> Result<BlobAnswer, MirrorError> {
        self.mirror.blob(&source(), &self.digest, range).await
    }

    /// Reads all of it, to its clean end.
    async fn pull(&self) -> Result<Vec<u8>, MirrorError> {
        let mut reader = self.ask(None).await?.reader(None);
        let mut all = Vec::new();
        while let Some(bytes) = reader.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }
}

/// An address that nothing listens at.
const NOWHERE: &str = "http://127.0.0.1:9";

#[tokio::test]
async fn a_source_that_has_all_of_a_blob_fills_it_without_the_upstream() {
    let peer = Peer::new(Act::Gives);
    let world = World::new(NOWHERE, &[&peer], true).await;
    assert_eq!(world.pull().await.unwrap(), content());
    assert_eq!(peer.reads(), 1);
    assert_eq!(world.pull().await.unwrap(), content());
    assert_eq!(peer.reads(), 1, "it is stored");
}

#[tokio::test]
async fn a_source_that_dies_or_stalls_is_left_and_an_endpoint_goes_on_at_the_byte_reached() {
    for at in [0, 1, PIECE_BYTES, 100_001, BLOB_BYTES - 1] {
        for act in [Act::DiesAt(at), Act::StallsAt(at), Act::EndsAt(at)] {
            let peer = Peer::new(act);
            let registry = Registry::start(true).await;
            let world = World::new(&registry.url(), &[&peer], true).await;
            let mut stored = world.store.events().subscribe(EventKinds::BLOB_STORED);
            let readers = [world.pull(), world.pull(), world.pull()];
            for read in future::join_all(readers).await {
                assert_eq!(read.unwrap(), content(), "{act:?}");
            }
            let gets = registry.gets();
            assert!(gets.starts_with(&[at as u64]), "{act:?}: {gets:?}");
            assert_eq!(gets.len(), 1, "{act:?}");
            let event = Event::BlobStored {
                digest: world.digest,
                size: BLOB_BYTES as u64,
            };
            assert_eq!(stored.next().await, Some(Heard::Event(event)));
        }
    }
}

#[tokio::test]
async fn wrong_bytes_of_a_source_reach_no_reader_as_a_whole_and_an_endpoint_gives_it_all() {
    let peer = Peer::new(Act::GivesWrongBytes);
    let registry = Registry::start(true).await;
    let world = World::new(&registry.url(), &[&peer], true).await;
    // Its end is held back until the digest is right: what it read before was wrong, and it is cut off.
    let first = world.pull().await;
    assert!(first.is_err() || first.is_ok_and(|all| all == content()));
    assert_eq!(world.pull().await.unwrap(), content());
    assert!(registry.gets().contains(&0), "{:?}", registry.gets());
    assert_eq!(*peer.distrusted.lock().unwrap(), [world.digest]);
    assert_eq!(peer.reads(), 1);
}

#[tokio::test]
async fn a_source_that_is_of_no_use_costs_nothing_but_its_answer() {
    for act in [
        Act::Lacks,
        Act::SaysAnotherSize,
        Act::SaysNothing,
        Act::Refuses,
        Act::AnswersNothing,
        Act::GivesEmptyPieces,
        Act::GivesAnotherPart,
    ] {
        let peer = Peer::new(act);
        let registry = Registry::start(true).await;
        let world = World::new(&registry.url(), &[&peer], true).await;
        assert_eq!(world.pull().await.unwrap(), content(), "{act:?}");
        assert_eq!(registry.gets(), [0], "{act:?}");
        assert!(peer.reads() <= 1, "{act:?}");
    }
}

#[tokio::test]
async fn of_several_sources_the_next_one_goes_on() {
    let (dies, gives) = (Peer::new(Act::DiesAt(70_000)), Peer::new(Act::Gives));
    let world = World::new(NOWHERE, &[&dies, &gives], true).await;
    assert_eq!(world.pull().await.unwrap(), content());
    assert_eq!((dies.reads(), gives.reads()), (1, 1));
}

#[tokio::test]
async fn what_the_upstream_does_not_have_is_not_served_from_another_source() {
    let peer = Peer::new(Act::Gives);
    let registry = Registry::start(false).await;
    let world = World::new(&registry.url(), &[&peer], false).await;
    let refused = world.pull().await.unwrap_err();
    assert!(refused.is_unknown(), "{refused}");
    assert_eq!(peer.reads(), 0);
}

#[tokio::test]
async fn the_upstreams_word_is_asked_for_before_another_source() {
    let peer = Peer::new(Act::Gives);
    let registry = Registry::start(true).await;
    let world = World::new(&registry.url(), &[&peer], false).await;
    assert_eq!(world.pull().await.unwrap(), content());
    assert_eq!(peer.reads(), 1);
    assert!(registry.gets().is_empty(), "a HEAD alone");
}

#[tokio::test]
async fn a_part_is_read_from_a_source_and_what_it_fails_to_give_from_an_endpoint() {
    for act in [Act::Gives, Act::DiesAt(210_000)] {
        let peer = Peer::new(act);
        let registry = Registry::start(true).await;
        let world = World::new(&registry.url(), &[&peer], true).await;
        let asked = ByteRange::Between(200_000, 249_999);
        let answer = world.ask(Some(asked)).await.unwrap();
        let mut reader = answer.reader(Some(200_000..250_000));
        let mut read = Vec::new();
        while let Some(bytes) = reader.next().await.unwrap() {
            read.extend_from_slice(&bytes);
        }
        assert_eq!(read, content()[200_000..250_000], "{act:?}");
    }
}
