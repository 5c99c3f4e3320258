//! The worst case: how often an upstream is asked for one request of a client's, when everything goes wrong. The
//! numbers are those of the tables in `docs/design.md`, which these tests read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::mirror::credentials;
use crate::common::{Client, Ending, MirrorBuilder, images};
use http::Method;
use roadstead::upstream::{Config, Parallel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What a row of the table may take: `header_timeout`, and what a loaded machine adds.
const TIME_MAX: Duration = Duration::from_secs(25);
const HEADER_TIMEOUT: Duration = Duration::from_secs(20);
/// Content of each kind, of which a part comes.
const LENGTH: usize = 4 * 1024 * 1024;
const PART: usize = 64 * 1024;
const MIB: usize = 1 << 20;
/// A big blob, and how it is fetched: in four pieces of 4 MiB, each on the next connection that is free.
const BIG: usize = 16 * MIB;
const PIECE: u64 = 4 << 20;
const CONNECTIONS: usize = 4;
/// Two logins whose limits of 50 ms end far from each other, on a busy machine, are not asked in one round: a row that is
/// asked less often than it could be is tried again.
const TRIES_MAX: usize = 5;
/// The tables begin below this heading, with these columns.
const HEADING: &str = "### Retry budget";
const COLUMNS: &str = "| what happens each time | manifest | tag | blob | token service |";
const FILL_COLUMNS: &str =
    "| what each connection does | one connection, at most | four connections, at most |";

/// Held by each test: limits of some milliseconds are over sooner for one that waits for the processor.
static ALONE: Mutex<()> = Mutex::const_new(());

/// How a registry answers whatever it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// This status, with these headers.
    Status(u16, &'static str),
    /// The connection is closed without an answer.
    Closes,
    /// A redirect to where nobody has been.
    Redirects,
    /// So many bytes of the body, and then the connection is closed.
    BreaksOff(usize),
    /// 64 KiB like that so many times, and from then on the other.
    BreaksOffThen(usize, &'static Manner),
    /// The first 64 KiB of each range, as an answer that ends well.
    Shortens,
    /// 401, which wants a token, whatever is sent.
    Challenges,
    /// The same, and the token service answers 500.
    TokenFails,
    /// The same, and the token service closes its connection.
    TokenCloses,
    /// 401, and with a token a redirect to where nobody has been.
    ChallengesThenRedirects,
}

/// A registry that never gives anything, and counts.
struct Hostile {
    url: String,
    requests: Arc<AtomicUsize>,
    tokens: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Hostile {
    /// Its content is so long.
    async fn start(manner: Manner, length: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (requests, tokens) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (all, for_tokens, base) = (Arc::clone(&requests), Arc::clone(&tokens), url.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut running = JoinSet::new();
            loop {
                let (mut stream, _peer) = listener.accept().await.unwrap();
                let (all, tokens) = (Arc::clone(&all), Arc::clone(&for_tokens));
                let base = base.clone();
                running.spawn(async move {
                    while let Some(head) = read_head(&mut stream).await {
                        let is_token = head.contains(" /token");
                        let counter = if is_token { &tokens } else { &all };
                        let number = counter.fetch_add(1, Ordering::SeqCst);
                        let said = if is_token {
                            token_answer(manner)
                        } else {
                            answer(manner, length, number, &head, &base)
                        };
                        let (said, goes_on) = said;
                        if stream.write_all(&said).await.is_err() || !goes_on {
                            return;
                        }
                    }
                });
            }
        });
        Self {
            url,
            requests,
            tokens,
            _task: task,
        }
    }
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap().to_ascii_lowercase())
}

fn empty(status: u16, headers: &str) -> (Vec<u8>, bool) {
    let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: 0\r\n\r\n");
    (head.into_bytes(), true)
}

fn token_answer(manner: Manner) -> (Vec<u8>, bool) {
    match manner {
        Manner::TokenFails => empty(500, ""),
        Manner::TokenCloses => (Vec::new(), false),
        Manner::Status(..)
        | Manner::Closes
        | Manner::Redirects
        | Manner::BreaksOff(_)
        | Manner::BreaksOffThen(..)
        | Manner::Shortens
        | Manner::Challenges
        | Manner::ChallengesThenRedirects => {
            let body = r#"{"token":"t","expires_in":300}"#;
            let length = body.len();
            let head = format!("HTTP/1.1 200 X\r\ncontent-length: {length}\r\n\r\n{body}");
            (head.into_bytes(), true)
        }
    }
}

fn answer(manner: Manner, length: usize, number: usize, head: &str, base: &str) -> (Vec<u8>, bool) {
    let challenge = || {
        let value = format!("www-authenticate: Bearer realm=\"{base}/token\",service=\"s\"\r\n");
        empty(401, &value)
    };
    let redirect = || empty(307, &format!("location: /elsewhere/{number}\r\n"));
    match manner {
        Manner::Status(status, headers) => empty(status, headers),
        Manner::Closes => (Vec::new(), false),
        Manner::Redirects => redirect(),
        Manner::BreaksOff(bytes) => part(head, length, bytes, false),
        Manner::BreaksOffThen(times, _) if number < times => part(head, length, PART, false),
        Manner::BreaksOffThen(_, then) => answer(*then, length, number, head, base),
        Manner::Shortens => part(head, length, PART, true),
        Manner::ChallengesThenRedirects if head.contains("authorization:") => redirect(),
        Manner::Challenges
        | Manner::TokenFails
        | Manner::TokenCloses
        | Manner::ChallengesThenRedirects => challenge(),
    }
}

/// The next bytes of content of this length. `as_all`: as if that was all of the range.
fn part(head: &str, length: usize, bytes: usize, as_all: bool) -> (Vec<u8>, bool) {
    let range = head.split("range: bytes=").nth(1).map(|range| {
        let (start, end) = range.lines().next().unwrap().split_once('-').unwrap();
        let end = end.parse::<usize>().map_or(length, |last| last + 1);
        (start.parse::<usize>().unwrap(), end)
    });
    let (start, mut end) = range.unwrap_or((0, length));
    let given = bytes.min(end - start);
    let is_whole = given == end - start || (as_all && range.is_some());
    if is_whole {
        end = start + given;
    }
    let said = format!("content-range: bytes {start}-{}/{length}\r\n", end - 1);
    let (status, said) = range.map_or((200, ""), |_| (206, said.as_str()));
    let announced = end - start;
    let said = format!("HTTP/1.1 {status} X\r\n{said}content-length: {announced}\r\n\r\n");
    let mut said = said.into_bytes();
    said.resize(said.len() + given, b'x');
    (said, is_whole)
}

const FAILS: Manner = Manner::Status(500, "");

/// The manner of a row of the table of fills.
fn fill_scenario(row: &str) -> Manner {
    match row {
        "closes after 64 KiB" => Manner::BreaksOff(PART),
        "closes after 512 KiB" => Manner::BreaksOff(MIB / 2),
        "closes after 1 MiB" => Manner::BreaksOff(MIB),
        "closes after 64 KiB once, then answers 500" => Manner::BreaksOffThen(1, &FAILS),
        "closes after 64 KiB twice, then answers 500" => Manner::BreaksOffThen(2, &FAILS),
        "closes after 64 KiB twice, then without an answer" => {
            Manner::BreaksOffThen(2, &Manner::Closes)
        }
        "ends each range after 64 KiB" => Manner::Shortens,
        other => panic!("no scenario for the row {other:?}"),
    }
}

/// The manner of a row, and how many endpoints and logins the upstream has.
fn scenario(row: &str) -> (Manner, usize, usize) {
    let (what, more) = match row.rsplit_once(", ") {
        Some((what, more @ ("two endpoints" | "two logins"))) => (what, more),
        Some(_) | None => (row, ""),
    };
    let manner = match what {
        "status 500" => Manner::Status(500, ""),
        "the connection closes" => Manner::Closes,
        "429 with `Retry-After: 0`" => Manner::Status(429, "retry-after: 0\r\n"),
        "503 with `Retry-After: 1`" => Manner::Status(503, "retry-after: 1\r\n"),
        "another redirect" => Manner::Redirects,
        "the body breaks off after 64 KiB" => Manner::BreaksOff(PART),
        "the same once, then status 500" => Manner::BreaksOffThen(1, &FAILS),
        "401" => Manner::Challenges,
        "the token service answers 500" => Manner::TokenFails,
        "the token service's connection closes" => Manner::TokenCloses,
        "401, and with a token another redirect" => Manner::ChallengesThenRedirects,
        other => panic!("no scenario for the row {other:?}"),
    };
    match more {
        "two endpoints" => (manner, 2, 0),
        "two logins" => (manner, 1, 2),
        _ => (manner, 1, 0),
    }
}

/// How often everybody is asked for one request of a client's: endpoints, token services.
async fn asked(row: &str, method: &Method, path: &str) -> (usize, usize) {
    let (manner, endpoints, logins) = scenario(row);
    let start = || Hostile::start(manner, LENGTH);
    let first = start().await;
    let others = futures_util::future::join_all((1..endpoints).map(|_| start()));
    let others = others.await;
    let mirror = MirrorBuilder::new()
        .upstream_at("docker.io", &first.url, |upstream| {
            upstream.default = true;
            upstream.header_timeout = HEADER_TIMEOUT;
            let more = others.iter().map(|other| other.url.parse().unwrap());
            let more = more.map(roadstead::upstream::EndpointConfig::at);
            upstream.endpoints.extend(more);
            let logins = (0..logins).map(|number| credentials(&format!("robot{number}"), "p"));
            upstream.logins = logins.collect();
        })
        .start()
        .await;
    let begin = Instant::now();
    let client: Client = mirror.client;
    let answer = client.ask(method.clone(), path, &[]).await;
    assert!(begin.elapsed() < TIME_MAX, "{row}: {path}");
    if answer.status == 200 {
        answer.assert_no_clean_success();
    }
    mirror.stop().await;
    let all = std::iter::once(&first).chain(&others);
    all.fold((0, 0), |(requests, tokens), one| {
        (
            requests + one.requests.load(Ordering::SeqCst),
            tokens + one.tokens.load(Ordering::SeqCst),
        )
    })
}

/// How often a registry is asked for one fill of a big blob on so many connections.
async fn asked_for_a_fill(row: &str, digest: &str, connections: usize) -> usize {
    let registry = Hostile::start(fill_scenario(row), BIG).await;
    let change = |upstream: &mut Config| {
        upstream.default = true;
        upstream.header_timeout = HEADER_TIMEOUT;
        upstream.parallel = Parallel {
            connections,
            above: MIB as u64,
            segment_size: PIECE,
        };
    };
    let mirror = MirrorBuilder::new().upstream_at("docker.io", &registry.url, change);
    let mirror = mirror.start().await;
    let begin = Instant::now();
    let answer = mirror.get(&format!("/v2/team/app/blobs/{digest}")).await;
    assert!(begin.elapsed() < TIME_MAX, "{row}");
    let is_clean = answer.status == 200 && answer.ending == Ending::Clean;
    assert!(!is_clean || answer.body.len() == BIG, "{row}");
    mirror.stop().await;
    registry.requests.load(Ordering::SeqCst)
}

/// The rows of the table with these columns: what happens, and the cells beside it.
fn table<const CELLS: usize>(columns: &str) -> BTreeMap<String, [usize; CELLS]> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/design.md");
    let page = std::fs::read_to_string(page).unwrap();
    let table = page.split(HEADING).nth(1).unwrap();
    let table = table.split(columns).nth(1).unwrap();
    let lines = table.lines().skip(2);
    lines
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let mut cells = line.trim_matches('|').split('|').map(str::trim);
            let row = cells.next().unwrap().to_owned();
            let cells: Vec<usize> = cells.map(|cell| cell.parse().unwrap()).collect();
            (row, cells.try_into().unwrap())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_is_asked_as_often_as_the_table_says_and_no_more() {
    let _alone = ALONE.lock().await;
    let table = table::<4>(COLUMNS);
    assert!(table.len() >= 12, "{table:?}");
    let digest = images::sha256(b"nobody has it");
    let kinds = [
        (Method::GET, format!("/v2/team/app/manifests/{digest}")),
        (Method::HEAD, "/v2/team/app/manifests/v1".to_owned()),
        (Method::GET, format!("/v2/team/app/blobs/{digest}")),
    ];
    let kinds = &kinds;
    // Side by side: they wait more than they work.
    let rows = table.iter().map(|(row, said)| async move {
        let mut counted = [0; 4];
        for _ in 0..TRIES_MAX {
            let all = kinds.iter().map(|(method, path)| asked(row, method, path));
            let all = futures_util::future::join_all(all).await;
            let tokens = all.iter().map(|(_, tokens)| *tokens).max().unwrap();
            counted = [all[0].0, all[1].0, all[2].0, tokens];
            let is_less = counted
                .iter()
                .zip(said)
                .all(|(counted, said)| counted <= said);
            if !is_less || counted == *said {
                break;
            }
        }
        (counted != *said).then(|| format!("{row}: the table says {said:?}, counted {counted:?}"))
    });
    let wrong = futures_util::future::join_all(rows).await;
    let wrong: Vec<_> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_asks_as_often_as_the_table_says_and_no_more() {
    let _alone = ALONE.lock().await;
    let table = table::<2>(FILL_COLUMNS);
    assert!(table.len() >= 7, "{table:?}");
    let digest = images::sha256(&vec![b'x'; BIG]);
    let digest = digest.as_str();
    let cells = table
        .iter()
        .flat_map(|(row, [alone, several])| [(row, 1, *alone), (row, CONNECTIONS, *several)]);
    let fills = cells.map(|(row, connections, most)| async move {
        let counted = asked_for_a_fill(row, digest, connections).await;
        // A breaker may open, and workers find nothing left; but a bound that is never near says nothing.
        let is_right = (most / 2..=most).contains(&counted);
        let on = format!("on {connections} connections at most {most}, counted {counted}");
        (!is_right).then(|| format!("{row}: the table says {on}"))
    });
    let wrong = futures_util::future::join_all(fills).await;
    let wrong: Vec<_> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
