//! Clients that were here, and the pulls that they made: a line of the log for each pull, and the answers of the admin API.
//!
//! A pull is what one client asks of one repository without a longer pause: a manifest and its blobs. Another tag is another
//! pull, and so is the same one after a while. A request tells of itself when it begins and when it ends; it waits for nobody
//! but other requests of clients in the same part of the table.

use crate::clock::{Clock, Timestamp};
use crate::mirror::inspect::When;
use crate::oci::{Digest, Reference, Repository, UpstreamName};
use crate::telemetry::{Kind, Metrics, Outcome};
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Parts of the table, so that requests of different clients seldom meet.
const PARTS: usize = 16;

/// Clients in a part: some 500 bytes each, and their pulls. The one that was not here for longest makes room.
const CLIENTS_MAX: usize = 1024;

/// Pulls of one client under way, some 500 bytes each: a node starts some tens of containers at once.
const PULLS_MAX: usize = 32;

/// Pulls under way in a part. Past that a client's new one takes the place of its own oldest, or is not told of.
const PULLS_OF_PART_MAX: usize = 1024;

/// Pulls that have ended and are still told of.
const ENDED_MAX: usize = 1000;

/// A pull without a request for so long has ended.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// After so long another request for the tag begins another pull, though there was no pause: somebody pulls again and again.
const PULL_MAX: Duration = Duration::from_mins(5);

/// A client counts as seen for so long.
const SEEN_FOR: Duration = Duration::from_hours(1);

/// Time between two looks for pulls that have ended.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// So much of a `User-Agent` is kept.
const USER_AGENT_BYTES_MAX: usize = 128;

/// The target of the log lines of pulls.
const TARGET: &str = "roadstead::pull";

/// Clients and pulls. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Visits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: [Mutex<Part>; PARTS],
    /// The latest last.
    ended: Mutex<VecDeque<PullEntry>>,
    clock: Arc<dyn Clock>,
}

/// A part of the table.
#[derive(Debug, Default)]
struct Part {
    clients: HashMap<IpAddr, Client>,
    /// Number of pulls under way.
    pulls: usize,
    /// Number of those that have begun so far.
    begun: u64,
}

#[derive(Debug)]
struct Client {
    user_agent: String,
    first: Timestamp,
    last: Timestamp,
    requests: u64,
    bytes: u64,
    pulls: Vec<Pull>,
}

/// The number of a pull, of those of its part of the table.
pub(crate) type PullId = u64;

/// A pull under way.
#[derive(Debug)]
struct Pull {
    id: PullId,
    upstream: UpstreamName,
    repository: Repository,
    reference: Reference,
    digest: Option<Digest>,
    first: Timestamp,
    last: Timestamp,
    /// Requests under way.
    running: u32,
    requests: u64,
    /// Bytes that needed no transfer of their own, and the others.
    cache_bytes: u64,
    upstream_bytes: u64,
}

/// A request of a client for something of a repository.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit<'a> {
    pub(crate) client: IpAddr,
    pub(crate) upstream: &'a UpstreamName,
    pub(crate) repository: &'a Repository,
}

/// The end of such a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) kind: Kind,
    /// The reference of a manifest.
    pub(crate) reference: Option<&'a Reference>,
    pub(crate) digest: Option<&'a Digest>,
    /// `None`: the client left before there was an answer.
    pub(crate) outcome: Option<Outcome>,
    pub(crate) bytes: u64,
    pub(crate) user_agent: Option<&'a HeaderValue>,
}

/// The clients that were here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct ClientList {
    /// The one that was here last first.
    pub(crate) clients: Vec<ClientEntry>,
}

/// A client that was here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct ClientEntry {
    pub(crate) address: IpAddr,
    pub(crate) user_agent: String,
    pub(crate) first_seen: When,
    pub(crate) last_seen: When,
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
}

/// A pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PullEntry {
    pub(crate) image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<String>,
    pub(crate) client: IpAddr,
    pub(crate) user_agent: String,
    pub(crate) started_at: When,
    /// `None`: it is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ended_at: Option<When>,
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    pub(crate) cache_bytes: u64,
    pub(crate) upstream_bytes: u64,
}

