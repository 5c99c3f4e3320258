//! Memory for what clients are sending: each may have as much as is left then, half of all if it is alone. A client that
//! takes more leaves room for the others. Bytes count that have come, and not those that were announced: a client that
//! sends slowly takes next to nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::HostedError;

/// Bytes that all bodies of pushes may have in memory.
const BYTES_MAX: usize = 256 * 1024 * 1024;

/// Memory for the bodies of pushes.
#[derive(Clone, Debug, Default)]
pub(super) struct Intake(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    of: HashMap<IpAddr, usize>,
    total: usize,
}

/// A part of it, given back when this is dropped.
#[derive(Debug)]
pub struct Share {
    intake: Intake,
    client: IpAddr,
    bytes: usize,
}

impl Intake {
    /// A part of it for a client, of nothing yet.
    pub(super) fn enter(&self, client: IpAddr) -> Share {
        Share {
            intake: self.clone(),
            client,
            bytes: 0,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing in between can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Adds bytes that have come.
    ///
    /// # Errors
    /// [`HostedError::TooMany`]: the client has its share. Nothing was added.
    pub fn grow(&mut self, bytes: usize) -> Result<(), HostedError> {
        let mut table = self.intake.table();
        let own = table.of.get(&self.client).copied().unwrap_or_default();
        if own.saturating_add(bytes) > BYTES_MAX.saturating_sub(table.total) {
            return Err(HostedError::TooMany);
        }
        *table.of.entry(self.client).or_default() += bytes;
        table.total += bytes;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut table = self.intake.table();
        table.total = table.total.saturating_sub(self.bytes);
        if let Some(own) = table.of.get_mut(&self.client) {
            *own = own.saturating_sub(self.bytes);
            if *own == 0 {
                table.of.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_leaves_room_for_others_and_all_is_given_back() {
        let intake = Intake::default();
        let (one, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut held = intake.enter(one);
        while held.grow(1 << 20).is_ok() {}
        assert_eq!(held.bytes, BYTES_MAX / 2);
        intake.enter(one).grow(1).unwrap_err();
        let mut others = intake.enter(other);
        others.grow(1 << 20).unwrap();
        drop((held, others));
        let table = intake.table();
        assert_eq!((table.total, table.of.len()), (0, 0));
    }
}
