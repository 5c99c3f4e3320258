//! How long a start takes, and how much memory, with this many stored blobs.
//!
//! ```text
//! cargo bench --bench startup                        1,000, 100,000 and 1,000,000 blobs
//! cargo bench --bench startup -- 50000
//! cargo test --bench startup                         1,000 blobs, and what must hold
//! ```
//!
//! The stores are made once, under cargo's `target/tmp`: sparse files of the sizes that blobs have,
//! and an index with a record and a link for each. Each store is opened by the real program several
//! times: with the file cache of the operating system as it is, after it was stopped, after it was
//! killed, with nothing in that cache where the system lets us drop it, and without the index.
//! `STARTUP_PROGRAM` names another build of the program to compare with.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark is a test: it says what it expects by failing, and prints"
)]

mod made;
mod program;

use std::path::Path;
use std::time::Duration;

use program::{Ended, Started};

/// What is measured where nobody names a number.
const COUNTS: [usize; 3] = [1_000, 100_000, 1_000_000];

/// What a start with 1,000,000 blobs may take.
const START_MAX: Duration = Duration::from_secs(3);

/// What it may have in memory until it is ready, in KiB.
const RESIDENT_KIB_MAX: u64 = 150_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        // Of tests, and there are none in here.
        return;
    }
    let benchmark = arguments.iter().any(|argument| argument == "--bench");
    let named: Vec<usize> = arguments.iter().filter_map(|a| a.parse().ok()).collect();
    let counts = match (named.is_empty(), benchmark) {
        (false, _) => named,
        (true, true) => COUNTS.to_vec(),
        (true, false) => vec![COUNTS[0]],
    };
    println!(
        "{:>10}  {:<16} {:>10} {:>12} {:>10} {:>12} {:>12}",
        "blobs", "start", "ready", "peak RSS", "scan", "then RSS", "index"
    );
    for count in counts {
        let dir = made::store(count);
        for (what, ended, before) in [
            ("first", Ended::Stopped, Before::Nothing),
            ("after a stop", Ended::Killed, Before::Nothing),
            ("after a kill", Ended::Killed, Before::Nothing),
            ("cold file cache", Ended::Stopped, Before::DropFileCache),
            ("lost index", Ended::Stopped, Before::LoseIndex),
        ] {
            let lost = before == Before::LoseIndex;
            match before {
                Before::DropFileCache if !benchmark || !drop_file_cache() => continue,
                Before::LoseIndex => made::take_index_away(&dir),
                Before::DropFileCache | Before::Nothing => {}
            }
            let started = program::start(&dir, count, ended, lost);
            print_row(count, what, &started, &dir);
            if lost {
                made::put_index_back(&dir);
            }
            // What a cold disk takes is the disk's.
            if benchmark && before != Before::DropFileCache {
                assert!(started.ready < START_MAX, "it took {:?}", started.ready);
            }
            assert!(
                started.peak_kib < RESIDENT_KIB_MAX,
                "{} KiB",
                started.peak_kib
            );
        }
    }
}

/// What is done to the store before a start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    DropFileCache,
    LoseIndex,
}

fn print_row(count: usize, what: &str, started: &Started, dir: &Path) {
    let index = std::fs::metadata(dir.join("index.redb")).unwrap().len();
    println!(
        "{count:>10}  {what:<16} {:>7} ms {:>8} MiB {:>7} ms {:>8} MiB {:>8} MiB",
        started.ready.as_millis(),
        started.peak_kib / 1024,
        started.scan.as_millis(),
        started.scanned_kib / 1024,
        index >> 20,
    );
}

/// Has the operating system forget what it has read of the disk; false where it does not let us.
fn drop_file_cache() -> bool {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}
