//! The state between the two sides of a fill: the bytes that are there, those that were doubted and
//! came out different, and what was written last.
//!
//! A fill begins in its first *round*. A doubt takes bytes out of the coverage and begins the next
//! round. Within a round a covered byte never changes: what is covered or being written is nobody
//! else's to write. So whoever read bytes that were covered, and finds the round unchanged
//! afterwards, has read them right.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;

use crate::store::FillKey;
use crate::store::cas::coverage::Coverage;
use crate::store::cas::demand::Wants;
use crate::store::cas::pin::{Pin, Spare};
use crate::store::cas::record::Unrecorded;
use crate::store::disk::DiskFile;

/// Bytes written last that a fill keeps in memory: readers that keep
/// up take them from there, without a copy or a hop to the blocking pool. One
/// large write and a half, so that whoever was woken by a write still finds it.
const RECENT_BYTES_MAX: usize = 1536 * 1024;

/// And in how many pieces: an upstream may send a byte at a time, and each
/// piece costs more than that to remember.
const RECENT_CHUNKS_MAX: usize = 2048;

/// Distance behind the contiguous prefix past which nothing is kept: connections that fetch the
/// blob's later parts would push out what readers at the front are about to ask for.
const RECENT_AHEAD_BYTES_MAX: u64 = RECENT_BYTES_MAX as u64;

/// Number of times that the bytes of one fill may be doubted. Each time costs a transfer and a set of ranges;
/// whoever tries more endpoints than this has lost its way.
const DOUBTS_MAX: usize = 64;

/// In how many ranges it is remembered what came out different after one doubt: 64 KiB of memory.
/// Past it gaps are closed, so that a reader may be broken without need, but never spared.
const ALTERED_RANGES_MAX: usize = 4096;

/// The state that both sides share.
#[derive(Debug)]
pub(in crate::store) struct Shared {
    pub(in crate::store) key: FillKey,
    /// Set once when the partial file is opened; after the commit it is the
    /// blob's file, because a rename does not move an open file.
    pub(in crate::store) file: OnceLock<Arc<DiskFile>>,
    state: Mutex<State>,
    readers: AtomicUsize,
    pub(in crate::store) wants: Arc<Wants>,
    /// True if it resumed what an earlier transfer left.
    pub(in crate::store) taken_up: AtomicBool,
    /// Set at the commit: the blob stays open as long as anybody holds the fill.
    pub(in crate::store) pin: OnceLock<Pin>,
    /// Set at the commit of a blob that was stored already: the room that its own file takes until nobody has it.
    pub(in crate::store) spare: OnceLock<Spare>,
}

#[derive(Debug)]
struct State {
    /// Bytes that are there.
    coverage: Coverage,
    /// Bytes that are being written: not covered yet, and nobody else's to write.
    writing: Coverage,
    /// Bytes that were covered before a doubt, and are not again: the file still has what they were.
    old: Coverage,
    /// One for each round: where it wrote something else over old bytes.
    altered: Vec<Coverage>,
    recent: Recent,
}

/// The chunks written last, with their offsets, oldest first: bytes that are in the file, and covered.
#[derive(Debug, Default)]
struct Recent {
    chunks: VecDeque<(u64, Bytes)>,
    bytes: usize,
}

/// The bytes that one reader has been given.
#[derive(Debug)]
pub(in crate::store) struct Span {
    start: u64,
    position: u64,
    /// The round in which it last looked; 0 before it ever did.
    round: usize,
    /// Offset up to which the span was given in rounds before that one ends here.
    exposed: u64,
}

/// Something that a reader was given has come out different.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store) struct Altered;

/// The bytes that one write may write.
#[derive(Debug)]
pub(in crate::store) struct Claim {
    /// The bytes, with their offsets, in order.
    pub(in crate::store) pieces: Vec<(u64, Bytes)>,
    /// Those of them that meet old bytes, which must be compared.
    pub(in crate::store) old: Coverage,
    ranges: Vec<Range<u64>>,
}

impl Shared {
    pub(in crate::store) fn new(key: FillKey) -> Self {
        Self {
            key,
            file: OnceLock::new(),
            state: Mutex::new(State {
                coverage: Coverage::default(),
                writing: Coverage::default(),
                old: Coverage::default(),
                altered: vec![Coverage::default()],
                recent: Recent::default(),
            }),
            readers: AtomicUsize::new(0),
            wants: Arc::default(),
            taken_up: AtomicBool::new(false),
            pin: OnceLock::new(),
            spare: OnceLock::new(),
        }
    }

