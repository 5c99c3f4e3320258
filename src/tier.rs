//! An object store beside the cache: it is read before upstreams are, and has what was fetched.
//!
//! | file | what |
//! | --- | --- |
//! | `config` | what is configured |
//! | `handle` | what the parts have in common |
//! | `bucket`, `connect`, `error` | objects by their keys, over our own connections and with our own keys |
//! | `health` | whether it is asked at all |
//! | `facts`, `seal` | tags and links there, and what keeps others from writing any |
//! | `source` | reading: bytes for fills, and what upstreams have said |
//! | `writer`, `queue`, `notes` | writing, after the commit; what waits; what is there already |
//! | `upload` | one blob on its way there, in parts that are taken up again |
//! | `survey` | finding what is not there yet |
//! | `leftovers`, `lister` | uploads that nobody goes on with |
//! | `probe`, `abilities` | what the store can do |
//!
//! Nothing that is read is served before its digest is checked, or its seal. Nothing here is needed for an answer: a store
//! that is slow, broken or lying is a miss. No read deletes anything there, and no write needs a condition: the same key
//! always has the same bytes.

mod abilities;
mod bucket;
mod config;
mod connect;
mod error;
mod facts;
mod handle;
mod health;
mod leftovers;
mod lister;
mod notes;
mod probe;
mod queue;
mod seal;
mod source;
mod survey;
mod upload;
mod writer;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use config::{Access, Config, Encryption, Place, Redirect, Scheme, When, Write};
pub use handle::{Tier, TierReport};
use writer::Writer;

use crate::mirror::{Mirror, Nodes};

impl Tier {
    /// Writes what is stored to the bucket, and keeps it in order there, until `stop`. What another of `nodes` owns is left
    /// to that one, for a time.
    pub async fn run(self, mirror: Mirror, nodes: Option<Arc<dyn Nodes>>, stop: CancellationToken) {
        if self.seal.is_none() {
            tracing::warn!(
                bucket = self.bucket.name(),
                "tags and links are not kept in the object store: that needs tier.secret_file or cluster.secret_file"
            );
        }
        let writer = Writer::new(self, mirror, nodes);
        stop.run_until_cancelled(writer.run()).await;
    }
}
