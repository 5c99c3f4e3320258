//! `multipart/byteranges`: several parts of a blob in one body (RFC 9110 section 14.6).

use crate::mirror::{BlobReader, MirrorError, PartReaders, Windows};
use crate::oci::Part;
use crate::server::http::body::Pieces;
use bytes::Bytes;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::time::Duration;

/// Parts from this size on are sent by the kernel, where that is possible: smaller ones are cheaper to copy.
const WINDOWS_FROM_BYTES: u64 = 32 * 1024;

/// The text between the parts.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// Not to be guessed by whoever made the content, and so not in it.
    boundary: String,
    total: u64,
}

/// The body, piece by piece.
#[derive(Debug)]
pub(crate) struct Multipart {
    frame: Frame,
    /// Of the parts that are still to come.
    ranges: std::vec::IntoIter<Range<u64>>,
    readers: PartReaders,
    windows: Option<Windows>,
    is_first: bool,
    is_closed: bool,
    reader: Option<BlobReader>,
    /// The first bytes of a part, whose head goes before them.
    taken: Option<Bytes>,
    /// Number of bytes that are read at once, if that is bounded.
    piece_max: Option<usize>,
}

impl Frame {
    /// For parts of content of `total` bytes.
    pub(crate) fn new(total: u64) -> Self {
        // The keys of `RandomState` are random, and so are the hashes.
        let keys = RandomState::new();
        let boundary = format!("{:016x}{:016x}", keys.hash_one(0), keys.hash_one(1));
        Self { boundary, total }
    }

    /// The body's `Content-Type`.
    pub(crate) fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// The body's length.
    pub(crate) fn length(&self, parts: &[Part]) -> u64 {
        let mut is_first = true;
        let heads_and_parts = parts.iter().map(|part| {
            let head = self.head(&part.range, std::mem::take(&mut is_first));
            bytes_of(&head).saturating_add(part.length())
        });
        let all = heads_and_parts.fold(0, u64::saturating_add);
        all.saturating_add(bytes_of(&self.end()))
    }

    fn head(&self, range: &Range<u64>, is_first: bool) -> String {
        let before = if is_first { "" } else { "\r\n" };
        format!(
            "{before}--{}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {}-{}/{}\r\n\r\n",
            self.boundary,
            range.start,
            range.end.saturating_sub(1),
            self.total
        )
    }

    fn end(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }
}

impl Multipart {
    /// A body of these parts, which `readers` are of. `windows`: those of the connection, if it has no TLS.
    pub(crate) fn new(
        frame: Frame,
        parts: &[Part],
        readers: PartReaders,
        windows: Option<Windows>,
    ) -> Self {
        let ranges: Vec<Range<u64>> = parts.iter().map(|part| part.range.clone()).collect();
        Self {
            frame,
            ranges: ranges.into_iter(),
            readers,
            windows,
            is_first: true,
            is_closed: false,
            reader: None,
            taken: None,
            piece_max: None,
        }
    }
}

impl Pieces for Multipart {
    fn set_piece_max(&mut self, bytes: usize) {
        self.piece_max = Some(bytes);
    }

    fn patience(&self) -> Duration {
        self.readers.patience()
    }

    /// A part's head comes only when its first bytes are there: so a blob that cannot be had is an error before there
    /// is an answer.
    async fn next(&mut self) -> Result<Option<Bytes>, MirrorError> {
        if let Some(taken) = self.taken.take() {
            return Ok(Some(taken));
        }
        if let Some(reader) = &mut self.reader {
            if let Some(bytes) = self.piece_max {
                reader.set_piece_max(bytes);
            }
            if let Some(bytes) = reader.next().await? {
                return Ok(Some(bytes));
            }
            self.reader = None;
        }
        let (Some(reader), Some(range)) = (self.readers.next_part(), self.ranges.next()) else {
            let end = (!self.is_closed).then(|| Bytes::from(self.frame.end()));
            self.is_closed = true;
            return Ok(end);
        };
        let length = range.end.saturating_sub(range.start);
        let mut reader = match self.windows.clone() {
            Some(windows) if length >= WINDOWS_FROM_BYTES => reader.in_windows(windows),
            Some(_) | None => reader,
        };
        if let Some(bytes) = self.piece_max {
            reader.set_piece_max(bytes);
        }
        self.taken = reader.next().await?;
        self.reader = Some(reader);
        let head = self.frame.head(&range, std::mem::take(&mut self.is_first));
        Ok(Some(head.into()))
    }
}

fn bytes_of(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}
