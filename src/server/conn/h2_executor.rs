//! The requests of one HTTP/2 connection, run by its own task.
//!
//! As tasks of their own they would move from core to core: a body's pieces are made by one and sent by the other, and
//! each wakes the other for every 128 KiB, which costs more than both do in between. Nothing here computes for long, so
//! that nothing is lost. And what one of them has for another, in either direction, is taken up at once, instead of
//! after a turn through the scheduler, which wakes another core to see whether that could help.

use crate::server::conn::stall_guard::Watch;
use crate::server::conn::stall_guard::flow::Flow;
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hyper::rt::Executor;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

/// So often requests and connection are polled in turn before other tasks have theirs.
const ROUNDS_MAX: usize = 8;

type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes requests from hyper, which bounds how many there are at once.
///
/// The requests have hyper's clone of it inside: it must not be what keeps that alive, or those that come when the
/// connection ends would be there for ever.
#[derive(Clone)]
pub(crate) struct NewStreams {
    new: Weak<Mutex<Vec<Watched>>>,
    watch: Arc<Watch>,
}

/// A request that is let go of when its flow is given up. hyper resets its stream then.
struct Watched {
    stream: Stream,
    flow: Option<Arc<Flow>>,
}

impl Future for Watched {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Some(flow) = &self.flow
            && flow.is_over(context.waker())
        {
            return Poll::Ready(());
        }
        self.stream.as_mut().poll(context)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for NewStreams {
    fn execute(&self, stream: F) {
        let Some(new) = self.new.upgrade() else {
            return; // The connection is over.
        };
        // Boxed first: an async block holds what it awaits twice.
        let stream = Box::pin(stream);
        // A panic ends this request alone, as it would a task.
        #[expect(
            clippy::redundant_async_block,
            reason = "it drops the request while the thread panics, which the access line then tells"
        )]
        let stream = AssertUnwindSafe(async move { stream.await }).catch_unwind();
        let stream = Watched {
            stream: Box::pin(stream.map(drop)),
            flow: self.watch.begun(),
        };
        new.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(stream);
    }
}

/// A connection's requests.
#[derive(Default)]
pub(crate) struct Streams {
    new: Arc<Mutex<Vec<Watched>>>,
    running: FuturesUnordered<Watched>,
    wakes: Arc<Wakes>,
    /// True if there has been any, which over HTTP/1.1 there never is.
    are_used: bool,
}

impl Streams {
    /// The entrance for new ones.
    pub(crate) fn executor(&self, watch: &Arc<Watch>) -> NewStreams {
        NewStreams {
            new: Arc::downgrade(&self.new),
            watch: Arc::clone(watch),
        }
    }

    /// Polls `connection` and its requests until none of them has anything for another.
    pub(crate) fn poll_with<T>(
        &mut self,
        context: &mut Context<'_>,
        mut connection: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if !self.are_used {
            let served = connection(context);
            if served.is_ready() || !self.take_new() {
                return served;
            }
        }
        self.wakes.begin(context.waker());
        let ours = Waker::from(Arc::clone(&self.wakes));
        let mut inner = Context::from_waker(&ours);
        for _ in 0..ROUNDS_MAX {
            self.wakes.clear();
            while let Poll::Ready(Some(())) = self.running.poll_next_unpin(&mut inner) {}
            let served = connection(&mut inner);
            if served.is_ready() {
                return served;
            }
            if self.take_new() {
                self.wakes.wake_by_ref();
            }
            if !self.wakes.any() {
                break;
            }
        }
        self.wakes.end();
        Poll::Pending
    }

    /// True if there was any.
    fn take_new(&mut self) -> bool {
        let mut new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        let were_new = !new.is_empty();
        self.running.extend(new.drain(..));
        self.are_used |= were_new;
        were_new
    }
}

/// Records wakes while the task is polled anyway.
#[derive(Debug, Default)]
struct Wakes {
    any: AtomicBool,
    is_polled: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Wakes {
    fn begin(&self, task: &Waker) {
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.clone());
        self.is_polled.store(true, Ordering::SeqCst);
    }

    /// Reads what it overwrites, and so sees all that was done before that wake.
    fn clear(&self) {
        self.any.swap(false, Ordering::SeqCst);
    }

    fn any(&self) -> bool {
        self.any.load(Ordering::SeqCst)
    }

