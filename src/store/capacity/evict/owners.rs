//! Whose blobs they are: how much of the store each upstream takes.

/// So many upstreams are told apart; the blobs of more are nobody's.
const OWNERS_MAX: usize = 255;

/// A number that stands for an upstream, and for nobody where it is 0. It is that of the index, and
/// the same in every run.
pub type OwnerId = u32;

/// Bytes that each upstream's blobs take. Within the ledger an upstream is one byte.
#[derive(Debug)]
pub(super) struct Owners {
    ids: Vec<OwnerId>,
    bytes: Vec<u64>,
}

impl Default for Owners {
    fn default() -> Self {
        Self {
            ids: vec![0],
            bytes: vec![0],
        }
    }
}

impl Owners {
    /// The byte that stands for an upstream here.
    pub(super) fn short(&mut self, id: OwnerId) -> u8 {
        let known = self.ids.iter().position(|known| *known == id);
        let at = known.unwrap_or_else(|| {
            if self.ids.len() > OWNERS_MAX {
                return 0;
            }
            self.ids.push(id);
            self.bytes.push(0);
            self.ids.len() - 1
        });
        u8::try_from(at).unwrap_or_default()
    }

    pub(super) fn id(&self, short: u8) -> OwnerId {
        self.ids.get(usize::from(short)).copied().unwrap_or(0)
    }

    /// Bytes that its blobs take.
    pub(super) fn bytes(&self, short: u8) -> u64 {
        self.bytes.get(usize::from(short)).copied().unwrap_or(0)
    }

    /// It has one more.
    pub(super) fn add(&mut self, short: u8, size: u64) {
        if let Some(bytes) = self.bytes.get_mut(usize::from(short)) {
            *bytes = bytes.saturating_add(size);
        }
    }

    /// It has one less.
    pub(super) fn take(&mut self, short: u8, size: u64) {
        if let Some(bytes) = self.bytes.get_mut(usize::from(short)) {
            *bytes = bytes.saturating_sub(size);
        }
    }
}
