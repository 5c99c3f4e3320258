//! Killed at any moment: the real program under load is killed again and again on one directory, and
//! each time everything that it left is checked, dead and alive.
//!
//! ```text
//! cargo test --test torture                                   a few kills
//! KILLS=300 SEED=7 cargo test --test torture -- --nocapture   as many as one likes; the seed is printed
//! NODE_KILLS=200 cargo test --test torture nodes -- --nocapture  of nodes of a cluster
//! TORTURE_PROGRAM=target/release/roadstead …                  another build
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test says what it expects by failing, and owns its files and tasks"
)]

#[path = "torture/cluster.rs"]
mod cluster;
mod common;
#[path = "torture/content.rs"]
mod content;
#[path = "torture/durable.rs"]
mod durable;
#[path = "torture/left.rs"]
mod left;
#[path = "torture/load.rs"]
mod load;
#[path = "torture/process.rs"]
mod process;

use std::path::PathBuf;
use std::time::Duration;

use common::Samples;
use content::{Content, Dice};
use durable::{Acknowledged, Keeper};
use left::Left;
use load::{Load, Pulled};
use process::Process;
use tempfile::TempDir;
use tokio::time::Instant;

/// Kills where nobody says how many.
const KILLS: usize = 5;

/// Small, so that there is hardly a moment without an eviction: half of all that is pulled.
const MAX_SIZE: &str = "64MiB";

/// What may have been on its way, or written and not in the last record, of a blob that was fetched
/// while its record was taken up: none of it, but what a broken connection held when it was dropped.
const SLACK_BYTES: u64 = 512 * 1024;

/// A kill comes at most so long after the program was ready.
const LIFE_MAX_MS: usize = 3500;

#[derive(Debug, Default)]
struct Summary {
    kills: usize,
    starting: usize,
    journal: usize,
    record: usize,
    blobs_checked: usize,
    bytes_checked: u64,
    fills_recorded: usize,
    fills_finished: usize,
    bytes_saved: u64,
    evicted_bytes: u64,
    acknowledged: usize,
    pulled: Pulled,
}

/// What a kill waits for.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// Nothing: it comes so long after the process was started.
    Starting(Duration),
    /// So long after it was ready.
    Running(Duration),
    /// As the last, then the next change of the journal: a commit or an eviction has just begun.
    Journal(Duration),
    /// As the last, then the next record of a fill.
    Record(Duration),
}

