//! Made-up pulls: images of shared layers, asked for by a fleet, by CI and by scanners.

use roadstead::clock::Timestamp;

use crate::replay::Request;

const MINUTE_MS: u64 = 60 * 1000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;
const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;

/// What happens in a trace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) days: u64,
    pub(crate) repositories: usize,
    pub(crate) pulls_a_day: u64,
    /// Repositories get new versions.
    pub(crate) releases: bool,
    /// Pulls of each night's CI.
    pub(crate) ci_a_night: u64,
    /// Days between two scans of everything; 0 for none.
    pub(crate) scan_every: u64,
}

/// The shapes compared, `days` long.
pub(crate) fn shapes(days: u64) -> [Shape; 5] {
    let zipf = Shape {
        name: "zipf",
        days,
        repositories: 400,
        pulls_a_day: 300,
        releases: false,
        ci_a_night: 0,
        scan_every: 0,
    };
    let releases = Shape {
        name: "releases",
        releases: true,
        ..zipf
    };
    let ci = Shape {
        name: "ci",
        pulls_a_day: 150,
        ci_a_night: 150,
        ..releases
    };
    let scans = Shape {
        name: "scans",
        scan_every: 7,
        ..releases
    };
    let mixed = Shape {
        name: "mixed",
        scan_every: 7,
        ..ci
    };
    [zipf, releases, ci, scans, mixed]
}

/// A generator of numbers that is the same everywhere and for ever: `SplitMix64`.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap_or(0)
    }

    /// From 0 to below 1.
    #[expect(
        clippy::cast_precision_loss,
        reason = "53 bits are what a double holds"
    )]
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    /// Log-normal: half are smaller than `median`, a sixth larger than `median × e^sigma`.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive size, clamped"
    )]
    fn size(&mut self, median: f64, sigma: f64) -> u64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.unit()).cos();
        (median * (sigma * normal).exp()).clamp(200.0, 8.0 * KIB * MIB) as u64
    }
}

#[derive(Clone, Copy)]
struct Layer {
    blob: u32,
    size: u64,
}

/// What an image is built upon: the layers of a distribution, and a language's on top.
#[derive(Clone)]
struct Family {
    base: usize,
    layers: Vec<Layer>,
}

struct Repository {
    family: usize,
    large: bool,
    /// The versions' own blobs (manifest, configuration, layers), newest last.
    versions: Vec<Vec<Layer>>,
    /// The chance of a new version on a day.
    releases: f64,
}

/// All that is pulled, and who asked for it.
struct World {
    random: Random,
    blobs: u32,
    bases: Vec<Vec<Layer>>,
    families: Vec<Family>,
    repositories: Vec<Repository>,
    /// Sums of the repositories' shares of the pulls, by Zipf's law with exponent 0.9.
    popularity: Vec<f64>,
    requests: Vec<Request>,
}

/// The requests of a trace, in order of time.
pub(crate) fn generate(shape: Shape, seed: u64) -> Vec<Request> {
    let mut world = World::new(shape, seed);
    for day in 0..shape.days {
        world.day(shape, day);
    }
    world.requests.sort_by_key(|request| request.at);
    world.requests
}

impl World {
    fn new(shape: Shape, seed: u64) -> Self {
        let mut world = Self {
            random: Random::new(seed),
            blobs: 0,
            bases: Vec::new(),
            families: Vec::new(),
            repositories: Vec::new(),
            popularity: Vec::new(),
            requests: Vec::new(),
        };
        for _ in 0..20 {
            let layers = world.layers(2, 40.0 * MIB, 0.8);
            world.bases.push(layers);
        }
        for _ in 0..60 {
            let base = world.random.index(20);
            let layers = world.layers(2, 50.0 * MIB, 1.0);
            world.families.push(Family { base, layers });
        }
        let mut sum = 0.0;
        for rank in 1..=shape.repositories {
            #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
            let part = (rank as f64).powf(-0.9);
            sum += part;
            world.popularity.push(sum);
            let family = world.random.index(60);
            let large = world.random.chance(0.03);
            // From twice a week to never: most images change rarely.
            let releases = 0.3 * world.random.unit().powi(3);
            world.repositories.push(Repository {
                family,
                large,
                versions: Vec::new(),
                releases,
            });
            world.release(rank - 1);
        }
        world
    }

