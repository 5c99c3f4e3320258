//! A node that lies, to nodes that believe that it is one.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use roadstead::cluster::{Identity, Keys};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::nodes::{Nodes, address};
use super::processes::score;
use super::{image, path};
use crate::common::FakeRegistry;
use crate::common::images::{self, Blob, Dialect};
use crate::common::mirror::TTL;

type Make = fn(&Blob) -> Response<Full<Bytes>>;
/// Headers of a request.
type Asked = HeaderMap;
type Lie = Arc<dyn Fn(&str, &Asked) -> Response<Full<Bytes>> + Send + Sync>;

/// A node that answers what a test wants.
struct Liar {
    lie: Arc<Mutex<Lie>>,
    asked: Arc<Mutex<Vec<String>>>,
    _work: JoinSet<()>,
}

/// Its name.
const NAME: &str = "00000000000000000000000000000001";

impl Liar {
    async fn start(listen: SocketAddr, secret: &std::path::Path) -> Self {
        let identity = Identity::read(&Keys::Secret(secret.to_owned())).unwrap();
        let acceptor = TlsAcceptor::from(identity.server());
        let listener = TcpListener::bind(listen).await.unwrap();
        let nothing: Lie = Arc::new(|_, _| status(404));
        let lie = Arc::new(Mutex::new(nothing));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut work = JoinSet::new();
        let (lies, log) = (Arc::clone(&lie), Arc::clone(&asked));
        work.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, lies) = (acceptor.clone(), Arc::clone(&lies));
                let log = Arc::clone(&log);
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (lies, log) = (Arc::clone(&lies), Arc::clone(&log));
                        async move { Ok::<_, Infallible>(answer(request, &lies, &log).await) }
                    });
                    let _ended: Result<(), hyper::Error> =
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                });
            }
        });
        Self {
            lie,
            asked,
            _work: work,
        }
    }

    fn says(&self, lie: impl Fn(&str, &Asked) -> Response<Full<Bytes>> + Send + Sync + 'static) {
        *self.lie.lock().unwrap() = Arc::new(lie);
    }

    fn was_asked(&self, for_what: &str) -> bool {
        let asked = self.asked.lock().unwrap();
        asked.iter().any(|it| it.contains(for_what))
    }
}

async fn answer(
    request: Request<Incoming>,
    lies: &Mutex<Lie>,
    log: &Mutex<Vec<String>>,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let _read = body.collect().await;
    if head.uri.path() == "/cluster/v1/hello" {
        let hello = format!(
            r#"{{"protocol":1,"node":"{NAME}","process":"liar","version":"0","host":"liar","news":[1]}}"#
        );
        return Response::new(Full::from(hello));
    }
    let line = format!("{} {}", head.method, head.uri);
    log.lock().unwrap().push(line.clone());
    let told = Arc::clone(&lies.lock().unwrap());
    told(&line, &head.headers)
}

fn status(status: u16) -> Response<Full<Bytes>> {
    let answer = Response::builder().status(status);
    answer.body(Full::default()).unwrap()
}

/// An answer with this manifest, and these headers.
fn manifest(image: &images::Manifest, headers: &[(&str, &str)]) -> Response<Full<Bytes>> {
    let mut answer = Response::builder().header("content-type", &image.media_type);
    for (name, value) in headers {
        answer = answer.header(*name, *value);
    }
    answer.body(Full::from(image.bytes.clone())).unwrap()
}

/// A node, and one that lies and owns what it is asked for.
struct World {
    registry: FakeRegistry,
    nodes: Nodes,
    liar: Liar,
}

impl World {
    async fn new() -> Self {
        let registry = FakeRegistry::start().await;
        let listen = address();
        let nodes = Nodes::with(&registry, 1, |_, config| {
            config.seeds.push(roadstead::cluster::Seed {
                host: listen.ip().to_string(),
                port: listen.port(),
            });
        })
        .await;
        let Keys::Secret(secret) = &nodes.nodes[0].cluster().config().keys else {
            panic!("a secret")
        };
        let liar = Liar::start(listen, secret).await;
        nodes.see(&[2]).await;
        Self {
            registry,
            nodes,
            liar,
        }
    }

    /// True if the liar owns a key.
    fn is_liars(&self, key: &str) -> bool {
        let me = self.nodes.nodes[0].cluster().members().me().to_string();
        score(NAME, key) > score(&me, key)
    }

