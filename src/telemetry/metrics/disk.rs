//! Operations of the store on its disk that failed.

use prometheus::{IntCounter, IntGauge};

use super::Set;

/// One kind of operation of the store on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskOp {
    /// Making a file or a directory, or opening one to write to.
    Create,
    /// Opening a file to read it, and reading.
    Read,
    /// Writing.
    Write,
    /// Cutting a file off.
    Truncate,
    /// Making a file durable (fsync).
    Sync,
    /// Giving a file another name.
    Rename,
    /// Making names durable (fsync of a directory).
    SyncDirectory,
    /// Deleting.
    Remove,
    /// Reading the index.
    ReadIndex,
    /// Writing the index, or making it larger.
    WriteIndex,
    /// Making the index durable: a commit.
    SyncIndex,
}

impl DiskOp {
    /// Every operation, in the order of the labels' documentation.
    pub const ALL: [Self; 11] = [
        Self::Create,
        Self::Read,
        Self::Write,
        Self::Truncate,
        Self::Sync,
        Self::Rename,
        Self::SyncDirectory,
        Self::Remove,
        Self::ReadIndex,
        Self::WriteIndex,
        Self::SyncIndex,
    ];

    /// The label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Read => "read",
            Self::Write => "write",
            Self::Truncate => "truncate",
            Self::Sync => "sync",
            Self::Rename => "rename",
            Self::SyncDirectory => "sync_directory",
            Self::Remove => "remove",
            Self::ReadIndex => "read_index",
            Self::WriteIndex => "write_index",
            Self::SyncIndex => "sync_index",
        }
    }

    /// True if it is done to the index.
    #[must_use]
    pub fn is_index(self) -> bool {
        matches!(self, Self::ReadIndex | Self::WriteIndex | Self::SyncIndex)
    }
}

/// The families.
#[derive(Debug)]
pub struct Disk {
    degraded: IntGauge,
    errors: [(DiskOp, IntCounter); DiskOp::ALL.len()],
}

impl Disk {
    pub(super) fn new(set: &Set) -> Self {
        let errors = set.counters(
            "roadstead_store_errors_total",
            "Operations of the store on its disk that failed.",
            &["op"],
        );
        Self {
            degraded: set.gauge(
                "roadstead_store_degraded",
                "1 while the store's disk or index fails: what is not stored passes through.",
            ),
            errors: DiskOp::ALL.map(|op| (op, errors.with_label_values(&[op.label()]))),
        }
    }

    /// An operation failed.
    pub fn failed(&self, op: DiskOp) {
        if let Some((_, counter)) = self.errors.iter().find(|(of, _)| *of == op) {
            counter.inc();
        }
    }

    /// Sets if the disk fails.
    pub fn degraded(&self, degraded: bool) {
        self.degraded.set(i64::from(degraded));
    }
}
