//! Endpoints that do not have the same: whom to believe about a blob.

use crate::common::images::{self, Blob};
use crate::common::{Dialect, FakeRegistry, Fault, Kind, Mirror, MirrorBuilder, Rule};
use roadstead::upstream::{EndpointConfig, Parallel};

const MIB: usize = 1 << 20;
const SIZE: usize = 6 * MIB;

struct World {
    registries: Vec<FakeRegistry>,
    mirror: Mirror,
    blob: Blob,
    path: String,
}

/// Two endpoints with the same image; pieces of one MiB. Whether the manifest has been seen, and the
/// size with it, is for the test to say.
async fn world(connections: usize, known: bool) -> World {
    let image = images::image(41, &[SIZE], Dialect::Oci);
    let mut registries = Vec::new();
    for _ in 0..2 {
        let registry = FakeRegistry::start().await;
        registry.put_image("team/app", Some("v1"), &image);
        registries.push(registry);
    }
    let builder = MirrorBuilder::new().upstream("docker.io", &registries[0], |upstream| {
        upstream.default = true;
        upstream.parallel = Parallel {
            connections,
            above: MIB as u64,
            segment_size: MIB as u64,
        };
        let second = registries[1].url().parse().unwrap();
        upstream.endpoints.push(EndpointConfig::at(second));
    });
    let mirror = builder.start().await;
    if known {
        let manifest = mirror.get("/v2/team/app/manifests/v1").await;
        manifest.assert_bytes(200, &image.manifest.bytes);
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
    fn fault(&self, endpoint: usize, rule: Rule, fault: Fault) {
        self.registries[endpoint].fault(rule.of(&self.blob.digest), fault);
    }

    fn sent(&self, endpoint: usize) -> usize {
        let counters = self.registries[endpoint].counters();
        usize::try_from(counters.sent(&self.blob.digest)).unwrap()
    }

    /// A pull that may fail, but not end cleanly with something else.
    async fn try_pull(&self) {
        let answer = self.mirror.get(&self.path).await;
        if answer.status == 200 && answer.ending == crate::common::Ending::Clean {
            answer.assert_bytes(200, &self.blob.bytes);
        }
        self.mirror.wait_for_fills().await;
    }

    async fn pull(&self, what: &str) {
        let answer = self.mirror.get(&self.path).await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        answer.assert_bytes(200, &self.blob.bytes);
        self.mirror.wait_for_fills().await;
        let file = std::fs::metadata(self.mirror.blob_path(&self.blob.digest));
        assert_eq!(file.unwrap().len(), SIZE as u64, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_copy_with_a_matching_length_costs_one_pull() {
    let world = world(1, false).await;
    world.fault(0, Rule::gets(Kind::Blob), Fault::Short(SIZE / 2));
    world.try_pull().await;
    world.pull("the second pull").await;
    assert!(world.sent(1) >= SIZE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_longer_copy_is_left_for_the_other_endpoint() {
    for (known, chunked) in [(true, true), (true, false), (false, true), (false, false)] {
        let world = world(1, known).await;
        world.registries[0].options(|options| options.content_length = !chunked);
        world.fault(0, Rule::gets(Kind::Blob), Fault::Long(MIB));
        if !known {
            world.try_pull().await;
        }
        world
            .pull(&format!("known {known}, chunked {chunked}"))
            .await;
        // Where nobody announced another length, what came first was right.
        assert_eq!(
            world.sent(1) >= SIZE,
            !(known && chunked),
            "known {known}, chunked {chunked}: {} bytes",
            world.sent(1)
        );
    }
}

/// A gave most of it, a byte of that wrong, and is gone: B has all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_believed_and_gone_does_not_take_the_blob_along() {
    let world = world(1, true).await;
    let blob = Rule::gets(Kind::Blob);
    let at = 4 * MIB;
    let mut wrong = world.blob.bytes.to_vec();
    wrong[at - 10] ^= 1;
    world.registries[0].put_bytes("team/app", &world.blob.digest, wrong.into());
    world.fault(0, blob.clone().times(1), Fault::Cut(at));
    world.fault(0, blob, Fault::Status(500));
    world.try_pull().await;
    world.pull("from the other one").await;
    assert!(world.sent(1) >= SIZE);
    let requests = world.registries[0].counters().blob_gets(&world.blob.digest);
    assert!(requests < 60, "{requests} requests");
}

/// A's content is right, but not its ranges; B's content is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_that_lie_are_forgiven_to_whoever_has_the_content() {
    let world = world(3, true).await;
    world.fault(0, Rule::gets(Kind::Blob).ranged(), Fault::LieRange);
    world.fault(1, Rule::gets(Kind::Blob), Fault::Flip(SIZE / 3));
    world.try_pull().await;
    world.pull("afterwards").await;
}

/// One broken connection is no reason to begin at the first byte again elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resume_prefers_whoever_has_ranges() {
    let world = world(1, true).await;
    world.registries[1].options(|options| options.ranges = false);
    // That the second has none is found out by a first blob.
    world.fault(0, Rule::gets(Kind::Blob).times(1), Fault::Status(404));
    let rule = Rule::gets(Kind::Blob).times(1);
    world.fault(1, rule, Fault::Cut(MIB));
    world.pull("resumed").await;
    assert!(world.sent(0) >= SIZE - MIB);
    assert!(world.sent(1) <= MIB, "{}", world.sent(1));
}

/// What a client takes late is what the file has then: bytes that were replaced meanwhile. It may not have the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_gets_no_clean_mix() {
    for at in [10, 2 * MIB, SIZE - 10] {
        let world = world(1, true).await;
        world.fault(0, Rule::gets(Kind::Blob), Fault::Flip(at));
        let mut slow = world.mirror.open(&world.path).await;
        let first = slow.exactly(100).await;
        world.mirror.wait_for_fills().await;
        let stored = std::fs::read(world.mirror.blob_path(&world.blob.digest)).unwrap();
        assert!(stored == world.blob.bytes, "the other endpoint is right");
        let (rest, ending) = slow.rest().await;
        let all = [first, rest].concat();
        if ending == crate::common::Ending::Clean {
            assert!(all == world.blob.bytes, "{at}: a clean wrong end");
        } else {
            assert!(all.len() <= SIZE - 64 * 1024, "{at}: it has the end");
        }
        world.pull("afterwards").await;
    }
}
