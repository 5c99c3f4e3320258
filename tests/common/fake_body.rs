//! Bodies of the fake registry: counted, gated, cut.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;

use super::fake_log::Log;
use super::fake_script::Gate;

/// The body type of every answer.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Before a connection is cut the bytes written so far get this long to leave:
/// hyper drops what it has buffered when a body fails, and tells nobody when
/// its buffer is empty. A test does not depend on it; only on the cut itself.
const CUT_LINGER: Duration = Duration::from_millis(20);

/// A body at once.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// How a body does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The connection is dropped.
    Cut,
    /// It stays open.
    Stall,
}

/// A body that is sent piece by piece.
#[derive(Debug)]
pub struct Sending {
    pub content: Bytes,
    pub chunk_bytes: usize,
    /// Do not go on after this many bytes of `content`.
    pub stop: Option<(usize, Stop)>,
    pub gate: Option<Gate>,
    pub log: Arc<Log>,
    /// The tag or digest to count under.
    pub reference: String,
}

impl Sending {
    /// The body.
    pub fn body(self) -> Body {
        let start = (self, 0_usize);
        let pieces = stream::unfold(start, |(sending, at)| async move {
            let piece = sending.piece(at).await?;
            let next = piece.as_ref().map_or(usize::MAX, |bytes| at + bytes.len());
            Some((piece.map(Frame::data), (sending, next)))
        });
        BodyExt::boxed_unsync(StreamBody::new(pieces))
    }

    async fn piece(&self, at: usize) -> Option<io::Result<Bytes>> {
        let length = self.content.len();
        let end = self.stop.map_or(length, |(stop, _)| stop.min(length));
        if let Some((_, stop)) = self.stop
            && at >= end
            && at != usize::MAX
        {
            match stop {
                Stop::Cut => tokio::time::sleep(CUT_LINGER).await,
                Stop::Stall => std::future::pending().await,
            }
            return Some(Err(io::Error::other("cut by the test's script")));
        }
        if at >= end {
            return None;
        }
        let piece = self.content.slice(at..end.min(at + self.chunk_bytes));
        if let Some(gate) = &self.gate {
            gate.pass(piece.len()).await;
        }
        self.log.sent(&self.reference, piece.len());
        Some(Ok(piece))
    }
}