    /// A blob that the liar owns.
    fn blob(&self, seed: u64, size: usize) -> Blob {
        let blobs = (seed..).map(|seed| Blob::noise(seed, size));
        let blob = { blobs }.find(|it| self.is_liars(&it.digest)).unwrap();
        self.registry.put_blob("team/app", &blob);
        blob
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lies_of_blobs_costs_no_wrong_byte() {
    let world = World::new().await;
    let client = world.nodes.nodes[0].client;
    let size = 200_000;
    let right = |blob: &Blob| blob.bytes.clone();
    let lies: [(&str, Make); 6] = [
        ("wrong bytes", |blob| {
            Response::new(Full::from(vec![7; blob.bytes.len()]))
        }),
        ("too short", |blob| {
            Response::new(Full::from(blob.bytes.slice(..1000)))
        }),
        ("too long", |blob| {
            Response::new(Full::from([&blob.bytes[..], b"x"].concat()))
        }),
        ("another part", |blob| {
            let mut answer = Response::new(Full::from(blob.bytes.slice(1000..)));
            *answer.status_mut() = http::StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes 1000-{}/{}", blob.bytes.len() - 1, blob.bytes.len());
            answer
                .headers_mut()
                .insert("content-range", range.parse().unwrap());
            answer
        }),
        ("not there", |_| status(404)),
        ("nonsense", |_| status(299)),
    ];
    for (number, (what, lie)) in (0_u64..).zip(lies) {
        let blob = world.blob(25_000 + 100 * number, size);
        let about = blob.clone();
        world.liar.says(move |_, _| lie(&about));
        // One pull may be broken off, if the node has lied to its end: none ends well with anything else.
        let first = client.get(&path(&blob)).await;
        if first.body != right(&blob) {
            first.assert_no_clean_success();
        }
        assert!(world.liar.was_asked(&blob.digest), "{what}");
        for _ in 0..2 {
            let answer = client.get(&path(&blob)).await;
            answer.assert_bytes(200, &blob.bytes);
        }
    }
}

/// Answers about tags that are not what they seem to be: of a manifest, with a digest that is not its own, and of another one.
fn lies_of_tags(
    given: &images::Manifest,
    wrong: String,
    other: &images::Manifest,
) -> Vec<(&'static str, Lie)> {
    vec![
        (
            "another digest",
            Arc::new({
                let given = given.clone();
                move |_, _| {
                    let headers = [("docker-content-digest", wrong.as_str()), ("age", "0")];
                    manifest(&given, &headers)
                }
            }),
        ),
        (
            "the same, where nothing was known",
            Arc::new({
                let digest = given.digest.clone();
                move |_, _| {
                    let answer = Response::builder().status(304).header("age", "0");
                    let answer = answer.header("docker-content-digest", digest.as_str());
                    answer.body(Full::default()).unwrap()
                }
            }),
        ),
        (
            "a page",
            Arc::new(|_, _| {
                let answer = Response::builder().header("age", "0");
                let answer = answer.header("content-type", "text/html");
                answer.body(Full::from("<html>")).unwrap()
            }),
        ),
        (
            "no age",
            Arc::new({
                let other = other.clone();
                move |_, _| manifest(&other, &[])
            }),
        ),
        (
            "an age that is none",
            Arc::new({
                let other = other.clone();
                move |_, _| manifest(&other, &[("age", "99999999999999999999999")])
            }),
        ),
        ("nothing", Arc::new(|_, _| status(404))),
        ("an error", Arc::new(|_, _| status(500))),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lies_of_tags_moves_none_to_what_its_bytes_are_not() {
    let world = World::new().await;
    let node = &world.nodes.nodes[0];
    let image = image(&world.registry, 26_000, 1000);
    let other = images::image(26_001, &[1000], Dialect::Oci);
    let accept = [("accept", image.manifest.media_type.as_str())];
    let wrong = other.manifest.digest.clone();
    let tags: Vec<String> = (0..60).map(|it| format!("t{it}")).collect();
    for tag in &tags {
        let it = Some(tag.as_str());
        world.registry.put_image("team/app", it, &image);
    }
    let given = image.manifest.clone();
    let digest = given.digest.clone();
    let lies = lies_of_tags(&given, wrong, &other.manifest);
    let mut fooled = 0;
    for (number, (what, lie)) in lies.into_iter().enumerate() {
        *world.liar.lie.lock().unwrap() = lie;
        for tag in &tags[number * 8..][..8] {
            let path = format!("/v2/team/app/manifests/{tag}");
            let answer = node.get_with(&path, &accept).await;
            answer.assert_bytes(200, &image.manifest.bytes);
            if world.liar.was_asked(&format!("/{tag}?")) {
                fooled += 1;
            }
            assert_eq!(answer.header("docker-content-digest"), digest, "{what}");
        }
    }
    assert!(fooled > 7, "it owned some of them: {fooled}");
    // An age without end is stale at once, and not fresh for ever.
    let given = image.manifest.clone();
    world.liar.says(move |_, _| {
        let age = u64::MAX.to_string();
        manifest(&given, &[("age", &age)])
    });
    for tag in &tags[56..] {
        let path = format!("/v2/team/app/manifests/{tag}");
        let answer = node.get_with(&path, &accept).await;
        answer.assert_bytes(200, &image.manifest.bytes);
        node.clock.advance(TTL);
    }
}
