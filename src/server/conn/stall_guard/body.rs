//! A response's body as hyper gets it: it tells its flow how far it has come.

use super::Running;
use super::flow::Flow;
use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// A body under watch. Its request is over when it is dropped.
#[derive(Debug)]
pub(crate) struct Watched<B> {
    body: B,
    running: Running,
}

/// Bytes on their way; dropped when they have left.
#[derive(Debug)]
pub(crate) struct Piece<D> {
    data: D,
    /// None where nobody keeps them: HTTP/1 without TLS takes no more than it can send.
    flow: Option<(Arc<Flow>, usize)>,
}

impl<B> Watched<B> {
    /// The body of the answer to what is `running`.
    pub(super) fn new(body: B, running: Running) -> Self {
        Self { body, running }
    }
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = Piece<B::Data>;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        let flow = &this.running.flow;
        if this.running.is_bounded && !flow.has_room(context.waker()) {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut this.body).poll_frame(context);
        flow.turn(polled.is_ready());
        let bounded = this.running.is_bounded.then_some(flow);
        let frame = ready!(polled);
        Poll::Ready(frame.map(|it| it.map(|it| it.map_data(|data| Piece::new(data, bounded)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<D: Buf> Piece<D> {
    fn new(data: D, flow: Option<&Arc<Flow>>) -> Self {
        let flow = flow.map(|flow| {
            let bytes = data.remaining();
            flow.hand_over(bytes);
            (Arc::clone(flow), bytes)
        });
        Self { data, flow }
    }
}

impl<D> Drop for Piece<D> {
    fn drop(&mut self) {
        if let Some((flow, bytes)) = &self.flow {
            flow.let_go(*bytes);
        }
    }
}

impl<D: Buf> Buf for Piece<D> {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.data.copy_to_bytes(length)
    }
}
