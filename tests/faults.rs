//! Random scripts of faults: whatever upstreams do, a client gets the exact bytes, an unclean end or an
//! error status, and gets it within a bound.
//!
//! The seed is printed and can be set (`FAULT_SEED`), as can the number of pulls (`FAULT_PULLS`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test says what it expects by failing, owns its files and tasks, and prints its seed"
)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::images::{Blob, Dialect};
use common::{Asked, Ending, FakeRegistry, Fault, Kind, Mirror, MirrorBuilder, Rule, images};
use roadstead::upstream::{EndpointConfig, Parallel};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Pulls when nothing else is said; the continuous integration asks for ten thousand.
const PULLS: usize = 1200;
/// Clients that want the same blob at once.
const CLIENTS: usize = 4;
/// Blobs under way at once.
const WORKERS: usize = 8;
const PIECE: usize = 48 * 1024;
const SIZE_MAX: usize = 400 * 1024;
/// Nobody waits longer than this: the retries of a fill with the short limits used here.
const PULL_MAX: Duration = Duration::from_secs(100);
/// What may be on its way when a connection is given up, for each fault.
const LOST_PER_FAULT: usize = PIECE;
/// The faults by which upstream gives wrong bytes for right ones.
const FALSIFYING: [&str; 3] = ["flip", "lie about range", "other range"];

/// splitmix64 (Steele, Lea, Flood 2014): small, and good enough to choose faults.
#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// One way in which something goes wrong, and its name in the summary.
fn fault(dice: &mut Dice, size: usize, honest: bool) -> (&'static str, Rule, Fault) {
    let at = dice.below(size + 1);
    let blob = Rule::gets(Kind::Blob);
    let answer = |status, name: &'static str, value: &str| Fault::Answer {
        status,
        headers: vec![(name, value.to_owned())],
        body: String::new(),
    };
    // The first ones leave what is sent as it is: it comes late, in part or not at all.
    match dice.below(if honest { 9 } else { 14 }) {
        0 | 1 => ("cut", blob.asking(Asked::Containing(at)), Fault::Cut(at)),
        2 => ("cut at an edge", blob, Fault::Cut(at / PIECE * PIECE)),
        3 => (
            "cut in the tail",
            blob,
            Fault::Cut(size - dice.below(size.min(70_000) + 1)),
        ),
        4 => (
            "stall",
            blob.asking(Asked::Containing(at)),
            Fault::Stall(at),
        ),
        5 => (
            "range limit",
            blob.ranged(),
            Fault::RangeLimit(1 + dice.below(PIECE)),
        ),
        6 => ("500", blob, Fault::Status(500)),
        7 => ("429", blob, answer(429, "retry-after", "0")),
        8 => ("404", blob, Fault::Status(404)),
        9 => (
            "flip",
            blob.asking(Asked::Containing(at.min(size - 1))),
            Fault::Flip(at.min(size - 1)),
        ),
        10 => ("ignore range", blob.ranged(), Fault::IgnoreRange),
        11 => ("lie about range", blob.ranged(), Fault::LieRange),
        12 => ("other range", blob.ranged(), Fault::OtherRange),
        _ => ("short", blob, Fault::Short(at)),
    }
}

struct World {
    /// Whether its upstreams send right bytes, when they send any.
    honest: bool,
    registries: Vec<FakeRegistry>,
    mirror: Mirror,
}

async fn world(honest: bool) -> World {
    let registries = vec![FakeRegistry::start().await, FakeRegistry::start().await];
    let mirror = MirrorBuilder::new()
        .upstream("docker.io", &registries[0], |upstream| {
            upstream.default = true;
            upstream.header_timeout = Duration::from_secs(2);
            upstream.idle_timeout = Duration::from_millis(800);
            upstream.parallel = Parallel {
                connections: 3,
                above: PIECE as u64,
                segment_size: PIECE as u64,
            };
            let url = registries[1].url().parse().unwrap();
            upstream.endpoints.push(EndpointConfig::at(url));
        })
        .start()
        .await;
    World {
        honest,
        registries,
        mirror,
    }
}

/// What happened, counted.
#[derive(Debug, Default)]
struct Summary {
    pulls: usize,
    /// The scripts' faults, and how many of them were met: some are for requests that nobody makes.
    faults_met: usize,
    faults: BTreeMap<&'static str, usize>,
    outcomes: BTreeMap<String, usize>,
    blobs: usize,
    bytes: u64,
    upstream_bytes: u64,
}

impl Summary {
    fn add(&mut self, other: Self) {
        self.pulls += other.pulls;
        self.faults_met += other.faults_met;
        self.blobs += other.blobs;
        self.bytes += other.bytes;
        self.upstream_bytes += other.upstream_bytes;
        for (name, count) in other.faults {
            *self.faults.entry(name).or_default() += count;
        }
        for (name, count) in other.outcomes {
            *self.outcomes.entry(name).or_default() += count;
        }
    }
}

