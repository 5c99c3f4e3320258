//! Passwords that were right a moment ago, without the passwords.

use aws_lc_rs::{hmac, rand};
use moka::sync::Cache;
use std::time::Duration;

/// Time for which a password that was right is not checked again.
const REMEMBERED: Duration = Duration::from_mins(5);

/// Passwords that are remembered, some 100 bytes each.
const REMEMBERED_MAX: u64 = 20_000;

/// What was found for credentials, by a keyed hash of them: of a memory dump nobody can guess passwords without the key.
#[derive(Debug)]
pub(super) struct Remembered<V: Clone + Send + Sync + 'static> {
    found: Cache<[u8; 32], V>,
    key: hmac::Key,
}

impl<V: Clone + Send + Sync + 'static> Default for Remembered<V> {
    fn default() -> Self {
        let mut secret = [0; 32];
        // Without random numbers nothing is remembered by a key that others know.
        let is_random = rand::fill(&mut secret).is_ok();
        Self {
            found: Cache::builder()
                .max_capacity(if is_random { REMEMBERED_MAX } else { 0 })
                .time_to_live(REMEMBERED)
                .build(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
        }
    }
}

impl<V: Clone + Send + Sync + 'static> Remembered<V> {
    /// The value that was found for these parts.
    pub(super) fn get(&self, parts: &[&str]) -> Option<V> {
        self.found.get(&self.tag(parts))
    }

    /// The value for these parts, or one that is made and remembered for them.
    pub(super) fn get_or_insert(&self, parts: &[&str], make: impl FnOnce() -> V) -> V {
        self.found.get_with(self.tag(parts), make)
    }

    /// Remembers a value for these parts.
    pub(super) fn insert(&self, parts: &[&str], value: V) {
        self.found.insert(self.tag(parts), value);
    }

    fn tag(&self, parts: &[&str]) -> [u8; 32] {
        let mut signing = hmac::Context::with_key(&self.key);
        for part in parts {
            // Its length, so that no two are the same in a row.
            signing.update(&(part.len() as u64).to_be_bytes());
            signing.update(part.as_bytes());
        }
        let tag = signing.sign();
        let mut bytes = [0; 32];
        bytes.copy_from_slice(tag.as_ref().get(..32).unwrap_or(&[0; 32]));
        bytes
    }
}
