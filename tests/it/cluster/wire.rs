//! A wire between two nodes, which a test can cut, slow down or swallow.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The way of a wire with what passes over it. It counts for connections that are open, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Open,
    /// Connections are broken, and new ones too.
    Cut,
    /// Nothing passes, in either direction; connections are taken.
    Silent,
    /// Questions pass, answers do not.
    Deaf,
    /// Each connection is broken after this many bytes of answers.
    CutsAt(u64),
    /// Each connection gives this many bytes of answers, and then none.
    StallsAt(u64),
    /// Answers pass at this many bytes in a tenth of a second, behind the first ones of a connection.
    Trickles(usize),
    /// Each connection waits for up to this long, so that later ones come before it.
    Delays(Duration),
}

/// Bytes of a connection that pass quickly whatever comes: the handshake and a greeting.
const BEFORE_TRICKLE_BYTES: u64 = 16 * 1024;

const PIECE_BYTES: usize = 16 * 1024;

/// A wire that ends at one node. Dropping it cuts it.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) address: SocketAddr,
    manner: watch::Sender<Manner>,
    _work: JoinSet<()>,
}

impl Wire {
    /// A wire to the node that listens at an address, or will.
    pub(super) async fn to(target: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (manner, watched) = watch::channel(Manner::Open);
        let mut work = JoinSet::new();
        work.spawn(accept(listener, target, watched, seed));
        Self {
            address,
            manner,
            _work: work,
        }
    }

    pub(super) fn be(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    manner: watch::Receiver<Manner>,
    seed: u64,
) {
    let mut connections = JoinSet::new();
    let mut dice = Dice(seed);
    loop {
        let (near, _) = listener.accept().await.unwrap();
        let part = dice.below(1000);
        connections.spawn(connect(near, target, manner.clone(), part));
        while connections.try_join_next().is_some() {}
    }
}

/// One connection. `part`: of the longest delay, in thousandths.
async fn connect(
    near: TcpStream,
    target: SocketAddr,
    mut manner: watch::Receiver<Manner>,
    part: u32,
) {
    let now = *manner.borrow();
    if let Manner::Delays(most) = now {
        tokio::time::sleep(most * part / 1000).await;
    }
    if now == Manner::Cut {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else {
        return;
    };
    for stream in [&near, &far] {
        stream.set_nodelay(true).unwrap();
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let answered = Arc::new(AtomicU64::new(0));
    let questions = pass(near_in, far_out, manner.clone(), None);
    let answers = pass(far_in, near_out, manner.clone(), Some(answered));
    let cut = async move {
        // It fails when the wire is dropped.
        let _is_cut = manner.wait_for(|it| *it == Manner::Cut).await;
    };
    tokio::select! {
        () = async { tokio::join!(questions, answers); } => {}
        () = cut => {}
    }
}

/// Passes on one direction of a connection; `answered`: that of the answers, with their bytes.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut manner: watch::Receiver<Manner>,
    answered: Option<Arc<AtomicU64>>,
) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let Ok(length @ 1..) = from.read(&mut piece).await else {
            // The other direction may have more.
            let _ended: std::io::Result<()> = to.shutdown().await;
            return;
        };
        let mut rest = &piece[..length];
        while !rest.is_empty() {
            let now = *manner.borrow_and_update();
            let sent = answered.as_ref().map(|it| it.load(Ordering::Relaxed));
            let most = match (now, sent) {
                (Manner::Silent, _) | (Manner::Deaf, Some(_)) => 0,
                (Manner::StallsAt(at) | Manner::CutsAt(at), Some(sent)) => {
                    usize::try_from(at.saturating_sub(sent)).unwrap()
                }
                (Manner::Trickles(bytes), Some(BEFORE_TRICKLE_BYTES..)) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    bytes
                }
                _ => rest.len(),
            };
            if most == 0 {
                if matches!(now, Manner::CutsAt(_)) {
                    return;
                }
                if manner.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let (first, later) = rest.split_at(most.min(rest.len()));
            if to.write_all(first).await.is_err() {
                return;
            }
            if let Some(answered) = &answered {
                answered.fetch_add(first.len() as u64, Ordering::Relaxed);
            }
            rest = later;
        }
    }
}

/// splitmix64: small, and good enough to choose moments.
#[derive(Clone, Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.next() % u64::from(bound.max(1))).unwrap()
    }
}

/// The seed of a test: `SEED`, or another one each time. It is printed, and shown where the test fails.
pub(super) fn seed(test: &str) -> u64 {
    let given = std::env::var("SEED").ok().and_then(|it| it.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
    #[expect(clippy::print_stdout, reason = "a failure can be repeated with it")]
    {
        println!("{test}: SEED={seed}");
    }
    seed
}
