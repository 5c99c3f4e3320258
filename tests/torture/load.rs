//! Clients that pull while the process lives, and compare what they get.

use std::ops::AddAssign;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::common::{Answer, Client, Ending, Image};
use crate::content::{Content, Dice};
use crate::process::Process;

const PULLERS: usize = 5;

/// How pulls ended. One that ended well and wrong fails the test.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pulled {
    pub whole: usize,
    pub broken: usize,
    pub errors: usize,
}

impl AddAssign for Pulled {
    fn add_assign(&mut self, other: Self) {
        self.whole += other.whole;
        self.broken += other.broken;
        self.errors += other.errors;
    }
}

pub struct Load {
    stop: CancellationToken,
    pullers: Vec<JoinHandle<Pulled>>,
}

impl Load {
    /// Begins to pull images at random.
    pub fn begin(process: &Process, content: &Content, dice: &mut Dice) -> Self {
        Self::with(PULLERS, process, content, dice)
    }

    /// The same by this many clients.
    pub fn with(count: usize, process: &Process, content: &Content, dice: &mut Dice) -> Self {
        let stop = CancellationToken::new();
        let pullers = (0..count).map(|_| {
            let puller = Puller {
                client: process.client(),
                images: Arc::clone(&content.images),
                dice: Dice(dice.next()),
                pulled: Pulled::default(),
            };
            let stop = stop.clone();
            tokio::spawn(async move { puller.run(stop).await })
        });
        Self {
            pullers: pullers.collect(),
            stop,
        }
    }

    /// The process is dead: what its clients got.
    pub async fn end(self) -> Pulled {
        self.stop.cancel();
        let mut all = Pulled::default();
        for puller in self.pullers {
            all += puller.await.unwrap();
        }
        all
    }
}

struct Puller {
    client: Client,
    images: Arc<Vec<Image>>,
    dice: Dice,
    pulled: Pulled,
}

impl Puller {
    async fn run(mut self, stop: CancellationToken) -> Pulled {
        while !stop.is_cancelled() {
            let number = self.dice.below(self.images.len());
            let images = Arc::clone(&self.images);
            let image = &images[number];
            let path = format!("/v2/team/app/manifests/v{number}");
            let accept = [("accept", image.manifest.media_type.as_str())];
            let answer = self.client.get_with(&path, &accept).await;
            self.judge(&answer, &image.manifest.bytes);
            for blob in image.blobs() {
                if stop.is_cancelled() {
                    break;
                }
                self.pull(&blob.digest, &blob.bytes).await;
            }
        }
        self.pulled
    }

    async fn pull(&mut self, digest: &str, whole: &Bytes) {
        let path = format!("/v2/team/app/blobs/{digest}");
        if self.dice.one_in(6) {
            let from = self.dice.below(whole.len());
            let to = from + self.dice.below(whole.len() - from);
            let range = format!("bytes={from}-{to}");
            let answer = self.client.get_with(&path, &[("range", &range)]).await;
            let part = whole.slice(from..=to);
            self.judge(&answer, if answer.status == 206 { &part } else { whole });
        } else {
            let answer = self.client.get(&path).await;
            self.judge(&answer, whole);
        }
    }

    fn judge(&mut self, answer: &Answer, expected: &Bytes) {
        match (answer.status, answer.ending) {
            (200 | 206, Ending::Clean) => {
                assert!(answer.body == *expected, "a clean end, and wrong bytes");
                self.pulled.whole += 1;
            }
            (200 | 206, Ending::Broken) => {
                assert!(
                    expected.starts_with(&answer.body),
                    "wrong bytes at the front"
                );
                self.pulled.broken += 1;
            }
            (0, _) => self.pulled.broken += 1,
            (500.., _) => self.pulled.errors += 1,
            (status, _) => panic!("{status}: {}", answer.text()),
        }
    }
}
