//! A blob's way out: the range selected, the content opened and primed, the answer described.

use super::reply::{EntityTag, Reply};
use crate::mirror::{BlobAnswer, BlobHead};
use crate::oci::Part;
use crate::server::conn::buffers::Buffers;
use crate::server::http::body::{ByteStream, Content};
use crate::server::http::conditions::{Conditions, Selection};
use crate::server::http::context::Transport;
use crate::server::http::error::ApiError;
use crate::server::http::multipart::{Frame, Multipart};
use crate::telemetry::Metrics;
use bytes::Bytes;
use http::{StatusCode, header};
use std::ops::Range;

/// The largest body that is read at once and answered whole, rather than as a stream: most images' configs, and the
/// footers that lazy clients begin with.
const INLINE_BODY_BYTES_MAX: u64 = 32 * 1024;

/// The part of a blob that is sent.
#[derive(Debug)]
pub(super) enum Selected {
    /// All of it.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// These parts, in this frame.
    Parts(Frame, Vec<Part>),
}

/// The way out of a body.
#[derive(Debug)]
pub(super) struct Delivery<'a> {
    pub(super) transport: &'a Transport,
    pub(super) buffers: &'a Buffers,
    pub(super) metrics: &'a Metrics,
}

impl Selected {
    /// The part that a request selects of a blob. `is_stored`: its bytes were checked before.
    ///
    /// # Errors
    /// The blob has none of the bytes asked for.
    pub(super) fn of(
        conditions: &Conditions<'_>,
        tag: &EntityTag,
        BlobHead { total, outcome }: BlobHead,
        is_stored: bool,
    ) -> Result<Self, ApiError> {
        Ok(match conditions.select(tag.digest(), total) {
            Selection::Whole => Self::Whole,
            Selection::Unsatisfiable => return Err(ApiError::range(total, outcome)),
            Selection::Part(Part { range, .. }) => Self::Part(range),
            // Whoever gets all of it must not get the end of it before the digest has been checked.
            Selection::Parts(parts)
                if !is_stored && Some(parts.iter().map(Part::length).sum()) == total =>
            {
                Self::Whole
            }
            Selection::Parts(parts) => Self::Parts(Frame::new(total.unwrap_or_default()), parts),
        })
    }

    /// The length of the body, if it is known; `total` is the blob's.
    pub(super) fn length(&self, total: Option<u64>) -> Option<u64> {
        match self {
            Self::Whole => total,
            Self::Part(range) => Some(range.end.saturating_sub(range.start)),
            Self::Parts(frame, parts) => Some(frame.length(parts)),
        }
    }

    /// The ranges of the blob that it is made of.
    pub(super) fn ranges(&self, total: Option<u64>) -> Vec<Range<u64>> {
        match self {
            Self::Whole => std::iter::once(0..total.unwrap_or(u64::MAX)).collect(),
            Self::Part(range) => vec![range.clone()],
            Self::Parts(_, parts) => parts.iter().map(|part| part.range.clone()).collect(),
        }
    }

    /// The answer with this content.
    pub(super) fn describe(
        self,
        tag: EntityTag,
        BlobHead { total, outcome }: BlobHead,
        content: Content,
    ) -> Reply {
        let (status, described) = match self {
            Self::Whole => (StatusCode::OK, None),
            Self::Part(range) => {
                let last = range.end.saturating_sub(1);
                let total = total.unwrap_or(range.end);
                let value = format!("bytes {}-{last}/{total}", range.start);
                let described = (header::CONTENT_RANGE, value);
                (StatusCode::PARTIAL_CONTENT, Some(described))
            }
            Self::Parts(frame, _) => {
                let described = (header::CONTENT_TYPE, frame.content_type());
                (StatusCode::PARTIAL_CONTENT, Some(described))
            }
        };
        let mut reply = Reply::new(status, content, outcome);
        reply.describe_blob(tag);
        if let Some((name, value)) = described {
            reply.set(name, value);
        }
        reply
    }
}

impl Delivery<'_> {
    /// The bytes selected, not waited for yet.
    pub(super) fn open(&self, answer: BlobAnswer, selected: &Selected) -> Content {
        let length = selected.length(answer.total);
        let windows = self.transport.windows();
        let buffers = windows.is_none().then(|| self.buffers.clone());
        let part = match selected {
            Selected::Whole => None,
            Selected::Part(part) => Some(part.clone()),
            Selected::Parts(frame, parts) => {
                let readers = answer.parts(parts.clone());
                let body = Multipart::new(frame.clone(), parts, readers, windows);
                let stream = ByteStream::of_pieces(body, length, self.metrics, buffers);
                return self.framed(stream);
            }
        };
        if let Some(bytes) = inline(&answer, part.as_ref()) {
            return Content::Full(bytes);
        }
        let mut reader = answer.reader(part);
        if let Some(windows) = windows {
            reader = reader.in_windows(windows);
        }
        self.framed(ByteStream::of_pieces(reader, length, self.metrics, buffers))
    }

    /// The stream as the version of HTTP sends it best.
    fn framed(&self, stream: ByteStream) -> Content {
        Content::Stream(if self.transport.is_framed() {
            stream.in_frames()
        } else {
            stream
        })
    }
}

/// The bytes asked for of a blob, if it is little and can be had without waiting.
fn inline(answer: &BlobAnswer, part: Option<&Range<u64>>) -> Option<Bytes> {
    let part = part.cloned().or_else(|| Some(0..answer.total?))?;
    let length = part.end.saturating_sub(part.start);
    (1..=INLINE_BODY_BYTES_MAX)
        .contains(&length)
        .then(|| answer.try_inline(part))?
}