impl Visits {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            parts: Default::default(),
            ended: Mutex::default(),
            clock,
        }))
    }

    /// A request has begun. The pull of its client that it goes on with, if there is one: [`Self::ended`] must follow.
    pub(crate) fn begun(&self, visit: Visit<'_>) -> Option<PullId> {
        let address = client_of(visit.client);
        let mut part = self.part(address);
        let client = part.clients.get_mut(&address)?;
        let pull = client.latest_pull(visit)?;
        pull.running = pull.running.saturating_add(1);
        Some(pull.id)
    }

    /// A request has ended. `pull`: what [`Self::begun`] said.
    pub(crate) fn ended(&self, visit: Visit<'_>, ended: Ended<'_>, pull: Option<PullId>) {
        let (address, now) = (client_of(visit.client), self.0.clock.now());
        let mut part = self.part(address);
        let Part {
            clients,
            pulls,
            begun,
        } = &mut *part;
        if !clients.contains_key(&address) && clients.len() >= CLIENTS_MAX {
            *pulls -= self.make_room(clients);
        }
        let client = clients.entry(address).or_insert_with(|| Client::new(now));
        client.saw(&ended, now);
        if let Some(before) = pull.and_then(|id| client.pulls.iter_mut().find(|it| it.id == id)) {
            before.running = before.running.saturating_sub(1);
        }
        let latest = client.latest_pull(visit);
        if let Some(reference) = ended.begins_a_pull()
            && latest.is_none_or(|latest| latest.is_another(reference, now))
        {
            let is_full = client.pulls.len() >= PULLS_MAX || *pulls >= PULLS_OF_PART_MAX;
            if is_full && let Some(oldest) = client.take_oldest() {
                self.end(address, &client.user_agent, &oldest);
                *pulls -= 1;
            }
            if *pulls < PULLS_OF_PART_MAX {
                *begun += 1;
                let pull = Pull::of(*begun, visit, reference, &ended, now);
                client.pulls.push(pull);
                *pulls += 1;
            }
        }
        // A blob is of the pull that it began in; a manifest may have begun another one.
        let of_blob = pull.filter(|_| ended.kind != Kind::Manifest);
        if let Some(pull) = client.pull(visit, of_blob) {
            pull.saw(&ended, now);
        }
    }

    /// Ends pulls after which nothing came, and counts the clients, for as long as it is polled.
    pub(crate) async fn keep(&self, metrics: &Metrics) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            metrics.clients_seen(self.look(PAUSE_MAX));
        }
    }

    /// Ends all pulls: nothing more comes.
    pub(crate) fn finish(&self) {
        self.look(Duration::ZERO);
    }

    /// Ends pulls without a request for so long. Returns the number of clients that were here lately.
    fn look(&self, pause: Duration) -> usize {
        let now = self.0.clock.now();
        let mut seen = 0;
        for part in &self.0.parts {
            let mut part = locked(part);
            let Part { clients, pulls, .. } = &mut *part;
            for (address, client) in clients.iter_mut() {
                seen += usize::from(now.since(client.last) < SEEN_FOR);
                let is_over = |pull: &mut Pull| {
                    pause.is_zero() || (pull.running == 0 && now.since(pull.last) >= pause)
                };
                for pull in client.pulls.extract_if(.., is_over) {
                    self.end(*address, &client.user_agent, &pull);
                    *pulls -= 1;
                }
            }
        }
        seen
    }

    /// The clients, the one that was here last first.
    pub(crate) fn clients(&self) -> Vec<ClientEntry> {
        let mut clients = Vec::new();
        for part in &self.0.parts {
            let part = locked(part);
            let entries = part.clients.iter();
            clients.extend(entries.map(|(address, client)| client.entry(*address)));
        }
        clients.sort_by_key(|it: &ClientEntry| std::cmp::Reverse((it.last_seen, it.address)));
        clients
    }

    /// The pulls under way, and then those that have ended, the latest first.
    pub(crate) fn pulls(&self) -> Vec<PullEntry> {
        let mut pulls = Vec::new();
        for part in &self.0.parts {
            for (address, client) in &locked(part).clients {
                let entries = client.pulls.iter();
                pulls.extend(entries.map(|it| it.entry(*address, &client.user_agent, None)));
            }
        }
        pulls.sort_by_key(|it: &PullEntry| std::cmp::Reverse(it.started_at));
        pulls.extend(locked(&self.0.ended).iter().rev().cloned());
        pulls
    }

    fn part(&self, address: IpAddr) -> MutexGuard<'_, Part> {
        let last = match address {
            IpAddr::V4(it) => it.octets()[3],
            // The last of the network's part: the rest is nothing.
            IpAddr::V6(it) => it.octets()[7],
        };
        let [first, ..] = &self.0.parts;
        locked(self.0.parts.get(usize::from(last) % PARTS).unwrap_or(first))
    }

    /// Forgets the client that was not here for longest. Returns the number of its pulls.
    fn make_room(&self, clients: &mut HashMap<IpAddr, Client>) -> usize {
        let oldest = clients.iter().min_by_key(|(_, client)| client.last);
        let oldest = oldest.map(|(address, _)| *address);
        let Some((address, client)) = oldest.and_then(|it| clients.remove_entry(&it)) else {
            return 0;
        };
        for pull in &client.pulls {
            self.end(address, &client.user_agent, pull);
        }
        client.pulls.len()
    }

    /// Tells of a pull that has ended. One that nothing was sent for is none: somebody looked whether a tag had moved.
    fn end(&self, client: IpAddr, user_agent: &str, pull: &Pull) {
        if pull.cache_bytes + pull.upstream_bytes == 0 {
            return;
        }
        let entry = pull.entry(client, user_agent, Some(When(pull.last)));
        let seconds = pull.last.since(pull.first).as_secs_f64();
        tracing::info!(
            target: TARGET,
            image = entry.image,
            digest = entry.digest,
            %client,
            user_agent,
            requests = entry.requests,
            bytes = entry.bytes,
            from_cache = entry.cache_bytes,
            from_upstream = entry.upstream_bytes,
            seconds,
            "pulled"
        );
        let mut ended = locked(&self.0.ended);
        if ended.len() >= ENDED_MAX {
            ended.pop_front();
        }
        ended.push_back(entry);
    }
}

