//! The nodes of a cluster as one of them sees them, and which of them owns what. Pure.
//!
//! Each digest, and each tag of a repository, has an order of all nodes: by the hash of the node's name and the key, the highest
//! first (rendezvous hashing). The first one owns it. A node that comes or goes changes the owner of its own part alone.
//! Nodes that see different members disagree about some owners, which costs a fetch more and nothing else.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::PROTOCOL;

/// Addresses that are looked at.
pub(super) const ADDRESSES_MAX: usize = 256;

/// Failures in a row after which a node that was silent counts as gone.
const SILENCES_MAX: u32 = 2;

/// A node that greets and does not answer is asked for nothing for so long.
const REST: Duration = Duration::from_secs(10);

/// Names that are given numbers, by which fills know nodes. Those of nodes that are gone long ago are given again.
const SLOTS_MAX: usize = 1024;

/// The name of a node: it keeps it over restarts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId([u8; 16]);

impl NodeId {
    /// A name that nobody has.
    ///
    /// # Errors
    /// There are no random numbers.
    pub(super) fn random() -> Result<Self, String> {
        let mut bytes = [0; 16];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_unspecified| "no random numbers".to_owned())?;
        Ok(Self(bytes))
    }

    /// Reads what [`fmt::Display`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| is_hex)?;
        Some(Self(number.to_be_bytes()))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The word of a node about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of what nodes say to each other. Those of the version before and of this one understand each other.
    pub protocol: u32,
    /// Its name.
    pub node: String,
    /// Another one for each process, by which a node recognizes itself.
    pub process: String,
    /// The version of the program.
    pub version: String,
    /// The host that it runs on.
    #[serde(default)]
    pub host: String,
    /// The zone that it is in.
    #[serde(default)]
    pub zone: Option<String>,
    /// True if it is about to leave: it owns nothing any more.
    #[serde(default)]
    pub draining: bool,
}

/// A node that answers.
#[derive(Debug)]
pub(super) struct Node {
    /// Its name.
    pub id: NodeId,
    /// Its address.
    pub address: SocketAddr,
    /// Its number, by which fills know it.
    pub(super) slot: usize,
    /// Cancelled when it does not answer any more: whoever waits for it goes on elsewhere.
    pub(super) gone: CancellationToken,
    /// The last that it said of itself.
    pub hello: Hello,
}

/// The nodes, this one included.
#[derive(Debug)]
pub struct Members {
    me: NodeId,
    process: String,
    table: Mutex<Table>,
    /// Nodes that own something, without this one.
    owners: ArcSwap<Owners>,
}

/// The nodes among which owners are chosen.
#[derive(Debug, Default)]
struct Owners {
    others: Vec<Arc<Node>>,
    /// True if this node owns nothing any more.
    is_leaving: bool,
}

#[derive(Debug, Default)]
struct Table {
    by_address: BTreeMap<SocketAddr, Entry>,
    /// The names that numbers stand for.
    slots: Vec<NodeId>,
    is_leaving: bool,
}

/// An address that is known.
#[derive(Debug, Default)]
struct Entry {
    node: Option<Arc<Node>>,
    /// What this process says there of itself.
    here: Option<Hello>,
    /// True if the list or the name server has it.
    is_listed: bool,
    silences: u32,
    /// It greets, and answers nothing: it is asked again then.
    rests_until: Option<Instant>,
    trouble: Option<String>,
}

/// The state of an address, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// The address.
    pub address: SocketAddr,
    /// `this`, `up`, `leaving` or `down`.
    pub state: String,
    /// The last that the node said of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hello: Option<Hello>,
    /// The reason why it does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// News of a node, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It answers.
    Came(NodeId),
    /// It is about to leave, or stays after all.
    Leaves(NodeId, bool),
    /// It does not answer any more.
    Gone(NodeId, String),
    /// It never answered, or says something else: the reason.
    Trouble(String),
}

impl Members {
    pub(super) fn new(me: NodeId, process: String) -> Self {
        Self {
            me,
            process,
            table: Mutex::default(),
            owners: ArcSwap::default(),
        }
    }

    /// The name of this node.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// The name of this process.
    pub(super) fn process(&self) -> &str {
        &self.process
    }

    /// The nodes that come before this one in the order of a key, the owner first; none, where this one is the owner.
    pub(super) fn before_me(&self, key: &str) -> Vec<Arc<Node>> {
        let owners = self.owners.load();
        let mine = (!owners.is_leaving).then(|| score(self.me, key));
        let scored = owners.others.iter().map(|node| (score(node.id, key), node));
        let mut before: Vec<_> = scored.filter(|(theirs, _)| Some(*theirs) > mine).collect();
        before.sort_by(|(one, _), (other, _)| other.cmp(one));
        before
            .into_iter()
            .map(|(_, node)| Arc::clone(node))
            .collect()
    }

