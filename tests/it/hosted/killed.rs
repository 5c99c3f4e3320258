//! The real program, killed again and again while images are pushed, deleted and collected: what it has acknowledged is
//! so afterwards, and nothing is half there. What was acknowledged is written down here, outside of it.
//!
//! `KILLS=500 cargo test --test it hosted::killed -- --nocapture` for as many as one likes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::manifest;
use crate::common::images::sha256;
use crate::common::{Answer, Client, within};
use crate::process::Process;

const PUSHERS: usize = 12;
const TAGS: usize = 3;
const LAYERS: usize = 24;
/// Kills where nobody says how many.
const KILLS: usize = 4;

/// Deletes are collected within seconds, and so while others push the same layers.
const CONFIG: &str = r#"
[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
[state]
dir = "state"
[cache]
dir = "cache"
max_size = "64MiB"
[log]
level = "error"
[upstream."docker.io"]
endpoints = ["http://127.0.0.1:1"]
[hosted]
enabled = true
undelete = "1s"
gc_grace = "1s"
upload_expiry = "5s"
[[hosted.namespace]]
name = "team"
visibility = "public"
"#;

/// What tags name, by repository and tag: a digest or nothing, or one of several where an answer did not come.
type Known = Arc<Mutex<BTreeMap<(usize, usize), Vec<Option<String>>>>>;

/// Numbers that look random (Steele et al., "Fast splittable pseudorandom number generators").
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).unwrap()
    }
}

fn layer(number: usize) -> Vec<u8> {
    let byte = u8::try_from(number).unwrap();
    vec![byte; 1000 + number * 7001]
}

/// One who pushes and deletes the tags of a repository.
struct Pusher {
    client: Client,
    number: usize,
    dice: Dice,
    known: Known,
}

impl Pusher {
    async fn run(mut self, stop: CancellationToken) -> usize {
        let mut acknowledged = 0;
        while !stop.is_cancelled() {
            let done = match self.dice.below(4) {
                0 => self.delete().await,
                _ => self.push().await,
            };
            match done {
                Some(()) => acknowledged += 1,
                None => return acknowledged,
            }
        }
        acknowledged
    }

    /// Sends a request; nothing where the server is gone. Whatever else it answers than is expected is a fault.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: &[u8],
        expected: &[u16],
    ) -> Option<Answer> {
        let body = Bytes::copy_from_slice(body);
        let path = format!("/v2/team/r{}/{path}", self.number);
        let answer = self.client.ask_with(method.clone(), &path, &[], body).await;
        if answer.status == 0 {
            return None;
        }
        let is_expected = expected.contains(&answer.status);
        assert!(
            is_expected,
            "{method} {path}: {} {}",
            answer.status,
            answer.text()
        );
        Some(answer)
    }

    async fn push(&mut self) -> Option<()> {
        let numbers = [self.dice.below(LAYERS), self.dice.below(LAYERS)];
        let config = b"{}".to_vec();
        let layers = numbers.map(layer);
        let mut digests = Vec::new();
        for blob in [&config, &layers[0], &layers[1]] {
            let digest = sha256(blob);
            let head = self
                .ask(Method::HEAD, &format!("blobs/{digest}"), b"", &[200, 404])
                .await?;
            if head.status == 404 {
                let begun = self
                    .ask(Method::POST, "blobs/uploads/", b"", &[202])
                    .await?;
                let at = begun
                    .header("location")
                    .rsplit('/')
                    .next()
                    .unwrap()
                    .to_owned();
                let (first, rest) = blob.split_at(blob.len() / 2);
                self.ask(Method::PATCH, &format!("blobs/uploads/{at}"), first, &[202])
                    .await?;
                let last = format!("blobs/uploads/{at}?digest={digest}");
                self.ask(Method::PUT, &last, rest, &[201]).await?;
            }
            digests.push(digest);
        }
        let body = manifest(
            &digests[0],
            &[
                (&digests[1], layers[0].len()),
                (&digests[2], layers[1].len()),
            ],
        );
        let tag = self.dice.below(TAGS);
        self.may_be(tag, Some(sha256(body.as_bytes())));
        let path = format!("manifests/t{tag}");
        self.ask(Method::PUT, &path, body.as_bytes(), &[201])
            .await?;
        self.is(tag, Some(sha256(body.as_bytes())));
        Some(())
    }

    async fn delete(&mut self) -> Option<()> {
        let tag = self.dice.below(TAGS);
        let head = self
            .ask(Method::HEAD, &format!("manifests/t{tag}"), b"", &[200, 404])
            .await?;
        if head.status == 404 {
            return Some(());
        }
        let digest = head.header("docker-content-digest").to_owned();
        // Of all its tags, those that others of this repository name.
        let tags: Vec<usize> = (0..TAGS).filter(|tag| self.names(*tag, &digest)).collect();
        for tag in &tags {
            self.may_be(*tag, None);
        }
        self.ask(Method::DELETE, &format!("manifests/{digest}"), b"", &[202])
            .await?;
        for tag in tags {
            self.is(tag, None);
        }
        Some(())
    }

    fn names(&self, tag: usize, digest: &str) -> bool {
        let known = self.known.lock().unwrap();
        let all = known.get(&(self.number, tag));
        all.is_some_and(|all| all.iter().flatten().any(|it| it == digest))
    }

    fn may_be(&self, tag: usize, value: Option<String>) {
        let mut known = self.known.lock().unwrap();
        let all = known
            .entry((self.number, tag))
            .or_insert_with(|| vec![None]);
        all.push(value);
    }

    fn is(&self, tag: usize, value: Option<String>) {
        let mut known = self.known.lock().unwrap();
        known.insert((self.number, tag), vec![value]);
    }
}