impl Client {
    fn new(now: Timestamp) -> Self {
        Self {
            user_agent: String::new(),
            first: now,
            last: now,
            requests: 0,
            bytes: 0,
            pulls: Vec::new(),
        }
    }

    /// The pull of a repository that has begun last.
    fn latest_pull(&mut self, visit: Visit<'_>) -> Option<&mut Pull> {
        let pulls = self.pulls.iter_mut();
        let own =
            pulls.filter(|it| it.repository == *visit.repository && it.upstream == *visit.upstream);
        own.max_by_key(|it| it.id)
    }

    /// The pull of this number, if it is under way still, or else the latest of the repository.
    fn pull(&mut self, visit: Visit<'_>, id: Option<PullId>) -> Option<&mut Pull> {
        match id.and_then(|id| self.pulls.iter().position(|it| it.id == id)) {
            Some(at) => self.pulls.get_mut(at),
            None => self.latest_pull(visit),
        }
    }

    fn saw(&mut self, ended: &Ended<'_>, now: Timestamp) {
        self.last = now;
        self.requests += 1;
        self.bytes = self.bytes.saturating_add(ended.bytes);
        let said = ended.user_agent.and_then(|it| it.to_str().ok());
        let said = said.map(|text| &text[..text.floor_char_boundary(USER_AGENT_BYTES_MAX)]);
        if let Some(said) = said.filter(|said| *said != self.user_agent) {
            said.clone_into(&mut self.user_agent);
        }
    }

    /// Takes out the pull that has paused longest.
    fn take_oldest(&mut self) -> Option<Pull> {
        let pulls = self.pulls.iter().enumerate();
        let (oldest, _) = pulls.min_by_key(|(_, pull)| pull.last)?;
        Some(self.pulls.swap_remove(oldest))
    }

    fn entry(&self, address: IpAddr) -> ClientEntry {
        ClientEntry {
            address,
            user_agent: self.user_agent.clone(),
            first_seen: When(self.first),
            last_seen: When(self.last),
            requests: self.requests,
            bytes: self.bytes,
        }
    }
}

impl Pull {
    fn of(
        id: PullId,
        visit: Visit<'_>,
        reference: &Reference,
        ended: &Ended<'_>,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            upstream: visit.upstream.clone(),
            repository: visit.repository.clone(),
            reference: reference.clone(),
            digest: ended.digest.copied(),
            first: now,
            last: now,
            running: 0,
            requests: 0,
            cache_bytes: 0,
            upstream_bytes: 0,
        }
    }

    /// True if a request for this manifest begins another pull. What is asked for by digest may be a part of this one.
    fn is_another(&self, reference: &Reference, now: Timestamp) -> bool {
        let is_tag = matches!(reference, Reference::Tag(_));
        is_tag && (self.reference != *reference || now.since(self.first) >= PULL_MAX)
    }

    fn saw(&mut self, ended: &Ended<'_>, now: Timestamp) {
        self.last = now;
        self.requests += 1;
        let bytes = match ended.outcome {
            Some(Outcome::Hit | Outcome::Stale | Outcome::Collapsed) => &mut self.cache_bytes,
            _ => &mut self.upstream_bytes,
        };
        *bytes = bytes.saturating_add(ended.bytes);
    }

    fn entry(&self, client: IpAddr, user_agent: &str, ended_at: Option<When>) -> PullEntry {
        let separator = match self.reference {
            Reference::Tag(_) => ':',
            Reference::Digest(_) => '@',
        };
        PullEntry {
            image: format!(
                "{}/{}{separator}{}",
                self.upstream, self.repository, self.reference
            ),
            digest: self.digest.as_ref().map(Digest::to_string),
            client,
            user_agent: user_agent.to_owned(),
            started_at: When(self.first),
            ended_at,
            requests: self.requests,
            bytes: self.cache_bytes + self.upstream_bytes,
            cache_bytes: self.cache_bytes,
            upstream_bytes: self.upstream_bytes,
        }
    }
}

impl Ended<'_> {
    /// The reference of a manifest that was given, or its head: names that are not there are nobody's pull.
    fn begins_a_pull(&self) -> Option<&Reference> {
        let is_given = matches!(
            self.outcome,
            Some(
                Outcome::Hit
                    | Outcome::Miss
                    | Outcome::Collapsed
                    | Outcome::Stale
                    | Outcome::Partial
                    | Outcome::Bypass
            )
        );
        self.reference
            .filter(|_| self.kind == Kind::Manifest && is_given)
    }
}

/// The address of a client. A host with IPv6 may have any address of its network, and is one client.
fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(it) => IpAddr::V4(it),
        IpAddr::V6(it) if it.is_loopback() => IpAddr::V6(it),
        IpAddr::V6(it) => {
            let [a, b, c, d, ..] = it.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// A panic leaves a count too low, and nothing else.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