    fn day(&mut self, shape: Shape, day: u64) {
        let start = day * DAY_MS;
        if shape.releases {
            for repository in 0..self.repositories.len() {
                let chance = self.repositories[repository].releases;
                if self.random.chance(chance) {
                    self.release(repository);
                }
            }
            // Security fixes: a distribution's layers are replaced once in six weeks.
            for base in 0..self.bases.len() {
                if self.random.chance(1.0 / 42.0) {
                    self.bases[base] = self.layers(2, 40.0 * MIB, 0.8);
                }
            }
        }
        for _ in 0..shape.pulls_a_day {
            let repository = self.popular();
            // A rollout: several nodes within some minutes.
            let nodes = 1 + self.random.below(4);
            let at = start + self.random.below(DAY_MS);
            let back = usize::from(self.random.chance(0.1));
            for node in 0..nodes {
                self.pull(repository, back, at + node * 90_000);
            }
        }
        self.ci(shape, start + 2 * 60 * MINUTE_MS);
        if shape.scan_every > 0 && day % shape.scan_every == shape.scan_every - 1 {
            let at = start + 4 * 60 * MINUTE_MS;
            for (number, repository) in (0..).zip(0..self.repositories.len()) {
                for back in 0..3 {
                    self.pull(repository, back, at + number * 30_000);
                }
            }
        }
    }

    /// A night of CI: a few images of tools, and what was built just now, which is asked for once
    /// or twice and never again.
    fn ci(&mut self, shape: Shape, start: u64) {
        for _ in 0..shape.ci_a_night {
            let at = start + self.random.below(2 * 60 * MINUTE_MS);
            let tool = self.random.index(12).min(self.random.index(12));
            self.pull(tool * 7 % self.repositories.len(), 0, at);
            let mut built = self.own_blobs(false);
            let family = self.random.index(60);
            built.extend(self.shared(family));
            for again in 0..=self.random.below(2) {
                self.ask(&built, at + again * 20 * MINUTE_MS);
            }
        }
    }

    fn pull(&mut self, repository: usize, back: usize, at: u64) {
        let family = self.repositories[repository].family;
        let versions = &self.repositories[repository].versions;
        let mut blobs = versions[versions.len().saturating_sub(1 + back)].clone();
        blobs.extend(self.shared(family));
        self.ask(&blobs, at);
    }

    /// The layers below an image that a node does not have already: most nodes have most.
    fn shared(&mut self, family: usize) -> Vec<Layer> {
        let Family { base, layers } = self.families[family].clone();
        let mut wanted = self.bases[base].clone();
        wanted.extend(layers);
        wanted.retain(|_| self.random.chance(0.4));
        wanted
    }

    fn ask(&mut self, blobs: &[Layer], at: u64) {
        for (number, layer) in (0..).zip(blobs) {
            self.requests.push(Request {
                at: Timestamp(at + number * 200),
                blob: layer.blob,
                size: layer.size,
            });
        }
    }

    fn release(&mut self, repository: usize) {
        let large = self.repositories[repository].large;
        let blobs = self.own_blobs(large);
        self.repositories[repository].versions.push(blobs);
    }

    /// A manifest, a configuration and one to four layers; of a large image two of gigabytes.
    fn own_blobs(&mut self, large: bool) -> Vec<Layer> {
        let mut blobs = self.layers(1, 2.0 * KIB, 0.3);
        blobs.extend(self.layers(1, 8.0 * KIB, 0.5));
        let count = 1 + self.random.below(4);
        blobs.extend(self.layers(count, 8.0 * MIB, 1.5));
        if large {
            blobs.extend(self.layers(2, 1500.0 * MIB, 0.5));
        }
        blobs
    }

    fn layers(&mut self, count: u64, median: f64, sigma: f64) -> Vec<Layer> {
        let mut layers = Vec::new();
        for _ in 0..count {
            let size = self.random.size(median, sigma);
            layers.push(Layer {
                blob: self.blobs,
                size,
            });
            self.blobs += 1;
        }
        layers
    }

    fn popular(&mut self) -> usize {
        let all = self.popularity.last().copied().unwrap_or_default();
        let at = self.random.unit() * all;
        let rank = self.popularity.partition_point(|sum| *sum <= at);
        // Rounding may lead one past the end.
        rank.min(self.popularity.len() - 1)
    }
}
