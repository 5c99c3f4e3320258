//! A registry inside the test process: scripted, counted, deterministic.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::fake_body::Body;
use super::fake_log::{Counters, Log};
use super::fake_script::{Fault, Gate, Options, Rule};
use super::images::{Blob, Image, Manifest};

#[path = "fake_answer.rs"]
mod fake_answer;

/// One repository's content.
#[derive(Clone, Debug, Default)]
pub struct Repository {
    pub blobs: HashMap<String, Bytes>,
    /// By digest.
    pub manifests: HashMap<String, Manifest>,
    /// Several manifests under one tag are told apart by `Accept`; the last serves everybody else.
    pub tags: BTreeMap<String, Vec<String>>,
}

/// token → scope
pub type Tokens = Arc<Mutex<HashMap<String, String>>>;

/// What the connections share.
#[derive(Debug)]
pub struct Shared {
    pub address: SocketAddr,
    pub repositories: Mutex<HashMap<String, Repository>>,
    pub options: Mutex<Options>,
    pub rules: Mutex<Vec<(Rule, Fault)>>,
    pub gates: Mutex<HashMap<String, Gate>>,
    /// The tokens that are good here: this server's own, or another's that it trusts.
    pub tokens: Mutex<Tokens>,
    pub tokens_issued: AtomicU64,
    pub log: Arc<Log>,
}

/// A registry inside the test process. Dropping it takes it off the network.
#[derive(Debug)]
pub struct FakeRegistry {
    shared: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Up {
        stop: CancellationToken,
        accepting: JoinHandle<()>,
    },
    /// The port is held without being listened on: connections are refused.
    Down(TcpSocket),
    Between,
}

impl FakeRegistry {
    /// An empty registry on 127.0.0.1.
    pub async fn start() -> Self {
        Self::start_on("127.0.0.1").await
    }

    /// An empty registry on another loopback address, which is another *host* to its clients.
    pub async fn start_on(host: &str) -> Self {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let shared = Arc::new(Shared {
            address: listener.local_addr().unwrap(),
            repositories: Mutex::default(),
            options: Mutex::default(),
            rules: Mutex::default(),
            gates: Mutex::default(),
            tokens: Mutex::default(),
            tokens_issued: AtomicU64::new(0),
            log: Arc::default(),
        });
        let state = Mutex::new(serve(listener, Arc::clone(&shared)));
        Self { shared, state }
    }

    /// `http://host:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// `host:port`
    pub fn authority(&self) -> String {
        self.shared.address.to_string()
    }