struct Torture {
    dice: Dice,
    content: Content,
    dir: TempDir,
    /// What no kill may take back.
    durable: durable::Shared,
    summary: Summary,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let kills = number("KILLS").map_or(KILLS, |kills| usize::try_from(kills).unwrap());
    let seed = number("SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("torture: KILLS={kills} SEED={seed}");
    let mut torture = Torture {
        dice: Dice(seed),
        content: Content::new(seed).await,
        dir: TempDir::new().unwrap(),
        durable: durable::Shared::default(),
        summary: Summary::default(),
    };
    let mut left = Left::default();
    for round in 0..kills {
        left = torture.round(round, &left).await;
        if round % 50 == 49 {
            println!("torture: {} kills survived", round + 1);
        }
    }
    torture.end(&left).await;
    println!("torture: SEED={seed} {:#?}", torture.summary);
}

impl Torture {
    fn store(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// Starts on what the last process left, checks it, lets it work, kills it, and looks at what is
    /// left then.
    async fn round(&mut self, round: usize, left: &Left) -> Left {
        let moment = self.moment();
        let mut process = Process::serve(self.dir.path(), &self.content.registry.url(), MAX_SIZE);
        self.summary.kills += 1;
        if let Moment::Starting(after) = moment {
            tokio::time::sleep(after).await;
            self.summary.starting += 1;
        } else {
            self.alive(&mut process, left).await;
            let load = Load::begin(&process, &self.content, &mut self.dice);
            let keeper = Keeper::begin(&process, &self.content, &mut self.dice, &self.durable);
            self.wait_for(moment).await;
            if let Some(samples) = process.try_metrics().await {
                let evicted = samples.sum("roadstead_evicted_bytes_total", &[("reason", "size")]);
                self.summary.evicted_bytes += left::whole(evicted);
            }
            process.kill();
            self.summary.pulled += load.end().await;
            keeper.end().await;
            self.summary.acknowledged = self.durable.lock().unwrap().answers;
        }
        process.kill();
        let log = process.log();
        assert!(!log.contains(process::DISAGREED), "round {round}: {log}");
        assert!(!log.contains("panicked"), "round {round}: {log}");
        let left = Left::look(&self.store(), &self.content);
        self.summary.blobs_checked += left.blobs.len();
        self.summary.bytes_checked += left.blobs.values().sum::<u64>();
        self.summary.fills_recorded += left.fills.len();
        left
    }

    /// After the last kill: everything can be pulled, and a stop is clean.
    async fn end(&mut self, left: &Left) {
        let mut process = Process::serve(self.dir.path(), &self.content.registry.url(), MAX_SIZE);
        self.alive(&mut process, left).await;
        self.content.open();
        for image in self.content.images.iter() {
            for blob in image.blobs() {
                let path = format!("/v2/team/app/blobs/{}", blob.digest);
                let answer = process.client().get(&path).await;
                answer.assert_bytes(200, &blob.bytes);
            }
        }
        process.stop();
        let left = Left::look(&self.store(), &self.content);
        assert!(left.fills.is_empty(), "{:?}", left.fills);
    }

    /// What the process counts is what there is, at once and after it has looked; what the last ones have
    /// acknowledged is known; what the last one
    /// recorded of a fill is not fetched again.
    async fn alive(&mut self, process: &mut Process, left: &Left) {
        process.ready().await;
        let (blobs, bytes) = process.opened().await;
        let expected = left.bytes();
        assert_eq!(
            (blobs, bytes),
            (left.blobs.len() as u64, expected),
            "it opens with what was left: {left:?}\n{}",
            process.log()
        );
        self.agrees(process).await;
        Acknowledged::check(&self.durable, process, &self.content.images).await;
        if !left.fills.is_empty() && self.dice.one_in(3) {
            self.take_up(process, left).await;
        }
    }

    /// Waits until metrics and files say the same: nothing goes on but what the start left to do.
    async fn agrees(&self, process: &Process) {
        let deadline = Instant::now() + common::WAIT_MAX;
        loop {
            let before = left::taken(&self.store());
            let samples = process.metrics().await;
            let after = left::taken(&self.store());
            let said = |name| left::whole(samples.sum(name, &[]));
            let (bytes, blobs) = (said("roadstead_cache_bytes"), said("roadstead_cache_blobs"));
            let same = before == after && bytes == after.bytes() && blobs == after.blobs;
            let clean = after.strangers.is_empty() && bytes <= said("roadstead_cache_max_bytes");
            if same && clean {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{bytes} bytes and {blobs} blobs are said, there are {after:?}\n{}",
                process.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Pulls what was being fetched when the last process was killed: only what was not recorded
    /// comes from upstream.
    async fn take_up(&mut self, process: &Process, left: &Left) {
        self.content.registry.reset();
        self.content.open();
        for (digest, durable) in &left.fills {
            if !left::has_part(&self.store(), digest) {
                continue;
            }
            let whole = &self.content.blobs[digest];
            let path = format!("/v2/team/app/blobs/{digest}");
            process.client().get(&path).await.assert_bytes(200, whole);
            let sent = self.content.registry.counters().sent(digest);
            let most = whole.len() as u64 - durable + SLACK_BYTES;
            assert!(
                sent <= most,
                "{sent} bytes of {digest} were fetched, {durable} of {} were there\n{}",
                whole.len(),
                process.log()
            );
            self.summary.fills_finished += 1;
            self.summary.bytes_saved += whole.len() as u64 - sent;
        }
        self.content.throttle();
    }

    fn moment(&mut self) -> Moment {
        let mut after = |most: usize| Duration::from_millis(self.dice.below(most) as u64);
        let (short, life) = (after(150), after(LIFE_MAX_MS));
        match self.dice.below(8) {
            0 => Moment::Starting(short),
            1 | 2 => Moment::Journal(life),
            3 | 4 => Moment::Record(life),
            _ => Moment::Running(life),
        }
    }

    async fn wait_for(&mut self, moment: Moment) {
        let (life, counted, state): (_, _, fn(&std::path::Path) -> u64) = match moment {
            Moment::Starting(_) => return,
            Moment::Running(life) => {
                tokio::time::sleep(life).await;
                return;
            }
            Moment::Journal(life) => (life, &mut self.summary.journal, left::journal_bytes),
            Moment::Record(life) => (life, &mut self.summary.record, left::records),
        };
        *counted += 1;
        tokio::time::sleep(life).await;
        let store = self.dir.path().join("cache");
        let jitter = Duration::from_micros(self.dice.below(4000) as u64);
        let changed = tokio::task::spawn_blocking(move || {
            // No event tells of it; a change is seen within a fraction of a millisecond.
            let (before, end) = (state(&store), Instant::now() + Duration::from_secs(2));
            while state(&store) == before && Instant::now() < end {
                std::thread::yield_now();
            }
            std::thread::sleep(jitter);
        });
        changed.await.unwrap();
    }
}

/// Two processes on one directory: the second says so, names the first, and changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_is_refused() {
    let dir = TempDir::new().unwrap();
    let mut first = Process::serve(dir.path(), "http://127.0.0.1:9", MAX_SIZE);
    first.ready().await;
    let mut second = Process::serve(dir.path(), "http://127.0.0.1:9", MAX_SIZE);
    let (code, said) = second.fails();
    let why = format!(
        "error: cannot use the cache directory {}: another roadstead (process {}) is using this directory\n",
        dir.path().join("cache").display(),
        first.id(),
    );
    // Before it stands what was about to start.
    let told: Vec<&str> = said
        .lines()
        .filter(|line| !line.contains(": starting version="))
        .collect();
    assert_eq!((code, told), (1, vec![why.trim_end()]));
    let answer = first.client().get("/v2/").await;
    assert_eq!(answer.status, 200);
    first.kill();
    // The lock of a process that was killed holds up nobody.
    let mut third = Process::serve(dir.path(), "http://127.0.0.1:9", MAX_SIZE);
    third.ready().await;
    let _samples: Samples = third.metrics().await;
    third.stop();
}
