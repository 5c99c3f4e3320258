//! A hook before commits and reads, for tests.

use std::fmt;
use std::io;
use std::sync::Arc;

/// Asked before each commit and each read, both of which it may hold up, and the first of which it may fail: for tests.
#[derive(Clone, Default)]
pub struct Gate {
    commits: Option<Arc<dyn Fn() -> io::Result<()> + Send + Sync>>,
    reads: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Gate {
    /// Asks this before each commit.
    pub fn of(ask: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self {
            commits: Some(Arc::new(ask)),
            reads: None,
        }
    }

    /// Asks this before each read.
    pub fn of_reads(ask: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            commits: None,
            reads: Some(Arc::new(ask)),
        }
    }

    pub(super) fn pass(&self) -> io::Result<()> {
        self.commits.as_ref().map_or(Ok(()), |ask| ask())
    }

    pub(super) fn pass_read(&self) {
        if let Some(ask) = &self.reads {
            ask();
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("commits", &self.commits.is_some())
            .field("reads", &self.reads.is_some())
            .finish()
    }
}

impl PartialEq for Gate {
    fn eq(&self, other: &Self) -> bool {
        fn same<T: ?Sized>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
            match (one, other) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                (one, other) => one.is_none() && other.is_none(),
            }
        }
        same(self.commits.as_ref(), other.commits.as_ref())
            && same(self.reads.as_ref(), other.reads.as_ref())
    }
}

impl Eq for Gate {}