    /// The nodes to ask whether they have something already: those of this one's zone first, then in the order of a key. With
    /// `all`, of all nodes but this one. Else only those that come after the owner, which is asked for it anyway: where
    /// this node owns it, or where the owner is in another zone, and others are nearer.
    pub(super) fn near(&self, key: &str, zone: Option<&str>, all: bool) -> Vec<Arc<Node>> {
        let owners = self.owners.load();
        let mine = (!owners.is_leaving).then(|| score(self.me, key));
        let is_near = |node: &Node| zone.is_none() || node.hello.zone.as_deref() == zone;
        let mut scored: Vec<_> = (owners.others.iter())
            .map(|node| (score(node.id, key), node))
            .collect();
        scored.sort_by(|(one, _), (other, _)| other.cmp(one));
        let owner = scored.first().filter(|(theirs, _)| Some(*theirs) > mine);
        let has_owner = owner.is_some();
        match owner {
            Some((_, owner)) if !all && is_near(owner) => return Vec::new(),
            Some(_) | None => {}
        }
        let asked = scored.iter().map(|(_, node)| *node);
        let (near, far): (Vec<_>, Vec<_>) = asked.partition(|node| is_near(node));
        let far = far.into_iter().filter(|_| all || !has_owner);
        near.into_iter().chain(far).map(Arc::clone).collect()
    }

    /// The node of this name, if it answers.
    pub(super) fn by_name(&self, name: &str) -> Option<Arc<Node>> {
        let id = NodeId::parse(name)?;
        let owners = self.owners.load();
        owners.others.iter().find(|node| node.id == id).cloned()
    }

    /// The node with this number, if it answers.
    pub(super) fn by_slot(&self, slot: usize) -> Option<Arc<Node>> {
        let owners = self.owners.load();
        let mut others = owners.others.iter();
        others.find(|node| node.slot == slot).cloned()
    }

    /// The name of the node with this number.
    pub(super) fn name_of(&self, slot: usize) -> String {
        let table = self.table();
        let name = table.slots.get(slot).map(ToString::to_string);
        name.map_or_else(|| "a node".to_owned(), |name| format!("node {name}"))
    }

    /// Number of nodes that answer, this one included.
    #[must_use]
    pub fn count(&self) -> usize {
        self.owners.load().others.len() + 1
    }

