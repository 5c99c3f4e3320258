//! From the pieces in which bytes arrive to the pieces in which they are written.

use std::ops::Range;

use bytes::Bytes;

use super::origin::ReadBody;
use crate::upstream::FetchError;

/// Bytes, of what has arrived already, that are gathered for one write.
const WRITE_BYTES_MAX: usize = 1024 * 1024;

/// And in how many pieces: an upstream may send a byte at a time.
const WRITE_CHUNKS_MAX: usize = 1024;

/// A gathered write.
pub(super) struct Batch {
    pub(super) chunks: Vec<Bytes>,
    pub(super) bytes: u64,
    /// The error that ended the gathering, to be told after the write.
    pub(super) ended: Option<FetchError>,
}

/// Waits for bytes, and takes what else has arrived with them. `None` at the clean end.
pub(super) async fn gather(body: &mut ReadBody) -> Result<Option<Batch>, FetchError> {
    let Some(first) = body.next().await? else {
        return Ok(None);
    };
    let mut bytes = first.len();
    let mut batch = Batch {
        chunks: vec![first],
        bytes: 0,
        ended: None,
    };
    while bytes < WRITE_BYTES_MAX && batch.chunks.len() < WRITE_CHUNKS_MAX {
        match body.try_next() {
            Some(Ok(chunk)) => {
                bytes += chunk.len();
                batch.chunks.push(chunk);
            }
            Some(Err(error)) => {
                batch.ended = Some(error);
                break;
            }
            None => break,
        }
    }
    batch.bytes = bytes as u64;
    Ok(Some(batch))
}

/// The bytes of `range`, counted from the first chunk's beginning.
pub(super) fn part(chunks: &[Bytes], range: Range<u64>) -> Vec<Bytes> {
    let mut start = 0;
    let mut parts = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let end = start + chunk.len() as u64;
        let (from, to) = (range.start.max(start), range.end.min(end));
        if from < to
            && let (Ok(from), Ok(to)) = (usize::try_from(from - start), usize::try_from(to - start))
        {
            parts.push(chunk.slice(from..to));
        }
        start = end;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_cut_out_across_chunks() {
        let chunks = [
            Bytes::from_static(b"abc"),
            Bytes::new(),
            Bytes::from_static(b"def"),
        ];
        let cut = |range: Range<u64>| part(&chunks, range).concat();
        assert_eq!(cut(0..6), b"abcdef");
        assert_eq!(cut(3..6), b"def");
        assert_eq!(cut(2..5), b"cde");
        assert_eq!(cut(4..4), b"");
        assert_eq!(cut(5..99), b"f");
    }
}