    /// The bytes that are there now.
    pub(in crate::store) fn coverage(&self) -> Coverage {
        self.state().coverage.clone()
    }

    /// Number of bytes there from offset 0 without a gap.
    pub(in crate::store) fn prefix(&self) -> u64 {
        self.state().coverage.prefix()
    }

    pub(in crate::store) fn readers(&self) -> usize {
        self.readers.load(Ordering::Relaxed)
    }

    pub(in crate::store) fn reader_comes(&self) {
        self.readers.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::store) fn reader_goes(&self) {
        self.readers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Forgets what was written last: nobody writes any more, and readers use the file.
    pub(in crate::store) fn forget_recent(&self) {
        self.state().recent = Recent::default();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Its parts are changed by calls that cannot panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For readers.
impl Shared {
    /// The end of what is covered from the start of the span without a gap. When that is before
    /// the span's end, something that was given is doubted, and nothing more may be given before
    /// it is known how that comes out: what a client got would be of two minds.
    ///
    /// # Errors
    /// [`Altered`].
    pub(in crate::store) fn look(&self, span: &mut Span) -> Result<u64, Altered> {
        let state = self.state();
        // Since the round in which the span last looked: that round could alter what was given
        // before it; the rounds after it, all that was given.
        let mut rounds = state.altered.iter().skip(span.round.saturating_sub(1));
        let own = rounds.next();
        if own.is_some_and(|altered| altered.intersects(span.start..span.exposed))
            || rounds.any(|altered| altered.intersects(span.start..span.position))
        {
            return Err(Altered);
        }
        if span.round != state.round() {
            span.round = state.round();
            span.exposed = span.position;
        }
        Ok(state.coverage.run_end(span.start))
    }

    /// Gives the span the beginning of `range`, which it found covered, if it was written last.
    pub(in crate::store) fn give_recent(
        &self,
        span: &mut Span,
        range: &Range<u64>,
    ) -> Option<Bytes> {
        let state = self.state();
        if span.round != state.round() {
            return None;
        }
        let bytes = state.recent.find(range)?;
        span.position += bytes.len() as u64;
        Some(bytes)
    }

    /// Gives the span bytes that were read from the file where it found them covered. Not if a
    /// doubt came meanwhile: they may be anything then.
    #[must_use]
    pub(in crate::store) fn give(&self, span: &mut Span, bytes: usize) -> bool {
        let current = span.round == self.state().round();
        if current {
            span.position += bytes as u64;
        }
        current
    }

    /// True if no doubt came since the span last looked.
    pub(in crate::store) fn is_current(&self, span: &Span) -> bool {
        span.round == self.state().round()
    }
}

/// For the writer.
impl Shared {
    /// Takes what an earlier run left as covered.
    pub(in crate::store) fn take_up(&self, coverage: Coverage) {
        self.state().coverage = coverage;
    }

    /// Takes what lies at or after `total` out of the coverage; says whether there was anything.
    pub(in crate::store) fn clip(&self, total: u64) -> bool {
        let mut state = self.state();
        let over = state.coverage.end() > total;
        state.coverage.remove(total..u64::MAX);
        over
    }

    /// Claims what of these bytes is neither there nor being written already: whoever came first
    /// is believed, until a doubt.
    pub(in crate::store) fn claim(&self, offset: u64, chunks: &[Bytes]) -> Claim {
        let length: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let mut old = Coverage::default();
        let ranges = {
            let mut state = self.state();
            let missing = state.coverage.gaps(offset..offset.saturating_add(length));
            let free = missing.flat_map(|gap| state.writing.gaps(gap));
            let ranges: Vec<Range<u64>> = free.collect();
            for range in &ranges {
                state.writing.insert(range.clone());
                state.old.within(range.clone()).for_each(|r| old.insert(r));
            }
            ranges
        };
        Claim {
            pieces: pieces(offset, chunks, &ranges),
            old,
            ranges,
        }
    }

    /// Notes where a claim's bytes differ from the old ones. To be called before the file loses those.
    pub(in crate::store) fn alter(&self, differing: &Coverage) {
        let mut state = self.state();
        if let Some(altered) = state.altered.last_mut() {
            differing.ranges().for_each(|range| altered.insert(range));
            altered.coarsen(ALTERED_RANGES_MAX);
        }
    }

    /// A claim's bytes are in the file: now they are there for everybody.
    pub(in crate::store) fn written(&self, claim: &Claim) {
        let mut guard = self.state();
        let state = &mut *guard;
        let front = state.coverage.prefix() + RECENT_AHEAD_BYTES_MAX;
        for range in &claim.ranges {
            state.writing.remove(range.clone());
            state.old.remove(range.clone());
            state.coverage.insert(range.clone());
        }
        for (at, bytes) in claim.pieces.iter().filter(|(at, _)| *at < front) {
            state.recent.push(*at, bytes.clone());
        }
    }

    /// A claim's bytes could not be written.
    pub(in crate::store) fn give_up(&self, claim: &Claim) {
        let mut state = self.state();
        for range in &claim.ranges {
            state.writing.remove(range.clone());
        }
    }

    /// Begins a new round in which only `keep` of what was covered still is; false after too many.
    /// Nobody writes meanwhile, and no record promises what is doubted.
    #[must_use]
    pub(in crate::store) fn doubt(&self, keep: &Coverage, _unrecorded: &Unrecorded<'_>) -> bool {
        let mut guard = self.state();
        let state = &mut *guard;
        if state.altered.len() > DOUBTS_MAX {
            return false;
        }
        let kept = state.coverage.intersection(keep);
        for range in state.coverage.ranges() {
            kept.gaps(range).for_each(|gap| state.old.insert(gap));
        }
        state.coverage = kept;
        state.recent = Recent::default();
        state.altered.push(Coverage::default());
        true
    }

    /// Begins a new round with nothing: the file is about to lose its bytes.
    pub(in crate::store) fn lose_all(&self, _unrecorded: &Unrecorded<'_>) {
        let mut guard = self.state();
        let state = &mut *guard;
        let mut altered = std::mem::take(&mut state.old);
        let covered = std::mem::take(&mut state.coverage);
        covered.ranges().for_each(|range| altered.insert(range));
        altered.coarsen(ALTERED_RANGES_MAX);
        state.recent = Recent::default();
        state.altered.push(altered);
    }
}

impl State {
    /// Rounds count from 1.
    fn round(&self) -> usize {
        self.altered.len()
    }
}

impl Recent {
    fn push(&mut self, at: u64, bytes: Bytes) {
        self.bytes += bytes.len();
        self.chunks.push_back((at, bytes));
        while (self.bytes > RECENT_BYTES_MAX || self.chunks.len() > RECENT_CHUNKS_MAX)
            && let Some((_, oldest)) = self.chunks.pop_front()
        {
            self.bytes -= oldest.len();
        }
    }

    /// The beginning of `range`, if it is there.
    fn find(&self, range: &Range<u64>) -> Option<Bytes> {
        // Newest first: readers that keep up want the end. Only what lies in
        // order before it is passed over.
        let holds = |(at, chunk): &&(u64, Bytes)| {
            *at <= range.start && range.start - *at < chunk.len() as u64
        };
        let (at, chunk) = self.chunks.iter().rev().find(holds)?;
        // Both differences are less than the chunk's length.
        let from = usize::try_from(range.start - at).ok()?;
        let to = usize::try_from(range.end - at).map_or(chunk.len(), |to| to.min(chunk.len()));
        Some(chunk.slice(from..to))
    }
}

impl Span {
    /// Nothing yet, from `start` on.
    pub(in crate::store) fn new(start: u64) -> Self {
        Self {
            start,
            position: start,
            round: 0,
            exposed: start,
        }
    }

    /// Its first byte.
    pub(in crate::store) fn start(&self) -> u64 {
        self.start
    }

    /// Its next byte.
    pub(in crate::store) fn position(&self) -> u64 {
        self.position
    }
}

/// The parts of the chunks, which follow each other from `offset` on, that lie in `ranges`.
fn pieces(offset: u64, chunks: &[Bytes], ranges: &[Range<u64>]) -> Vec<(u64, Bytes)> {
    let mut found = Vec::with_capacity(chunks.len());
    let mut at = offset;
    for chunk in chunks {
        let end = at + chunk.len() as u64;
        for range in ranges {
            let (from, to) = (range.start.max(at), range.end.min(end));
            // Neither difference is more than the chunk's length.
            if from < to
                && let (Ok(first), Ok(last)) =
                    (usize::try_from(from - at), usize::try_from(to - at))
            {
                found.push((from, chunk.slice(first..last)));
            }
        }
        at = end;
    }
    found
}
