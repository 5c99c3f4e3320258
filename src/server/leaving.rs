//! The way in which a server leaves its sockets to the process that takes over from it: first each client is asked to
//! connect anew after its next answer, then nobody is let in any more, and what is under way is finished.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The longest time that answers may take which are under way when another process has taken over: nobody waits for their
/// end. Clients that do not take them are cut off before, as always.
const FINISH_MAX: Duration = Duration::from_hours(1);

/// Says who is let in, and until when. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leaving(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Cancelled when the server stops.
    stop: CancellationToken,
    /// True: answers over HTTP/1.1 are the last ones of their connections.
    closes: AtomicBool,
    /// False: connections wait in the listeners' queues.
    is_open: watch::Sender<bool>,
    end: Mutex<Ends>,
    /// Cancelled when another process has taken over.
    handed_over: CancellationToken,
}

/// When connections are to end.
#[derive(Debug)]
struct Ends {
    /// Of those that begin now.
    now: CancellationToken,
    /// Of those that began before their clients were asked to connect anew.
    early: CancellationToken,
}

impl Ends {
    fn of(stop: &CancellationToken) -> Self {
        let now = stop.child_token();
        Self {
            early: now.clone(),
            now,
        }
    }
}

impl Leaving {
    /// A server that nobody takes over from. `stop`: cancelled when it stops.
    #[must_use]
    pub fn new(stop: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            closes: AtomicBool::new(false),
            is_open: watch::Sender::new(true),
            end: Mutex::new(Ends::of(&stop)),
            handed_over: CancellationToken::new(),
            stop,
        }))
    }

    /// Asks clients to connect anew after their next answer. A connection that was used a moment ago is used again, and
    /// should not be closed while its client sends a request.
    pub fn close_after_answers(&self) {
        self.ends().now = self.0.stop.child_token();
        self.0.closes.store(true, Ordering::Release);
    }

    /// Lets nobody in any more, and ends the connections that were there before [`Leaving::close_after_answers`] and on
    /// which nothing is under way: their clients have sent nothing since then.
    pub fn shut(&self) {
        self.0.is_open.send_replace(false);
        self.ends().early.cancel();
    }

    /// Ends all other connections on which nothing is under way: even the last one had time to send its request.
    pub fn end_late(&self) {
        self.ends().now.cancel();
    }

    /// Nobody has taken over: all is as before, but for those who have left.
    pub fn come_back(&self) {
        self.0.closes.store(false, Ordering::Release);
        *self.ends() = Ends::of(&self.0.stop);
        self.0.is_open.send_replace(true);
    }

    /// Another process has taken over: what is under way has time.
    pub fn is_over(&self) {
        self.0.handed_over.cancel();
    }

    /// Waits until another process has taken over.
    pub async fn handed_over(&self) {
        self.0.handed_over.cancelled().await;
    }

    /// The longest time that what is under way may take when the server stops.
    #[must_use]
    pub fn finish_max(&self, drain_timeout: Duration) -> Duration {
        if self.0.handed_over.is_cancelled() {
            FINISH_MAX.max(drain_timeout)
        } else {
            drain_timeout
        }
    }

    /// Cancelled when a connection that begins now is to end.
    pub(super) fn end(&self) -> CancellationToken {
        self.ends().now.clone()
    }

    /// True if an answer over HTTP/1.1 is its connection's last one.
    pub(super) fn closes(&self) -> bool {
        self.0.closes.load(Ordering::Acquire)
    }

    /// Says whether somebody is let in.
    pub(super) fn gate(&self) -> watch::Receiver<bool> {
        self.0.is_open.subscribe()
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.0.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
