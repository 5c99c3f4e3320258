//! Memory that answers hold until their clients have read them.
//!
//! A manifest or a list may have megabytes, and a client may ask for it and never read. Bodies that several answers
//! share count once, and small ones not at all: those of all connections together are little. Whoever's body is the
//! first to hold some bytes is charged with them, and may be charged with as much as is left then: half of all for
//! one client who is alone, a third each for two, so that one who takes more leaves room for the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::MirrorError;
use crate::upstream::{Address, OnBehalf};

/// Bytes that all bodies may hold that have not been read.
const LENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bodies up to this do not count.
const SMALL_BYTES: usize = 32 * 1024;

/// The bytes that are lent.
#[derive(Clone, Debug, Default)]
pub(super) struct Lent(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// By place and length in memory, which nothing else can have as long as it is held.
    held: HashMap<(usize, usize), Held>,
    charged: HashMap<Address, usize>,
    total: usize,
}

#[derive(Debug)]
struct Held {
    bodies: usize,
    charged: Address,
}

/// Bytes of a body.
struct Loan {
    bytes: Bytes,
    lent: Lent,
}

impl Lent {
    /// The same bytes, held for a body of a client.
    ///
    /// # Errors
    /// [`MirrorError::Busy`]: clients hold too much, this one before all.
    pub(super) fn lend(&self, bytes: Bytes, to: Address) -> Result<Bytes, MirrorError> {
        if bytes.len() <= SMALL_BYTES {
            return Ok(bytes);
        }
        {
            let mut table = self.table();
            let Table {
                held,
                charged,
                total,
            } = &mut *table;
            if let Some(held) = held.get_mut(&place(&bytes)) {
                held.bodies += 1;
            } else {
                let own = charged.get(&to).copied().unwrap_or_default() + bytes.len();
                if own > LENT_BYTES_MAX - *total {
                    let why = "too many large answers that their clients do not read";
                    return Err(MirrorError::Busy(why));
                }
                charged.insert(to, own);
                *total += bytes.len();
                let charged = to;
                held.insert(place(&bytes), Held { bodies: 1, charged });
            }
        }
        let lent = self.clone();
        Ok(Bytes::from_owner(Loan { bytes, lent }))
    }

    /// The bytes of an answer to the client of this request.
    ///
    /// # Errors
    /// [`MirrorError::Busy`].
    pub(super) fn lend_to_client(&self, bytes: Bytes) -> Result<Bytes, MirrorError> {
        if bytes.len() <= SMALL_BYTES {
            return Ok(bytes);
        }
        self.lend(bytes, OnBehalf::current().client().address)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing in between can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRef<[u8]> for Loan {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let place = place(&self.bytes);
        let mut table = self.lent.table();
        let Table {
            held,
            charged,
            total,
        } = &mut *table;
        let Some(loan) = held.get_mut(&place) else {
            return;
        };
        loan.bodies -= 1;
        if loan.bodies > 0 {
            return;
        }
        let (_, bytes) = place;
        *total = total.saturating_sub(bytes);
        if let Some(own) = charged.get_mut(&loan.charged) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                charged.remove(&loan.charged);
            }
        }
        held.remove(&place);
    }
}

fn place(bytes: &Bytes) -> (usize, usize) {
    (bytes.as_ptr().addr(), bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::ClientId;

    const MIB: usize = 1 << 20;

    fn client(n: u8) -> Address {
        ClientId::new([10, 0, 0, n].into(), 1).address
    }

    fn large(mib: usize) -> Bytes {
        vec![7; mib * MIB].into()
    }

    #[test]
    fn one_who_takes_all_he_can_leaves_room_for_others() {
        let lent = Lent::default();
        let mut held = Vec::new();
        let greedy = |held: &mut Vec<Bytes>| {
            let loan = lent.lend(large(4), client(1));
            loan.map(|loan| held.push(loan)).is_ok()
        };
        while greedy(&mut held) {}
        assert_eq!(held.len(), 8, "half of all");
        assert!(lent.lend(vec![1; 1000].into(), client(1)).is_ok());
        let other = lent.lend(large(4), client(2)).unwrap();
        assert_eq!(other, large(4));
        held.pop();
        assert!(greedy(&mut held), "what was read is free again");
        drop((held, other));
        let table = lent.table();
        assert_eq!(
            (table.total, table.held.len(), table.charged.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn what_many_read_counts_once() {
        let lent = Lent::default();
        let list = large(8);
        let held: Vec<Bytes> = (0..100)
            .map(|n| lent.lend(list.clone(), client(n)).unwrap())
            .collect();
        assert_eq!(lent.table().total, 8 * MIB);
        drop(list);
        drop(held);
        assert_eq!(lent.table().total, 0);
    }
}
