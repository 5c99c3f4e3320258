//! Big blobs on several connections, and transfers that break.

use crate::common::fake_log::Counters;
use crate::common::images::{self, Blob};
use crate::common::{Dialect, FakeRegistry, Fault, Kind, Mirror, MirrorBuilder, Rule};
use http::Method;
use roadstead::upstream::{self, EndpointConfig, Parallel};

const MIB: usize = 1 << 20;
const SIZE: usize = 8 * MIB;
const TAIL: usize = 64 * 1024;

struct World {
    registries: Vec<FakeRegistry>,
    mirror: Mirror,
    blob: Blob,
    path: String,
}

/// Small blobs count as big here: pieces of one MiB on four connections.
fn small_pieces(upstream: &mut upstream::Config) {
    upstream.parallel = Parallel {
        connections: 4,
        above: MIB as u64,
        segment_size: MIB as u64,
    };
}

/// A mirror of one upstream with so many endpoints, which knows the image but not yet its layer.
async fn world(endpoints: usize) -> World {
    let mut registries = Vec::new();
    let image = images::image(31, &[SIZE], Dialect::Oci);
    for _ in 0..endpoints {
        let registry = FakeRegistry::start().await;
        registry.put_image("team/app", Some("v1"), &image);
        registries.push(registry);
    }
    let first = MirrorBuilder::new().upstream("docker.io", &registries[0], |upstream| {
        upstream.default = true;
        small_pieces(upstream);
        for registry in &registries[1..] {
            let url = registry.url().parse().unwrap();
            upstream.endpoints.push(EndpointConfig::at(url));
        }
    });
    let mirror = first.start().await;
    mirror
        .get("/v2/team/app/manifests/v1")
        .await
        .assert_bytes(200, &image.manifest.bytes);
    for registry in &registries {
        registry.reset();
    }
    let blob = image.layers[0].clone();
    let path = format!("/v2/team/app/blobs/{}", blob.digest);
    World {
        registries,
        mirror,
        blob,
        path,
    }
}

impl World {
    fn registry(&self) -> &FakeRegistry {
        &self.registries[0]
    }

    fn sent(&self) -> usize {
        let sent = self
            .registries
            .iter()
            .map(|r| r.counters().sent(&self.blob.digest));
        usize::try_from(sent.sum::<u64>()).unwrap()
    }

    async fn pull(&self, what: &str) {
        let answer = self.mirror.get(&self.path).await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        answer.assert_bytes(200, &self.blob.bytes);
        self.mirror.wait_for_fills().await;
        assert!(
            self.mirror.blob_path(&self.blob.digest).exists(),
            "{what}: not stored"
        );
    }
}

/// The ranges asked for, sorted.
fn ranges(counters: &Counters) -> Vec<String> {
    let blobs = counters
        .records
        .iter()
        .filter(|r| r.kind == Kind::Blob && r.method == Method::GET);
    let mut ranges: Vec<_> = blobs.map(|r| r.header("range").to_owned()).collect();
    ranges.sort();
    ranges
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_big_blob_comes_on_several_connections_each_byte_once() {
    let world = world(1).await;
    let gate = world.registry().gate(&world.blob.digest);
    let mut reader = world.mirror.open(&world.path).await;
    let asked = |n: usize| move |c: &Counters| c.of(&Method::GET, Kind::Blob) >= n;
    world
        .registry()
        .wait_for("the first piece to be asked for", asked(1))
        .await;
    gate.release(TAIL);
    world
        .registry()
        .wait_for("four pieces under way", asked(4))
        .await;
    gate.open();
    let all = reader.exactly(SIZE).await;
    assert!(all == world.blob.bytes, "other bytes");
    reader.assert_rest_equals(b"").await;
    let counters = world.registry().counters();
    let expected: Vec<_> = (0..8)
        .map(|i| format!("bytes={}-{}", i * MIB, (i + 1) * MIB - 1))
        .map(|range| range.replace(&format!("-{}", SIZE - 1), "-"))
        .collect();
    assert_eq!(ranges(&counters), expected);
    assert_eq!(world.sent(), SIZE, "each byte once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_without_range_is_used_on_one_connection() {
    let world = world(1).await;
    world.registry().options(|options| options.ranges = false);
    world.pull("no range").await;
    assert_eq!(world.registry().counters().of(&Method::GET, Kind::Blob), 1);
    assert_eq!(world.sent(), SIZE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_cut_at_any_interesting_byte_is_gone_on_with() {
    let edges = [
        0,
        1,
        MIB - 1,
        MIB,
        MIB + 1,
        3 * MIB + 4567,
        SIZE - TAIL - 1,
        SIZE - TAIL,
        SIZE - TAIL + 1,
        SIZE - 1,
    ];
    for at in edges {
        let world = world(1).await;
        let rule = Rule::gets(Kind::Blob).of(&world.blob.digest).times(1);
        world.registry().fault(rule.containing(at), Fault::Cut(at));
        world.pull(&format!("cut at {at}")).await;
        // What was on its way when the connection was cut may come twice.
        assert!(
            world.sent() <= SIZE + MIB,
            "cut at {at}: {} bytes",
            world.sent()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_range_a_broken_transfer_starts_again_and_nobody_notices() {
    let world = world(1).await;
    world.registry().options(|options| options.ranges = false);
    let rule = Rule::gets(Kind::Blob).times(2);
    world.registry().fault(rule, Fault::Cut(SIZE / 2));
    world.pull("restarted").await;
    assert_eq!(world.registry().counters().of(&Method::GET, Kind::Blob), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_endpoint_takes_over_in_mid_blob() {
    let world = world(2).await;
    let rule = Rule::gets(Kind::Blob);
    world.registries[0].fault(rule, Fault::Cut(3 * MIB + 5));
    world.pull("taken over").await;
    assert!(world.registries[1].counters().sent(&world.blob.digest) > 0);
    assert!(world.sent() <= SIZE + 4 * MIB, "{} bytes", world.sent());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_of_one_endpoint_are_replaced_by_anothers() {
    // In the tail nobody has been given them.
    let world = world(2).await;
    world.registries[0].fault(Rule::gets(Kind::Blob), Fault::Flip(SIZE - 100));
    world.pull("flipped in the tail").await;
    // The liar is not asked for this blob again.
    assert!(world.registries[1].counters().sent(&world.blob.digest) >= SIZE as u64);
    assert!(world.sent() <= 2 * SIZE + MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_who_were_given_wrong_bytes_are_broken_off_and_others_are_not() {
    let world = world(2).await;
    world.registries[0].fault(Rule::gets(Kind::Blob), Fault::Flip(10));
    let answer = world.mirror.get(&world.path).await;
    answer.assert_no_clean_success();
    world.pull("afterwards").await;
}