/// One script: a new image, a few faults on its layer, several clients at once.
async fn script(world: Arc<World>, seed: u64) -> Summary {
    let mut dice = Dice(seed);
    let size = 1 + dice.below(SIZE_MAX);
    let image = images::image(seed, &[size], Dialect::Oci);
    let layer = image.layers[0].clone();
    let repository = format!("team/app{seed:x}");
    for registry in &world.registries {
        registry.put_image(&repository, Some("v1"), &image);
    }
    let mut summary = Summary {
        blobs: 1,
        bytes: size as u64,
        ..Summary::default()
    };
    let mut planned = 0;
    let mut falsified = false;
    for _ in 0..dice.below(5) {
        let (name, rule, fault) = fault(&mut dice, size, world.honest);
        let times = 1 + dice.below(3);
        planned += times;
        falsified |= FALSIFYING.contains(&name);
        *summary.faults.entry(name).or_default() += times;
        let registry = &world.registries[dice.below(2)];
        registry.fault(rule.of(&layer.digest).times(times), fault);
    }
    let known = !dice.one_in(4);
    if known {
        let manifest = world
            .mirror
            .get(&format!("/v2/{repository}/manifests/v1"))
            .await;
        assert_eq!(manifest.status, 200, "seed {seed:x}: {}", manifest.text());
    }
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (world, layer, dice) = (Arc::clone(&world), layer.clone(), Dice(dice.next()));
        let path = format!("/v2/{repository}/blobs/{}", layer.digest);
        clients
            .spawn(async move { pull(&world.mirror, &path, &layer, dice, falsified, seed).await });
    }
    while let Some(outcome) = clients.join_next().await {
        summary.pulls += 1;
        *summary.outcomes.entry(outcome.unwrap()).or_default() += 1;
    }
    summary.faults_met = check_cost(&world, &layer, planned, known, seed);
    for registry in &world.registries {
        summary.upstream_bytes += registry.counters().sent(&layer.digest);
        registry.forget(&layer.digest);
    }
    summary
}

/// One client, and the name of what it got.
async fn pull(
    mirror: &Mirror,
    path: &str,
    layer: &Blob,
    mut dice: Dice,
    falsified: bool,
    seed: u64,
) -> String {
    let begin = Instant::now();
    let size = layer.bytes.len();
    let from = dice.below(size);
    let to = from + dice.below(size - from);
    let range = dice.one_in(4).then(|| format!("bytes={from}-{to}"));
    let expected = layer.bytes.slice(from..=to);
    let headers: Vec<(&str, &str)> = range.iter().map(|r| ("range", r.as_str())).collect();
    let asked = tokio::time::timeout(PULL_MAX, mirror.get_with(path, &headers));
    let answer = asked
        .await
        .unwrap_or_else(|_| panic!("seed {seed:x}: a hang"));
    let what = format!(
        "seed {seed:x}, {range:?}, {size} bytes, after {:?}",
        begin.elapsed()
    );
    match (answer.status, answer.ending) {
        (200 | 206, Ending::Clean) => {
            let expected = if answer.status == 200 {
                &layer.bytes
            } else {
                &expected
            };
            if answer.body == *expected {
                return "exact".to_owned();
            }
            // Nothing but the whole can be checked, and a range that ends before the blob does is not
            // kept waiting for it: its bytes are upstream's word.
            let inner = answer.status == 206 && to + 1 < size;
            assert!(inner && falsified, "{what}: a clean end of wrong bytes");
            assert_eq!(answer.body.len(), expected.len(), "{what}");
            "a range as upstream sent it".to_owned()
        }
        (200 | 206, Ending::Broken) => "broken".to_owned(),
        (status @ 400..600, _) => status.to_string(),
        (status, _) => panic!("{what}: status {status}"),
    }
}

/// Upstream sent each byte once, and what the faults cost: of so many.
fn check_cost(world: &World, layer: &Blob, planned: usize, known: bool, seed: u64) -> usize {
    let sent: u64 = world
        .registries
        .iter()
        .map(|r| r.counters().sent(&layer.digest))
        .sum();
    let left: usize = world
        .registries
        .iter()
        .map(|r| r.faults_left(&layer.digest))
        .sum();
    let met = planned - left;
    let size = layer.bytes.len();
    let of_one = if world.honest && known {
        LOST_PER_FAULT
    } else if world.honest {
        // All on one connection, which may have had much of it on its way.
        size
    } else {
        // Wrong bytes cost those of two endpoints, and without ranges each beginning is one from the start.
        2 * size + LOST_PER_FAULT
    };
    // What an endpoint did with the ranges of another script's blob is remembered against it: a transfer that is under
    // way just then begins again with the whole, once for each endpoint.
    let taught = if world.honest {
        0
    } else {
        world.registries.len() * size
    };
    let most = (size + met * of_one + taught) as u64;
    assert!(
        sent <= most,
        "seed {seed:x}: {sent} bytes of {size} sent, {met} faults met"
    );
    met
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_never_end_in_a_clean_wrong_body() {
    let number = |name: &str, default: u64| {
        let text = std::env::var(name).ok();
        text.map_or(default, |text| text.parse().expect("a whole number"))
    };
    let seed = number("FAULT_SEED", u64::from(std::process::id()));
    let pulls = usize::try_from(number("FAULT_PULLS", PULLS as u64)).unwrap();
    // One script again and again, by the seed that its failure printed.
    let only = std::env::var("FAULT_SCRIPT").ok();
    let only = only.map(|hex| u64::from_str_radix(&hex, 16).expect("a script's seed, in hex"));
    eprintln!("FAULT_SEED={seed} FAULT_PULLS={pulls}");
    let worlds = [Arc::new(world(true).await), Arc::new(world(false).await)];
    let mut dice = Dice(seed);
    let mut total = Summary::default();
    let mut running = JoinSet::new();
    let mut begun = 0;
    while begun < pulls || !running.is_empty() {
        if begun < pulls && running.len() < WORKERS {
            begun += CLIENTS;
            let seed = only.unwrap_or_else(|| dice.next());
            let world = &worlds[usize::from(seed & 1 == 1)];
            running.spawn(script(Arc::clone(world), seed));
        } else if let Some(done) = running.join_next().await {
            total.add(done.unwrap());
        }
    }
    eprintln!("{total:#?}");
    assert_eq!(total.pulls, begun);
    let exact = total.outcomes.get("exact").copied().unwrap_or_default();
    assert!(
        exact * 2 > total.pulls,
        "most faults are survived: {total:?}"
    );
}
