//! Finding the other nodes, and noticing that one is gone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use http_body_util::{BodyExt as _, Limited};

use super::config::Seed;
use super::members::{ADDRESSES_MAX, Hello, Members, News};
use crate::net::{Error, NodeClient};
use crate::oci::nodes::HELLO_PATH;
use crate::telemetry::Metrics;

/// Names are looked up again after so long: name servers and their caches are some seconds behind anyway.
const LOOK_UP_EVERY: Duration = Duration::from_secs(5);

/// Time that a look-up may take.
const LOOK_UP_MAX: Duration = Duration::from_secs(4);

/// Nodes are greeted again after so long.
const GREET_EVERY: Duration = Duration::from_secs(1);

/// Time that a node may take to greet back: it has nothing to look up.
const GREETING_WAIT_MAX: Duration = Duration::from_secs(1);

/// A greeting is some hundred bytes; one of a later version may say more.
const GREETING_BYTES_MAX: usize = 16 * 1024;

/// The search for nodes.
#[derive(Debug)]
pub(super) struct Discovery {
    seeds: Vec<Seed>,
    members: Arc<Members>,
    client: NodeClient,
    metrics: Metrics,
}

impl Discovery {
    pub(super) fn new(
        seeds: Vec<Seed>,
        members: Arc<Members>,
        client: NodeClient,
        metrics: Metrics,
    ) -> Self {
        Self {
            seeds,
            members,
            client,
            metrics,
        }
    }

    /// Looks up and greets for ever.
    pub(super) async fn run(&self) {
        tokio::join!(self.look_up_again_and_again(), self.greet_again_and_again());
    }

    async fn look_up_again_and_again(&self) {
        let mut failed = vec![false; self.seeds.len()];
        loop {
            self.look_up(&mut failed).await;
            tokio::time::sleep(LOOK_UP_EVERY).await;
        }
    }

    /// Looks up all names. While one cannot be, nothing that was found by it is forgotten.
    async fn look_up(&self, failed: &mut [bool]) {
        let looked_up = self.seeds.iter().map(|seed| async move {
            let found = tokio::net::lookup_host((seed.host.as_str(), seed.port));
            let found = tokio::time::timeout(LOOK_UP_MAX, found).await;
            match found {
                Ok(Ok(found)) => Ok(found.collect::<Vec<SocketAddr>>()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_elapsed) => Err("the name server does not answer".to_owned()),
            }
        });
        let found = join_all(looked_up).await;
        let mut addresses = Vec::new();
        for ((seed, found), failed) in self.seeds.iter().zip(&found).zip(failed) {
            match found {
                Ok(found) => {
                    addresses.extend(found.iter().copied());
                    *failed = false;
                }
                Err(error) if !*failed => {
                    tracing::warn!(%seed, %error, "nodes of the cluster cannot be looked up; those that are known stay");
                    *failed = true;
                }
                Err(_) => {}
            }
        }
        if found.iter().any(Result::is_err) {
            addresses.extend(self.members.addresses());
        }
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.len() > ADDRESSES_MAX {
            tracing::warn!(
                addresses = addresses.len(),
                max = ADDRESSES_MAX,
                "there are more addresses of nodes than are looked at"
            );
        }
        self.members.listed(&addresses);
    }

    async fn greet_again_and_again(&self) {
        let mut tick = tokio::time::interval(GREET_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let addresses = self.members.addresses();
            join_all(addresses.into_iter().map(|address| self.greet(address))).await;
            self.metrics.cluster().members(self.members.count());
        }
    }

    /// Greets whoever is at an address.
    async fn greet(&self, address: SocketAddr) {
        let news = match self.hello(address).await {
            Ok(hello) => self.members.heard(address, hello),
            Err(error) => {
                let is_sure = matches!(error, Error::Connect(_) | Error::Broken(_));
                self.members.silent(address, &error.to_string(), is_sure)
            }
        };
        match news {
            Some(News::Came(node)) => {
                tracing::info!(%node, %address, nodes = self.members.count(), "a node of the cluster is there");
            }
            Some(News::Leaves(node, true)) => {
                tracing::info!(%node, %address, "a node of the cluster is about to leave: it owns nothing any more");
            }
            Some(News::Leaves(node, false)) => {
                tracing::info!(%node, %address, "a node of the cluster stays");
            }
            Some(News::Gone(node, why)) => {
                tracing::warn!(%node, %address, why, nodes = self.members.count(), "a node of the cluster does not answer: others own what it did");
            }
            Some(News::Trouble(why)) => {
                tracing::warn!(%address, why, "no node of the cluster at a configured address, yet");
            }
            None => {}
        }
    }

    async fn hello(&self, address: SocketAddr) -> Result<Hello, Error> {
        let nonsense = |why: String| Error::Protocol(why);
        let request = NodeClient::request(address, HELLO_PATH)?;
        let asking = async {
            let response = self.client.send(request, GREETING_WAIT_MAX).await?;
            if response.status() != StatusCode::OK {
                let why = format!("status {}: is it a roadstead?", response.status());
                return Err(nonsense(why));
            }
            let body = Limited::new(response.into_body(), GREETING_BYTES_MAX);
            let body = body.collect().await;
            let body = body.map_err(|error| Error::Broken(error.to_string()))?;
            serde_json::from_slice(&body.to_bytes()).map_err(|error| nonsense(error.to_string()))
        };
        let answer = tokio::time::timeout(GREETING_WAIT_MAX, asking).await;
        answer.unwrap_or(Err(Error::Timeout("a greeting")))
    }
}
