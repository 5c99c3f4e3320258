//! What is pulled, and the registry that has it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::common::images::{self, Blob};
use crate::common::{Dialect, FakeRegistry, Gate, Image};

const IMAGES: usize = 16;

/// Layers that come so slowly that they are recorded on their way: all else is there at once.
pub const SLOW: usize = 6;
const SLOW_BYTES: usize = 8 << 20;
/// Of each slow layer, so many bytes pass every [`PASS_EACH`].
const PASS_BYTES: usize = 96 * 1024;
const PASS_EACH: Duration = Duration::from_millis(40);
/// What passes while nothing shall be slow.
const OPEN_BYTES: usize = 64 << 20;

/// splitmix64 (Steele, Lea, Flood 2014): small, and good enough to choose moments.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

pub struct Content {
    pub registry: FakeRegistry,
    pub images: Arc<Vec<Image>>,
    /// Everything, manifests too, by digest.
    pub blobs: Arc<HashMap<String, Bytes>>,
    pass_bytes: Arc<AtomicUsize>,
}

impl Content {
    /// Images of some layers each, some of which they share.
    pub async fn new(seed: u64) -> Self {
        let mut dice = Dice(seed ^ 0x00c0_ffee);
        let registry = FakeRegistry::start().await;
        let base: Vec<Blob> = (0..4).map(|n| Blob::noise(7000 + n, 1_500_000)).collect();
        let mut gates = Vec::new();
        let mut images = Vec::new();
        for number in 0..IMAGES {
            let mut layers = vec![base[dice.below(base.len())].clone()];
            for layer in 0..3 {
                let size = 1 + dice.below(3 << 20);
                layers.push(Blob::noise((8000 + number * 10 + layer) as u64, size));
            }
            if number < SLOW {
                let slow = Blob::noise(9000 + number as u64, SLOW_BYTES + dice.below(100_000));
                gates.push(registry.gate(&slow.digest));
                layers.push(slow);
            }
            let image = images::image_of(number as u64, layers, Dialect::Oci);
            registry.put_image("team/app", Some(&format!("v{number}")), &image);
            images.push(image);
        }
        let mut blobs = HashMap::new();
        for image in &images {
            let manifest = &image.manifest;
            blobs.insert(manifest.digest.clone(), manifest.bytes.clone());
            blobs.extend(image.blobs().map(|b| (b.digest.clone(), b.bytes.clone())));
        }
        let pass_bytes = Arc::new(AtomicUsize::new(PASS_BYTES));
        tokio::spawn(pass(gates, Arc::clone(&pass_bytes)));
        Self {
            registry,
            images: Arc::new(images),
            blobs: Arc::new(blobs),
            pass_bytes,
        }
    }

    /// Nothing is slow any more.
    pub fn open(&self) {
        self.pass_bytes.store(OPEN_BYTES, Ordering::Relaxed);
    }

    /// Slow is slow again.
    pub fn throttle(&self) {
        self.pass_bytes.store(PASS_BYTES, Ordering::Relaxed);
    }
}

/// Lets bytes through the gates, without end; what nobody takes does not pile up.
async fn pass(gates: Vec<Gate>, bytes: Arc<AtomicUsize>) {
    loop {
        let bytes = bytes.load(Ordering::Relaxed);
        for gate in &gates {
            let ready = gate.0.available_permits();
            if ready < bytes {
                gate.release(bytes);
            } else if ready > 2 * bytes {
                gate.0.forget_permits(ready - bytes);
            }
        }
        tokio::time::sleep(PASS_EACH).await;
    }
}