    /// Refuses new connections and drops those there are.
    pub async fn go_down(&self) {
        let before = std::mem::replace(&mut *self.state.lock().unwrap(), State::Between);
        if let State::Up { stop, accepting } = before {
            stop.cancel();
            accepting.await.unwrap();
        }
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.shared.address).unwrap();
        *self.state.lock().unwrap() = State::Down(socket);
    }

    /// Listens again, on the same port.
    pub fn come_back(&self) {
        let mut state = self.state.lock().unwrap();
        if let State::Down(socket) = std::mem::replace(&mut *state, State::Between) {
            *state = serve(socket.listen(1024).unwrap(), Arc::clone(&self.shared));
        }
    }

    /// Changes the registry's manner.
    pub fn options(&self, change: impl FnOnce(&mut Options)) {
        change(&mut self.shared.options.lock().unwrap());
    }

    /// From now on, requests that the rule meets go wrong in this way.
    pub fn fault(&self, rule: Rule, fault: Fault) {
        self.shared.rules.lock().unwrap().push((rule, fault));
    }

    /// How many requests for this tag or digest would still go wrong.
    pub fn faults_left(&self, reference: &str) -> usize {
        let rules = self.shared.rules.lock().unwrap();
        let own = rules
            .iter()
            .filter(|(rule, _)| rule.reference.as_deref() == Some(reference));
        own.map(|(rule, _)| rule.times).sum()
    }

    /// Forgets the content, the faults and the log of one blob, which no test asks for again.
    pub fn forget(&self, reference: &str) {
        self.shared.log.forget(reference);
        let mut rules = self.shared.rules.lock().unwrap();
        rules.retain(|(rule, _)| rule.reference.as_deref() != Some(reference));
        drop(rules);
        let mut repositories = self.shared.repositories.lock().unwrap();
        repositories.retain(|_, repository| !repository.blobs.contains_key(reference));
    }

    /// Everything goes right again.
    pub fn heal(&self) {
        self.shared.rules.lock().unwrap().clear();
    }

    /// Puts a gate before the bodies of one tag or digest: nothing passes until the test says so.
    pub fn gate(&self, reference: &str) -> Gate {
        let gate = Gate::closed();
        let mut gates = self.shared.gates.lock().unwrap();
        gates.insert(reference.to_owned(), gate.clone());
        gate
    }

    /// No token issued so far is accepted any more.
    pub fn expire_tokens(&self) {
        self.shared.tokens.lock().unwrap().lock().unwrap().clear();
    }

    /// Accepts this token for pulls from a repository.
    pub fn grant(&self, token: &str, repository: &str) {
        let scope = format!("repository:{repository}:pull");
        let tokens = Arc::clone(&self.shared.tokens.lock().unwrap());
        tokens.lock().unwrap().insert(token.to_owned(), scope);
    }

    /// Accepts the tokens that another server issues, and no others.
    pub fn trust_tokens_of(&self, other: &Self) {
        let tokens = Arc::clone(&other.shared.tokens.lock().unwrap());
        *self.shared.tokens.lock().unwrap() = tokens;
    }

    /// Puts a blob into a repository.
    pub fn put_blob(&self, repository: &str, blob: &Blob) {
        self.put_bytes(repository, &blob.digest, blob.bytes.clone());
    }

    /// Puts bytes under whatever digest.
    pub fn put_bytes(&self, repository: &str, digest: &str, bytes: Bytes) {
        self.edit(repository, |r| {
            r.blobs.insert(digest.to_owned(), bytes);
        });
    }

    /// Puts a manifest into a repository, and under a tag.
    pub fn put_manifest(&self, repository: &str, tag: Option<&str>, manifest: &Manifest) {
        self.edit(repository, |r| {
            r.manifests
                .insert(manifest.digest.clone(), manifest.clone());
            if let Some(tag) = tag {
                r.tags.insert(tag.to_owned(), vec![manifest.digest.clone()]);
            }
        });
    }

    /// Puts several manifests under one tag, for `Accept` to choose from; the last is the fallback.
    pub fn put_variants(&self, repository: &str, tag: &str, variants: &[&Manifest]) {
        for manifest in variants {
            self.put_manifest(repository, None, manifest);
        }
        let digests = variants.iter().map(|m| m.digest.clone()).collect();
        self.edit(repository, |r| {
            r.tags.insert(tag.to_owned(), digests);
        });
    }

    /// Puts an image with its blobs into a repository.
    pub fn put_image(&self, repository: &str, tag: Option<&str>, image: &Image) {
        for blob in image.blobs() {
            self.put_blob(repository, blob);
        }
        self.put_manifest(repository, tag, &image.manifest);
    }

    /// Deletes a tag, as its owner would.
    pub fn delete_tag(&self, repository: &str, tag: &str) {
        self.edit(repository, |r| {
            r.tags.remove(tag);
        });
    }

    /// Everything that has happened so far.
    pub fn counters(&self) -> Counters {
        self.shared.log.counters()
    }

    /// Forgets what has happened so far.
    pub fn reset(&self) {
        self.shared.log.reset();
    }

    /// Waits until `wanted` holds.
    pub async fn wait_for(&self, what: &str, wanted: impl Fn(&Counters) -> bool) {
        self.shared.log.wait_for(what, wanted).await;
    }

    fn edit(&self, repository: &str, change: impl FnOnce(&mut Repository)) {
        let mut repositories = self.shared.repositories.lock().unwrap();
        change(repositories.entry(repository.to_owned()).or_default());
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        if let State::Up { stop, .. } = &*self.state.lock().unwrap() {
            stop.cancel();
        }
    }
}

fn serve(listener: TcpListener, shared: Arc<Shared>) -> State {
    let stop = CancellationToken::new();
    let accepting = tokio::spawn(accept(listener, shared, stop.clone()));
    State::Up { stop, accepting }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let stream = tokio::select! {
            // What has gone down takes no call more, as of a client that tries again at once.
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted.unwrap().0,
        };
        let connection = converse(stream, Arc::clone(&shared));
        let stop = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = connection => {}
            }
        });
    }
}

async fn converse(stream: TcpStream, shared: Arc<Shared>) {
    stream.set_nodelay(true).unwrap();
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move { Ok::<Response<Body>, Infallible>(fake_answer::answer(&shared, request).await) }
    });
    // A client that goes away, or a body that the script cuts, is an error to hyper and none to us.
    let _ended: Result<(), hyper::Error> = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// A port of 127.0.0.1 that refuses connections as long as the socket is kept.
pub fn refused_port() -> io::Result<(TcpSocket, SocketAddr)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}
