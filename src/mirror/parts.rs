//! Several parts of a blob in one answer, read one after the other.

use std::collections::VecDeque;
use std::time::Duration;

use super::answer::{BlobReader, Content};
use crate::oci::Part;

/// So many parts ahead of the one that is read are told to a transfer under way: as many as it fetches at once for
/// readers that wait at different places.
const AHEAD_MAX: usize = 8;

/// The readers of some parts of a blob, in their order.
#[derive(Debug)]
pub struct PartReaders {
    content: Content,
    /// Those that come next.
    ahead: VecDeque<BlobReader>,
    rest: std::vec::IntoIter<Part>,
}

impl PartReaders {
    pub(super) fn new(content: Content, parts: Vec<Part>) -> Self {
        Self {
            content,
            ahead: VecDeque::new(),
            rest: parts.into_iter(),
        }
    }

    /// Time that it is worth waiting for the first bytes before the head is sent.
    #[must_use]
    pub fn patience(&self) -> Duration {
        match &self.content {
            Content::Stored(..) | Content::Hosted(_) | Content::Filling(_) => Duration::ZERO,
            Content::Passing(passage) => passage.patience(),
        }
    }

    /// The reader of the next part; `None` after the last.
    pub fn next_part(&mut self) -> Option<BlobReader> {
        // What passes through is asked of upstream as soon as it has a reader.
        let ahead_max = match &self.content {
            Content::Filling(_) => AHEAD_MAX,
            Content::Stored(..) | Content::Hosted(_) | Content::Passing(_) => 1,
        };
        while self.ahead.len() < ahead_max
            && let Some(part) = self.rest.next()
        {
            let mut content = self.content.clone();
            if let Content::Filling(filling) = &mut content {
                filling.asked = Some(part.asked);
            }
            let mut reader = content.reader(Some(part.range));
            reader.announce();
            self.ahead.push_back(reader);
        }
        self.ahead.pop_front()
    }
}
