//! Logins that wait for their turn, or have it: a bounded number, and of one address fewer than of all.

use crate::net::Address;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The most logins that wait, or have their turn: a hash takes some 100 ms, and `docker login` waits 15 s.
const PLACES_MAX: usize = 64;

/// Of one address: so many that others have room, and a CI host that starts many jobs at once gets through.
const PLACES_OF_ONE_MAX: usize = 16;

/// The logins of one kind. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue(Arc<Mutex<HashMap<Address, usize>>>);

/// A place in the queue, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    queue: Queue,
    source: Address,
}

impl Queue {
    /// A place, if there is one for this address.
    pub(super) fn take(&self, source: IpAddr) -> Option<Place> {
        let source = Address::of(source);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.values().sum::<usize>() >= PLACES_MAX {
            return None;
        }
        let own = all.entry(source).or_default();
        if *own >= PLACES_OF_ONE_MAX {
            return None;
        }
        *own += 1;
        Some(Place {
            queue: self.clone(),
            source,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.queue.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                all.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_room_for_others() {
        let queue = Queue::default();
        let take = |last| queue.take([10, 0, 0, last].into());
        let mut places: Vec<_> = (0..PLACES_OF_ONE_MAX).map(|_| take(1)).collect();
        assert!(places.iter().all(Option::is_some));
        assert!(take(1).is_none());
        assert!(take(2).is_some());
        places.pop();
        assert!(take(1).is_some());
        drop(places);
        assert!(queue.0.lock().unwrap().is_empty());
    }
}
