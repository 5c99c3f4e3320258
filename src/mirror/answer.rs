//! The answers that the server gets.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::parts::PartReaders;
use super::passthrough::{Passthrough, Passthroughs, Prepared};
use super::{MirrorError, Source, SourceKind};
use crate::oci::link::NextPage;
use crate::oci::{ByteRange, Digest, Part};
use crate::store::{Blob, Ended, Fill, Handed, Reader, StoredReader, Windows};
use crate::telemetry::Outcome;
use crate::upstream::OnBehalf;

/// A manifest to serve.
#[derive(Clone, Debug)]
pub struct ManifestAnswer {
    /// Its digest: `Docker-Content-Digest` and `ETag`.
    pub digest: Digest,
    /// `Content-Type`.
    pub media_type: Arc<str>,
    /// The body.
    pub bytes: Bytes,
    /// The way in which it was found.
    pub outcome: Outcome,
    /// `Warning` headers to send (a stale tag carries `110 - "Response is Stale"`).
    pub warnings: Vec<String>,
}

/// A blob to serve.
#[derive(Debug)]
pub struct BlobAnswer {
    /// Its size, unless neither a manifest nor upstream has said it (then: chunked).
    pub total: Option<u64>,
    /// The way in which it was found.
    pub outcome: Outcome,
    /// The place that a transfer which begins now has its bytes from.
    pub fed_by: Option<SourceKind>,
    pub(super) content: Content,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    Stored(Blob, Asker),
    /// Of a hosted repository: nobody else has it.
    Hosted(Blob),
    Filling(Filling),
    Passing(Prepared),
}

/// For whom a blob or a fill is read: if it turns out that the store cannot give it, this one goes on
/// without.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub(super) passthroughs: Arc<Passthroughs>,
    pub(super) source: Source,
    pub(super) digest: Digest,
    pub(super) behalf: OnBehalf,
}

/// A fill that is to be read.
#[derive(Clone, Debug)]
pub(super) struct Filling {
    pub(super) fill: Fill<MirrorError>,
    /// The range that the client asks for.
    pub(super) asked: Option<ByteRange>,
    /// True if a manifest has said how large the blob is.
    pub(super) size_is_known: bool,
    pub(super) asker: Asker,
}

/// The bytes of a blob, as fast as the client takes them. Dropping it is the
/// normal early end.
#[derive(Debug)]
pub struct BlobReader(Reading);

#[derive(Debug)]
enum Reading {
    Stored(StoredReader, Box<Asker>),
    Hosted(StoredReader),
    Filling(Reader<MirrorError>, Box<Asker>),
    Passing(Passthrough),
}

/// The answer to HEAD of a blob.
#[derive(Clone, Copy, Debug)]
pub struct BlobHead {
    /// `Content-Length`, if known.
    pub total: Option<u64>,
    /// The way in which it was found.
    pub outcome: Outcome,
}

/// A list (tags or referrers) to serve.
#[derive(Clone, Debug)]
pub struct ListAnswer {
    /// `Content-Type`: the one that the specification gives, whatever upstream said.
    pub media_type: &'static str,
    /// The body.
    pub bytes: Bytes,
    /// The beginning of the next page.
    pub next: Option<NextPage>,
    /// True if only one `artifactType` is in it: `OCI-Filters-Applied`.
    pub filtered: bool,
    /// The way in which it was found.
    pub outcome: Outcome,
    /// `Warning` headers to send.
    pub warnings: Vec<String>,
}

impl BlobAnswer {
    /// These bytes of it, if they can be had without waiting.
    #[must_use]
    pub fn try_inline(&self, range: Range<u64>) -> Option<Bytes> {
        match &self.content {
            Content::Stored(blob, _) | Content::Hosted(blob) => blob.cached(range),
            Content::Filling(_) | Content::Passing(_) => None,
        }
    }

    /// The number of bytes of these ranges that are in the store now: the others come from upstream.
    #[must_use]
    pub fn stored_bytes(&self, ranges: &[Range<u64>]) -> u64 {
        let count = |range: &Range<u64>| match &self.content {
            Content::Stored(..) | Content::Hosted(_) => range.end.saturating_sub(range.start),
            Content::Filling(filling) => filling.fill.covered_within(range.clone()),
            Content::Passing(_) => 0,
        };
        ranges.iter().map(count).fold(0, u64::saturating_add)
    }

    /// True if its bytes were checked before: they can be given without holding anything back.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        matches!(self.content, Content::Stored(..) | Content::Hosted(_))
    }

    /// Readers of these parts, one after the other. They must lie within `total`.
    #[must_use]
    pub fn parts(self, parts: Vec<Part>) -> PartReaders {
        PartReaders::new(self.content, parts)
    }

    /// A reader of `range` (of everything when `None`), which must lie within
    /// `total`.
    #[must_use]
    pub fn reader(self, range: Option<Range<u64>>) -> BlobReader {
        self.content.reader(range)
    }
}

