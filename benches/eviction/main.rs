//! Which eviction policy a mirror should have: the store's own ledger under recorded or made-up pulls.
//!
//! ```text
//! cargo bench --bench eviction                        made-up traces, the seed printed
//! cargo bench --bench eviction -- --seed 7
//! cargo bench --bench eviction -- --cluster           three nodes beside one with all their disks
//! cargo bench --bench eviction -- --log access.log    what a roadstead served: its log, text or JSON
//! cargo test --bench eviction                         short traces, and what must hold of all of them
//! ```
//!
//! The same seed gives the same table. docs/eviction.md tells what is compared and
//! what came of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark is a test: it says what it expects by failing, and prints"
)]

mod cluster;
mod log;
mod policies;
mod replay;
mod trace;

use policies::{IdleBy, LfuAging, S3Fifo, Segmented, SizeFrequency, SizeWeighted};
use replay::{Request, Score};
use roadstead::store::evict::IdleByUses;
use roadstead::store::evict::policy::LeastRecent;

/// Where nobody names another.
const SEED: u64 = 4;

/// The length of the made-up traces.
const DAYS: u64 = 60;

/// Sizes of the store, in percent of all that is asked for.
const SIZES: [u64; 4] = [5, 10, 25, 50];

type Run = fn(&[Request], u64) -> Score;

/// What is compared: its name, whether it can be had without knowing the future, and how.
const ROWS: [(&str, bool, Run); 13] = [
    ("LRU (before)", true, |trace, max| {
        replay::replay::<LeastRecent>(trace, max, false)
    }),
    ("idle / uses (kept)", true, |trace, max| {
        replay::replay::<IdleByUses>(trace, max, false)
    }),
    ("  restarted daily", true, |trace, max| {
        replay::replay::<IdleByUses>(trace, max, true)
    }),
    ("  uses up to 2", true, |trace, max| {
        replay::replay::<IdleBy<2>>(trace, max, false)
    }),
    ("  uses up to 8", true, |trace, max| {
        replay::replay::<IdleBy<8>>(trace, max, false)
    }),
    ("  uses up to 64", true, |trace, max| {
        replay::replay::<IdleBy<64>>(trace, max, false)
    }),
    ("segmented LRU", true, |trace, max| {
        replay::replay::<Segmented>(trace, max, false)
    }),
    ("S3-FIFO", true, |trace, max| {
        replay::replay::<S3Fifo>(trace, max, false)
    }),
    ("GDSF, cost = bytes (LFU-DA)", true, |trace, max| {
        replay::replay::<LfuAging>(trace, max, false)
    }),
    ("GDSF, cost = 1", true, |trace, max| {
        replay::replay::<SizeFrequency>(trace, max, false)
    }),
    ("LRU weighted by size", true, |trace, max| {
        replay::replay::<SizeWeighted>(trace, max, false)
    }),
    ("furthest next use", false, replay::furthest_next_use),
    ("upper bound (PFOO-L)", false, replay::upper_bound),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        Some(arguments.get(at + 1).expect("the option has a value"))
    };
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    if has("--list") {
        // What test runners ask of a binary that brings no harness.
        if !has("--ignored") {
            println!("what_must_hold: test");
        }
        return;
    }
    let seed = value("--seed").map_or(SEED, |seed| seed.parse().expect("a seed is a number"));
    if let Some(path) = value("--log") {
        let text = std::fs::read_to_string(path).expect("the log can be read");
        let log = log::read(&text);
        println!("{path}: {log}");
        table("recorded", &log.requests);
    } else if has("--bench") {
        println!("seed {seed}, {DAYS} days");
        for shape in trace::shapes(DAYS) {
            let trace = trace::generate(shape, seed);
            if has("--cluster") {
                cluster::table(shape.name, &trace, &SIZES);
            } else {
                table(shape.name, &trace);
            }
        }
    } else {
        what_must_hold(seed);
    }
}

fn table(name: &str, trace: &[Request]) {
    let footprint = replay::footprint(trace);
    let all = replay::unbounded(trace);
    println!(
        "\n{name}: {} requests of {:.1} GiB for {} blobs of {:.1} GiB; a store without bound has {:.1} % of the bytes, {:.1} % of the requests",
        all.requests,
        gib(all.bytes),
        replay::blobs(trace),
        gib(footprint),
        all.byte_ratio(),
        all.object_ratio(),
    );
    print!("{:<28}", "hits: % of bytes (requests)");
    for size in SIZES {
        print!("{:>15}", format!("{size} %"));
    }
    println!();
    for (row, _, run) in ROWS {
        print!("{row:<28}");
        for size in SIZES {
            let score = run(trace, footprint / 100 * size);
            let cell = format!("{:.1} ({:.1})", score.byte_ratio(), score.object_ratio());
            print!("{cell:>15}");
        }
        println!();
    }
}

/// The smoke run: short traces, and what holds of any.
fn what_must_hold(seed: u64) {
    println!("seed {seed}");
    for shape in trace::shapes(8) {
        let trace = trace::generate(shape, seed);
        assert_eq!(trace, trace::generate(shape, seed), "a seed is a trace");
        let all = replay::unbounded(&trace);
        let max = replay::footprint(&trace) / 10;
        let bound = replay::upper_bound(&trace, max);
        for (row, online, run) in ROWS {
            let score = run(&trace, max);
            println!("{} {row}: {score:?}", shape.name);
            assert_eq!(score, run(&trace, max), "a replay is deterministic");
            assert!(score.hit_bytes <= bound.hit_bytes, "a bound is a bound");
            assert!(score.hits <= bound.hits, "a bound is a bound");
            assert!(score.hit_bytes <= all.hit_bytes && score.hits <= all.hits);
            assert!(!online || score.hits > 0, "{row} keeps something");
        }
    }
    log::what_must_hold();
    println!("test what_must_hold ... ok");
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}
