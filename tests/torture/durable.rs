//! What was acknowledged as durable: imports and pins. Whatever the kill, the next process has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use http::Method;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::common::{Client, Image};
use crate::content::{Content, Dice, SLOW};
use crate::process::Process;

const ADMIN: (&str, &str) = ("x-roadstead-admin", "1");

/// What the process has answered.
#[derive(Debug, Default)]
pub struct Acknowledged {
    /// The images that are pinned, and those that are not; `None`: the answer did not come.
    pins: BTreeMap<usize, Option<bool>>,
    /// The images that were imported under another name.
    imports: BTreeSet<usize>,
    /// How many answers came.
    pub answers: usize,
}

pub type Shared = Arc<Mutex<Acknowledged>>;

/// Imports, pins and unpins while the process lives.
pub struct Keeper {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Keeper {
    pub fn begin(process: &Process, content: &Content, dice: &mut Dice, known: &Shared) -> Self {
        let stop = CancellationToken::new();
        let work = Work {
            client: process.client(),
            admin: process.admin(),
            images: Arc::clone(&content.images),
            dice: Dice(dice.next()),
            known: Arc::clone(known),
        };
        Self {
            task: tokio::spawn(work.run(stop.clone())),
            stop,
        }
    }

    /// The process is dead.
    pub async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

struct Work {
    client: Client,
    admin: Client,
    images: Arc<Vec<Image>>,
    dice: Dice,
    known: Shared,
}

impl Work {
    async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            // One that is there soon, and not large.
            let number = SLOW + self.dice.below(self.images.len() - SLOW);
            self.pull(number).await;
            let digest = &self.images[number].manifest.digest;
            let path = format!("/api/v1/import/images?name=kept/app:v{number}&digest={digest}");
            let answer = self.admin.ask(Method::POST, &path, &[ADMIN]).await;
            if answer.status == 200 {
                let mut known = self.known.lock().unwrap();
                known.imports.insert(number);
                known.answers += 1;
            }
            self.pin(number, Method::PUT).await;
            // One at a time, so that there is room for others.
            self.pin(number, Method::DELETE).await;
        }
    }

    async fn pull(&self, number: usize) {
        let image = &self.images[number];
        let accept = [("accept", image.manifest.media_type.as_str())];
        let path = format!("/v2/team/app/manifests/v{number}");
        self.client.get_with(&path, &accept).await;
        for blob in image.blobs() {
            self.client
                .get(&format!("/v2/team/app/blobs/{}", blob.digest))
                .await;
        }
    }

    async fn pin(&self, number: usize, method: Method) {
        let before = self.known.lock().unwrap().pins.insert(number, None);
        let pins = method == Method::PUT;
        let path = format!("/api/v1/pins?image=team/app:v{number}");
        let answer = self.admin.ask(method, &path, &[ADMIN]).await;
        let mut known = self.known.lock().unwrap();
        match answer.status {
            200 => {
                known.pins.insert(number, Some(pins));
                known.answers += 1;
            }
            // It was not known, or not pinned: as before.
            400..500 => {
                known.pins.insert(number, before.flatten());
            }
            // Nobody knows.
            _ => {}
        }
    }
}

impl Acknowledged {
    /// What a process says that was started on what the last one left.
    pub async fn check(known: &Shared, process: &Process, images: &[Image]) {
        let answer = process.admin().get("/api/v1/pins").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let pinned = said["pins"].as_array().unwrap().iter();
        let pinned: BTreeSet<&str> = pinned.map(|pin| pin["image"].as_str().unwrap()).collect();
        let (pins, imports) = {
            let known = known.lock().unwrap();
            (known.pins.clone(), known.imports.clone())
        };
        for (number, expected) in &pins {
            let Some(expected) = expected else { continue };
            let name = format!("docker.io/team/app:v{number}");
            assert_eq!(
                pinned.contains(name.as_str()),
                *expected,
                "{name} of {pinned:?}\n{}",
                process.log()
            );
        }
        for number in imports {
            let digest = &images[number].manifest.digest;
            let path = format!("/v2/kept/app/manifests/{digest}");
            let answer = process.client().get(&path).await;
            let is_there = answer.status == 200;
            let is_known = answer.status == 404 && answer.text().contains("imported again");
            assert!(
                is_there || is_known,
                "the import {number} was forgotten: {} {}\n{}",
                answer.status,
                answer.text(),
                process.log()
            );
        }
    }
}
