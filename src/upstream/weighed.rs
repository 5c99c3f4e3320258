//! A table that is bounded in bytes: what was used longest ago goes first.

use std::hash::Hash;

use lru::LruCache;

/// Size of an entry beside the texts in it.
pub(super) const ENTRY_BYTES: usize = 200;

/// Values by key, of which each weighs something.
#[derive(Debug)]
pub(super) struct Weighed<K: Hash + Eq, V> {
    entries: LruCache<K, (V, usize)>,
    bytes: usize,
    bytes_max: usize,
}

impl<K: Hash + Eq, V> Weighed<K, V> {
    /// Nothing yet, and never more than `bytes_max`.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            entries: LruCache::unbounded(),
            bytes: 0,
            bytes_max,
        }
    }

    /// The value of a key, which is used by that.
    pub(super) fn get(&mut self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(value, _)| value)
    }

    /// Takes a value out.
    pub(super) fn pop(&mut self, key: &K) -> Option<V> {
        let (value, weight) = self.entries.pop(key)?;
        self.bytes -= weight;
        Some(value)
    }

    /// Puts a value in, which weighs so many bytes with its key. One that would take all by itself is not kept.
    pub(super) fn put(&mut self, key: K, value: V, weight: usize) {
        self.pop(&key);
        if weight > self.bytes_max {
            return;
        }
        self.bytes += weight;
        self.entries.put(key, (value, weight));
        while self.bytes > self.bytes_max
            && let Some((_, (_, weight))) = self.entries.pop_lru()
        {
            self.bytes -= weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_only_so_many_bytes_and_what_is_used_stays() {
        let mut table = Weighed::new(100);
        for (key, weight) in [(1, 40), (2, 40), (3, 10)] {
            table.put(key, key, weight);
        }
        assert_eq!(table.get(&1), Some(&1));
        table.put(4, 4, 50);
        assert_eq!(table.get(&2), None);
        assert_eq!(table.get(&1), Some(&1));
        // One that grows counts once.
        table.put(1, 7, 45);
        assert_eq!(table.get(&3), None);
        assert_eq!(table.bytes, 95);
        table.put(5, 5, 101);
        assert_eq!(table.get(&5), None);
        assert_eq!(table.get(&4), Some(&4));
        assert_eq!(table.pop(&4), Some(4));
        assert_eq!(table.pop(&1), Some(7));
        assert_eq!((table.bytes, table.pop(&9)), (0, None));
    }
}