/// Sees that all tags name what they should, and that all that they name can be pulled.
async fn check(client: Client, known: &Known) {
    let all = known.lock().unwrap().clone();
    for ((number, tag), values) in all {
        let base = format!("/v2/team/r{number}");
        let got = client.get(&format!("{base}/manifests/t{tag}")).await;
        let found = match got.status {
            200 => Some(got.header("docker-content-digest").to_owned()),
            404 => None,
            status => panic!("{base}: {status} {}", got.text()),
        };
        assert!(
            values.contains(&found),
            "{base}:t{tag} is {found:?} and not one of {values:?}"
        );
        known
            .lock()
            .unwrap()
            .insert((number, tag), vec![found.clone()]);
        let Some(digest) = found else {
            continue;
        };
        assert_eq!(sha256(&got.body), digest);
        let body: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
        for layer in body["layers"].as_array().unwrap() {
            let digest = layer["digest"].as_str().unwrap();
            let blob = client.get(&format!("{base}/blobs/{digest}")).await;
            assert_eq!(
                (blob.status, sha256(&blob.body)),
                (200, digest.to_owned()),
                "{base}:t{tag}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_any_kill() {
    let kills = std::env::var("KILLS").map_or(KILLS, |it| it.parse().unwrap());
    let mut dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("config.toml"), CONFIG).unwrap();
    let known = Known::default();
    let mut dice = Dice(7);
    let (mut acknowledged, began) = (0, Instant::now());
    for kill in 0..=kills {
        let mut process = Process::start(dir, &["serve", "--config", "config.toml"]);
        let (client, _admin, _output) = process.ready();
        drop(process.child.stderr.take());
        check(client, &known).await;
        if kill < kills {
            let stop = CancellationToken::new();
            let mut pushers = JoinSet::new();
            for number in 0..PUSHERS {
                let pusher = Pusher {
                    client,
                    number,
                    dice: Dice(dice.below(usize::MAX) as u64),
                    known: Arc::clone(&known),
                };
                pushers.spawn(pusher.run(stop.clone()));
            }
            let life = 300 + dice.below(1500) as u64;
            tokio::time::sleep(Duration::from_millis(life)).await;
            process.signal(Signal::KILL);
            stop.cancel();
            while let Some(pushed) = within("a pusher", pushers.join_next()).await {
                acknowledged += pushed.unwrap();
            }
        }
        process.signal(Signal::KILL);
        process.wait();
        dir = std::mem::replace(&mut process.dir, TempDir::new().unwrap());
    }
    println!(
        "{kills} kills, {acknowledged} acts acknowledged, {:?}",
        began.elapsed()
    );
    assert!(acknowledged > kills);
}