    /// The addresses to greet, in order.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.table().by_address.keys().copied().collect()
    }

    /// The list, or the name server, has these addresses now. Others are kept as long as somebody answers there.
    pub(super) fn listed(&self, addresses: &[SocketAddr]) {
        let mut table = self.table();
        for (address, entry) in &mut table.by_address {
            entry.is_listed = addresses.contains(address);
        }
        table
            .by_address
            .retain(|_, entry| entry.is_listed || entry.node.is_some());
        for address in addresses {
            if table.by_address.len() >= ADDRESSES_MAX {
                break;
            }
            table.by_address.entry(*address).or_default().is_listed = true;
        }
    }

    /// A node has answered at an address.
    pub(super) fn heard(&self, address: SocketAddr, hello: Hello) -> Option<News> {
        let mut table = self.table();
        let Some(id) = NodeId::parse(&hello.node) else {
            return self.failed(&mut table, address, "says no name of a node", true);
        };
        if hello.protocol.abs_diff(PROTOCOL) > 1 {
            let why = "is of a version that this one does not understand: upgrade one version after the other";
            return self.failed(&mut table, address, why, true);
        }
        let is_here = hello.process == self.process;
        if !is_here && id == self.me {
            let why = "has this node's name: its state directory is a copy of this one's, or the other way round; remove the catalogue of one, or give it a state.dir of its own";
            return self.failed(&mut table, address, why, true);
        }
        let slot = table.slot_of(id);
        let entry = table.by_address.get_mut(&address)?;
        entry.silences = 0;
        entry.trouble = None;
        entry.here = None;
        if is_here {
            entry.here = Some(hello);
            entry.node = None;
            self.choose(&table);
            return None;
        }
        let before = entry.node.take();
        let same = before.as_ref().filter(|node| node.id == id);
        let news = match same {
            None => Some(News::Came(id)),
            Some(node) if node.hello.draining != hello.draining => {
                Some(News::Leaves(id, hello.draining))
            }
            Some(_) => None,
        };
        let gone = match same {
            Some(node) => node.gone.clone(),
            None => CancellationToken::new(),
        };
        if same.is_none()
            && let Some(other) = &before
        {
            other.gone.cancel();
        }
        entry.node = Some(Arc::new(Node {
            id,
            address,
            slot,
            gone,
            hello,
        }));
        self.choose(&table);
        news
    }

    /// Nobody has answered at an address, or not as a node. `is_sure`: nobody is there.
    pub(super) fn silent(&self, address: SocketAddr, why: &str, is_sure: bool) -> Option<News> {
        self.failed(&mut self.table(), address, why, is_sure)
    }

    fn failed(
        &self,
        table: &mut MutexGuard<'_, Table>,
        address: SocketAddr,
        why: &str,
        is_sure: bool,
    ) -> Option<News> {
        let entry = table.by_address.get_mut(&address)?;
        entry.silences = entry.silences.saturating_add(1);
        entry.here = None;
        let is_new = entry.trouble.as_deref() != Some(why);
        entry.trouble = Some(why.to_owned());
        if !is_sure && entry.silences < SILENCES_MAX {
            return None;
        }
        let Some(node) = entry.node.take() else {
            return is_new.then(|| News::Trouble(why.to_owned()));
        };
        // One that lets nobody in may be about to leave, and gives what it has begun to give. A connection that is broken
        // says so itself.
        if !is_sure {
            node.gone.cancel();
        }
        if !entry.is_listed {
            table.by_address.remove(&address);
        }
        self.choose(table);
        Some(News::Gone(node.id, why.to_owned()))
    }

    /// A node that greets has not answered: it is asked for nothing for a while.
    pub(super) fn rests(&self, address: SocketAddr) {
        let mut table = self.table();
        if let Some(entry) = table.by_address.get_mut(&address) {
            entry.rests_until = Some(Instant::now() + REST);
        }
        self.choose(&table);
    }

    /// This node owns nothing from now on, or does again.
    pub(super) fn leave(&self, is_leaving: bool) {
        let mut table = self.table();
        table.is_leaving = is_leaving;
        self.choose(&table);
    }

    /// True if this node owns nothing any more.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.owners.load().is_leaving
    }

    /// Chooses the nodes that own something. One that has several addresses is asked at the first.
    fn choose(&self, table: &Table) {
        let mut others: Vec<Arc<Node>> = Vec::new();
        let now = Instant::now();
        let asked = table.by_address.values();
        let asked = asked.filter(|it| it.rests_until.is_none_or(|until| until <= now));
        let nodes = asked.filter_map(|it| it.node.as_ref());
        for node in nodes.filter(|node| !node.hello.draining) {
            if others.iter().all(|other| other.id != node.id) {
                others.push(Arc::clone(node));
            }
        }
        let is_leaving = table.is_leaving;
        self.owners.store(Arc::new(Owners { others, is_leaving }));
    }

    /// The address of the node that a person means: by its name or the beginning of it, its machine's, or its address.
    ///
    /// # Errors
    /// One line: there is none, or there are several.
    pub(super) fn find(&self, text: &str) -> Result<SocketAddr, String> {
        let fits = |member: &&MemberReport| {
            let hello = member.hello.as_ref();
            let by_name = hello.is_some_and(|it| it.node.starts_with(text) || it.host == text);
            by_name || member.address.to_string() == text || member.address.ip().to_string() == text
        };
        let members = self.report();
        let mut found = members.iter().filter(|_| !text.is_empty()).filter(fits);
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one.address),
            (Some(_), Some(_)) => Err(format!("{text} is several nodes: write more of its name")),
            (None, _) => Err(format!(
                "there is no node {text}: `roadstead cluster status` shows them"
            )),
        }
    }

    /// True if this process answers at an address.
    pub(super) fn is_here(&self, address: SocketAddr) -> bool {
        let table = self.table();
        let entry = table.by_address.get(&address);
        entry.is_some_and(|entry| entry.here.is_some())
    }

    /// All addresses, for people.
    #[must_use]
    pub fn report(&self) -> Vec<MemberReport> {
        let table = self.table();
        let entries = table.by_address.iter();
        entries
            .map(|(address, entry)| {
                let state = match &entry.node {
                    _ if entry.here.is_some() => "this",
                    Some(node) if node.hello.draining => "leaving",
                    Some(_) => "up",
                    None => "down",
                };
                MemberReport {
                    address: *address,
                    state: state.to_owned(),
                    hello: (entry.node.as_ref().map(|node| &node.hello))
                        .or(entry.here.as_ref())
                        .cloned(),
                    trouble: entry.trouble.clone(),
                }
            })
            .collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change leaves the table whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The number of a name.
    fn slot_of(&mut self, id: NodeId) -> usize {
        if let Some(slot) = self.slots.iter().position(|known| *known == id) {
            return slot;
        }
        if self.slots.len() < SLOTS_MAX {
            self.slots.push(id);
            return self.slots.len() - 1;
        }
        let used: Vec<usize> = (self.by_address.values())
            .filter_map(|entry| entry.node.as_ref().map(|node| node.slot))
            .collect();
        // There are fewer addresses than numbers.
        let free = (0..SLOTS_MAX).find(|slot| !used.contains(slot));
        let free = free.unwrap_or_default();
        if let Some(slot) = self.slots.get_mut(free) {
            *slot = id;
        }
        free
    }
}

/// The place of a node in the order of a key: the highest first. Fixed, since all nodes have to agree.
fn score(node: NodeId, key: &str) -> u64 {
    let hash = digest(&SHA256, &[&node.0[..], key.as_bytes()].concat());
    let first = hash.as_ref().first_chunk::<8>();
    first.map_or(0, |first| u64::from_be_bytes(*first))
}

/// The name of this process.
///
/// # Errors
/// There are no random numbers.
pub(super) fn process() -> Result<String, String> {
    let mut text = String::new();
    // Writing to a string does not fail.
    write!(text, "{}", NodeId::random()?).ok();
    Ok(text)
}

#[cfg(test)]
mod tests;
