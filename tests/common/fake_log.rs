//! What the fake registry was asked and what it sent, with an event to await.

use std::collections::HashMap;
use std::sync::Mutex;

use http::{HeaderMap, Method};
use tokio::sync::watch;

use super::within;

/// A test that asks more often than this is wrong; the log does not grow past it.
const RECORDS_MAX: usize = 20_000;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Ping,
    Manifest,
    Blob,
    Tags,
    Referrers,
    Token,
    /// A blob as a content delivery network serves it: `/cdn/<digest>`.
    Cdn,
    Other,
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Record {
    pub method: Method,
    pub kind: Kind,
    pub path: String,
    pub query: String,
    /// The repository, where the path names one.
    pub repository: String,
    /// The tag or digest, where the path names one.
    pub reference: String,
    pub headers: HeaderMap,
}

impl Record {
    /// A header's text, empty when it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap_or("(not text)"))
    }

    /// The Range: the first byte, and the byte after the last where one is named.
    pub fn range(&self) -> Option<(usize, Option<usize>)> {
        let (from, to) = self
            .header("range")
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some((
            from.parse().ok()?,
            to.parse().ok().map(|last: usize| last + 1),
        ))
    }
}

/// A look at everything that has happened so far.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub records: Vec<Record>,
    /// Body bytes handed to the connection, by tag or digest.
    pub sent: HashMap<String, u64>,
}

impl Counters {
    /// How many requests satisfy `wanted`.
    pub fn count(&self, wanted: impl Fn(&Record) -> bool) -> usize {
        self.records.iter().filter(|record| wanted(record)).count()
    }

    /// Requests of this method and kind.
    pub fn of(&self, method: &Method, kind: Kind) -> usize {
        self.count(|record| record.method == *method && record.kind == kind)
    }

    /// GETs of one blob, at the registry or as a CDN.
    pub fn blob_gets(&self, digest: &str) -> usize {
        self.count(|record| {
            record.method == Method::GET
                && matches!(record.kind, Kind::Blob | Kind::Cdn)
                && record.reference == digest
        })
    }

    /// What the GETs of one blob asked for, in order: the first byte, and the byte after the last
    /// where one was named; `None` for all of it.
    pub fn blob_ranges(&self, digest: &str) -> Vec<Option<(usize, Option<usize>)>> {
        let gets = self.records.iter().filter(|record| {
            record.method == Method::GET
                && matches!(record.kind, Kind::Blob | Kind::Cdn)
                && record.reference == digest
        });
        gets.map(Record::range).collect()
    }

    /// HEADs of one blob.
    pub fn blob_heads(&self, digest: &str) -> usize {
        self.count(|record| {
            record.method == Method::HEAD && record.kind == Kind::Blob && record.reference == digest
        })
    }

    /// GETs of one tag or manifest digest.
    pub fn manifest_gets(&self, reference: &str) -> usize {
        self.count(|record| {
            record.method == Method::GET
                && record.kind == Kind::Manifest
                && record.reference == reference
        })
    }

    /// HEADs of one tag or manifest digest.
    pub fn manifest_heads(&self, reference: &str) -> usize {
        self.count(|record| {
            record.method == Method::HEAD
                && record.kind == Kind::Manifest
                && record.reference == reference
        })
    }

    /// Tokens asked for (POST attempts, which are refused with 405, not counted).
    pub fn token_requests(&self) -> usize {
        self.of(&Method::GET, Kind::Token)
    }

    /// Body bytes sent for a tag or digest.
    pub fn sent(&self, reference: &str) -> u64 {
        self.sent.get(reference).copied().unwrap_or(0)
    }
}

/// The log itself.
#[derive(Debug)]
pub struct Log {
    counters: Mutex<Counters>,
    changed: watch::Sender<u64>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            counters: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }
}

impl Log {
    /// Takes down a request.
    pub fn record(&self, record: Record) {
        let mut counters = self.counters.lock().unwrap();
        assert!(
            counters.records.len() < RECORDS_MAX,
            "a flood of upstream requests"
        );
        counters.records.push(record);
        drop(counters);
        self.changed.send_modify(|version| *version += 1);
    }

    /// Takes down body bytes.
    pub fn sent(&self, reference: &str, bytes: usize) {
        let mut counters = self.counters.lock().unwrap();
        *counters.sent.entry(reference.to_owned()).or_default() += bytes as u64;
        drop(counters);
        self.changed.send_modify(|version| *version += 1);
    }

    /// Everything so far.
    pub fn counters(&self) -> Counters {
        self.counters.lock().unwrap().clone()
    }

    /// Forgets everything so far, so that a test can count from here.
    pub fn reset(&self) {
        *self.counters.lock().unwrap() = Counters::default();
    }

    /// Forgets what is known of one tag or digest.
    pub fn forget(&self, reference: &str) {
        let mut counters = self.counters.lock().unwrap();
        counters.sent.remove(reference);
        counters
            .records
            .retain(|record| record.reference != reference);
    }

    /// Waits until `wanted` holds.
    pub async fn wait_for(&self, what: &str, wanted: impl Fn(&Counters) -> bool) {
        let mut changes = self.changed.subscribe();
        let waiting = async {
            while !wanted(&self.counters.lock().unwrap()) {
                changes.changed().await.unwrap();
            }
        };
        within(what, waiting).await;
    }
}