impl Content {
    pub(super) fn reader(self, range: Option<Range<u64>>) -> BlobReader {
        BlobReader(match self {
            Self::Stored(blob, asker) => Reading::Stored(blob.reader(range), Box::new(asker)),
            Self::Hosted(blob) => Reading::Hosted(blob.reader(range)),
            Self::Filling(filling) => {
                let reader = filling.reader(range);
                Reading::Filling(reader, Box::new(filling.asker))
            }
            Self::Passing(prepared) => Reading::Passing(prepared.open(range)),
        })
    }
}

impl Filling {
    fn reader(&self, range: Option<Range<u64>>) -> Reader<MirrorError> {
        match range {
            Some(range) if self.is_a_part(&range) => self.fill.part_reader(range),
            range => self.fill.reader(range),
        }
    }

    /// True if the client knows where what it reads ends, and completes nothing with it: it depends
    /// on nobody's word for the blob's size, nor on the digest.
    fn is_a_part(&self, range: &Range<u64>) -> bool {
        let knows_end = match self.asked {
            None | Some(ByteRange::From(_)) => false,
            Some(ByteRange::Between(_, last)) => last.checked_add(1) == Some(range.end),
            Some(ByteRange::Suffix(_)) => self.size_is_known,
        };
        knows_end && range.start > 0
    }
}

impl Asker {
    /// Goes on past the store.
    fn pass_on(&self, handed: Handed) -> Result<Passthrough, MirrorError> {
        let (source, behalf) = (self.source.clone(), self.behalf.clone());
        self.passthroughs
            .pass_on(source, self.digest, behalf, handed)
    }
}

impl BlobReader {
    /// Gives what is stored, or on its way there, as windows of its file, where that is possible, which only the
    /// kernel may look into: for a socket without TLS.
    #[must_use]
    pub fn in_windows(self, windows: Windows) -> Self {
        Self(match self.0 {
            Reading::Stored(reader, asker) => Reading::Stored(reader.in_windows(windows), asker),
            Reading::Hosted(reader) => Reading::Hosted(reader.in_windows(windows)),
            Reading::Filling(reader, asker) => Reading::Filling(reader.in_windows(windows), asker),
            passing @ Reading::Passing(_) => passing,
        })
    }

    /// Tells the transfer, if there is one, that these bytes will be read in a moment.
    pub(super) fn announce(&mut self) {
        match &mut self.0 {
            Reading::Filling(reader, _) => reader.announce(),
            Reading::Stored(..) | Reading::Hosted(_) | Reading::Passing(_) => {}
        }
    }

    /// Bounds what is read at once, from now on, where it has to be read: windows cost no memory of ours.
    pub fn set_piece_max(&mut self, bytes: usize) {
        match &mut self.0 {
            Reading::Stored(reader, _) | Reading::Hosted(reader) => reader.set_piece_max(bytes),
            Reading::Filling(reader, _) => reader.set_piece_max(bytes),
            Reading::Passing(_) => {}
        }
    }

    /// Time that it is worth waiting for the first bytes before the head is sent: of a blob that passes
    /// through, upstream has not answered yet.
    #[must_use]
    pub fn patience(&self) -> Duration {
        match &self.0 {
            Reading::Stored(..) | Reading::Hosted(_) | Reading::Filling(..) => Duration::ZERO,
            Reading::Passing(pass) => pass.patience(),
        }
    }

    /// The next bytes; `None` at the clean end.
    ///
    /// # Errors
    /// The connection must then be broken, never ended cleanly.
    pub async fn next(&mut self) -> Result<Option<Bytes>, MirrorError> {
        loop {
            let pass = match &mut self.0 {
                Reading::Passing(pass) => return pass.next().await,
                Reading::Hosted(reader) => {
                    return reader.next().await.map_err(MirrorError::Store);
                }
                Reading::Stored(reader, asker) => match reader.next().await {
                    Ok(bytes) => return Ok(bytes),
                    // The store has set it aside, or will try again. What was given of it is hashed
                    // once more, with what comes now.
                    Err(why) => {
                        let handed = reader.hand_over();
                        let pass = asker.pass_on(handed);
                        pass.map_err(|_busy| MirrorError::Store(why))?
                    }
                },
                Reading::Filling(reader, asker) => match reader.next().await {
                    Ok(bytes) => return Ok(bytes),
                    Err(Ended::Failed(MirrorError::NotStored { .. }) | Ended::Unreadable(_)) => {
                        asker.pass_on(reader.hand_over()?)?
                    }
                    Err(ended) => return Err(ended.into()),
                },
            };
            self.0 = Reading::Passing(pass);
        }
    }
}