    /// From now on the task is woken. That it is no longer polled is said before it is looked whether anybody was
    /// woken, and by those who wake the other way round: so one of both sees it.
    fn end(&self) {
        self.is_polled.store(false, Ordering::SeqCst);
        if self.any() {
            self.wake_task();
        }
    }

    /// The waker stays: who was given ours keeps it, and may wake again, for as long as the connection lives.
    fn wake_task(&self) {
        if let Some(task) = &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            task.wake_by_ref();
        }
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.any.swap(true, Ordering::SeqCst);
        if !self.is_polled.load(Ordering::SeqCst) {
            self.wake_task();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::conn::buffers::Buffers;
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;
    use tokio::sync::mpsc;
    use tokio_util::task::TaskTracker;

    const STREAMS: usize = 100;

    fn watch() -> Arc<Watch> {
        Watch::new(([127, 0, 0, 1], 4711).into(), false, Buffers::default())
    }

    /// Serves until so many streams are done.
    async fn serve(mut streams: Streams, done: Arc<AtomicUsize>, count: usize) {
        let connection = |_: &mut Context<'_>| {
            if done.load(Ordering::SeqCst) == count {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        };
        let served = poll_fn(|context| streams.poll_with(context, connection));
        let served = tokio::time::timeout(Duration::from_mins(1), served);
        served.await.expect("somebody was not woken");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_is_woken_goes_on_and_is_heard_of() {
        let (streams, done) = (Streams::default(), Arc::new(AtomicUsize::new(0)));
        let executor = streams.executor(&watch());
        let others = TaskTracker::new();
        for _ in 0..STREAMS {
            // Woken by another thread while it is polled, and while it is not.
            let (sender, mut receiver) = mpsc::channel(1);
            others.spawn(async move { while sender.send(()).await.is_ok() {} });
            let done = Arc::clone(&done);
            executor.execute(async move {
                for _ in 0..1_000 {
                    receiver.recv().await.unwrap();
                }
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        // The connection is woken by the last stream that ends, whichever that is.
        let last = Arc::clone(&done);
        executor.execute(poll_fn(move |context| {
            if last.load(Ordering::SeqCst) == STREAMS {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        }));
        serve(streams, done, STREAMS).await;
        others.close();
        others.wait().await;
    }

    #[tokio::test]
    async fn requests_that_come_one_after_the_other_are_all_served() {
        let (mut streams, done) = (Streams::default(), Arc::new(AtomicUsize::new(0)));
        let (executor, mut came) = (streams.executor(&watch()), 0);
        let served = poll_fn(|context| {
            streams.poll_with(context, |_| {
                // One more with each poll, as many as there are, without another word.
                if came == done.load(Ordering::SeqCst) && came < STREAMS {
                    came += 1;
                    let done = Arc::clone(&done);
                    executor.execute(async move {
                        done.fetch_add(1, Ordering::SeqCst);
                    });
                    return Poll::Pending;
                }
                Poll::Ready(())
            })
        });
        let served = tokio::time::timeout(Duration::from_secs(10), served);
        served.await.expect("one of them was forgotten");
        assert_eq!(done.load(Ordering::SeqCst), STREAMS);
    }

    #[tokio::test]
    async fn what_comes_as_the_connection_ends_goes_with_it() {
        let mut streams = Streams::default();
        let (executor, held) = (streams.executor(&watch()), Arc::new(()));
        poll_fn(|context| {
            streams.poll_with(context, |_| {
                // As hyper's do.
                let holds = (executor.clone(), Arc::clone(&held));
                executor.execute(async move {
                    std::future::pending::<()>().await;
                    drop(holds);
                });
                Poll::Ready(())
            })
        })
        .await;
        drop(streams);
        assert_eq!(Arc::strong_count(&held), 1);
        executor.execute(async move { drop(held) });
    }

    #[tokio::test]
    async fn a_panic_ends_one_request_alone() {
        let (streams, done) = (Streams::default(), Arc::new(AtomicUsize::new(0)));
        let executor = streams.executor(&watch());
        executor.execute(async { panic!("a bug, for the test") });
        let other = Arc::clone(&done);
        executor.execute(async move {
            tokio::task::yield_now().await;
            other.fetch_add(1, Ordering::SeqCst);
        });
        serve(streams, done, 1).await;
    }
}
