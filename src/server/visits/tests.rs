use super::*;
use crate::clock::ManualClock;

struct Table {
    visits: Visits,
    clock: Arc<ManualClock>,
    upstream: UpstreamName,
}

impl Table {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
        Self {
            visits: Visits::new(Arc::clone(&clock) as _),
            clock,
            upstream: UpstreamName::parse("docker.io").unwrap(),
        }
    }

    /// A request from its beginning to its end.
    fn ask(&self, client: &str, repository: &str, kind: Kind, outcome: Outcome, bytes: u64) {
        self.ask_tag(client, repository, "1.27", kind, outcome, bytes);
    }

    fn ask_tag(
        &self,
        client: &str,
        repository: &str,
        tag: &str,
        kind: Kind,
        outcome: Outcome,
        bytes: u64,
    ) {
        let repository = Repository::parse(repository).unwrap();
        let reference = Reference::parse(tag).unwrap();
        let visit = Visit {
            client: client.parse().unwrap(),
            upstream: &self.upstream,
            repository: &repository,
        };
        let counted = self.visits.begun(visit);
        let ended = Ended {
            kind,
            reference: Some(&reference).filter(|_| kind == Kind::Manifest),
            digest: None,
            outcome: Some(outcome),
            bytes,
            user_agent: Some(&HeaderValue::from_static("containerd/2")),
        };
        self.visits.ended(visit, ended, counted);
    }

    fn pulls(&self) -> Vec<(String, u64, u64, u64, bool)> {
        let pulls = self.visits.pulls().into_iter();
        pulls
            .map(|it| {
                let is_over = it.ended_at.is_some();
                let bytes = (it.cache_bytes, it.upstream_bytes);
                (it.image, it.requests, bytes.0, bytes.1, is_over)
            })
            .collect()
    }
}

#[test]
fn a_manifest_and_its_blobs_are_one_pull_that_ends_after_a_pause() {
    let table = Table::new();
    let (one, other) = ("10.0.0.7", "10.0.0.8");
    table.ask(one, "library/nginx", Kind::Manifest, Outcome::Miss, 500);
    table.ask(one, "library/nginx", Kind::Blob, Outcome::Hit, 1000);
    table.ask(one, "library/nginx", Kind::Blob, Outcome::Miss, 2000);
    table.ask(other, "library/nginx", Kind::Manifest, Outcome::Hit, 500);
    // No pull: nothing was given.
    table.ask(other, "library/none", Kind::Manifest, Outcome::NotFound, 80);
    table.ask(other, "library/none", Kind::Blob, Outcome::Hit, 80);
    let image = "docker.io/library/nginx:1.27".to_owned();
    let mut running = table.pulls();
    running.sort();
    assert_eq!(
        running,
        [
            (image.clone(), 1, 500, 0, false),
            (image.clone(), 3, 1000, 2500, false)
        ]
    );
    assert_eq!(table.visits.look(PAUSE_MAX), 2, "clients");
    assert!(table.pulls().iter().all(|it| !it.4));
    table.clock.advance(PAUSE_MAX);
    table.ask(one, "library/nginx", Kind::Blob, Outcome::Hit, 1);
    table.visits.look(PAUSE_MAX);
    assert_eq!(
        table.pulls(),
        [
            (image.clone(), 4, 1001, 2500, false),
            (image, 1, 500, 0, true)
        ]
    );
    table.clock.advance(SEEN_FOR);
    assert_eq!(table.visits.look(PAUSE_MAX), 0);
    let clients = table.visits.clients();
    assert_eq!(clients.len(), 2);
    assert_eq!(clients[0].user_agent, "containerd/2");
    assert_eq!((clients[0].requests, clients[0].bytes), (4, 3501));
}

#[test]
fn another_tag_is_another_pull_and_so_is_the_same_one_after_a_while() {
    let table = Table::new();
    let pull = |tag: &str, bytes: u64| {
        table.ask_tag("10.0.0.7", "a/b", tag, Kind::Manifest, Outcome::Hit, 0);
        table.ask_tag("10.0.0.7", "a/b", tag, Kind::Manifest, Outcome::Hit, 10);
        table.ask_tag("10.0.0.7", "a/b", tag, Kind::Blob, Outcome::Hit, bytes);
    };
    pull("v1", 100);
    pull("v2", 200);
    table.clock.advance(PULL_MAX);
    pull("v2", 300);
    table.visits.finish();
    let mut told = table.pulls();
    told.sort();
    let (v1, v2) = ("docker.io/a/b:v1".to_owned(), "docker.io/a/b:v2".to_owned());
    assert_eq!(
        told,
        [
            (v1, 3, 110, 0, true),
            (v2.clone(), 3, 210, 0, true),
            (v2, 3, 310, 0, true)
        ]
    );
}

#[test]
fn a_long_blob_keeps_its_pull_open() {
    let table = Table::new();
    table.ask("10.0.0.7", "a/b", Kind::Manifest, Outcome::Hit, 500);
    let repository = Repository::parse("a/b").unwrap();
    let visit = Visit {
        client: [10, 0, 0, 7].into(),
        upstream: &table.upstream,
        repository: &repository,
    };
    let pull = table.visits.begun(visit);
    assert!(pull.is_some());
    table.clock.advance(PAUSE_MAX * 100);
    table.visits.look(PAUSE_MAX);
    assert!(!table.pulls()[0].4);
    let ended = Ended {
        kind: Kind::Blob,
        reference: None,
        digest: None,
        outcome: None,
        bytes: 7,
        user_agent: None,
    };
    table.visits.ended(visit, ended, pull);
    table.visits.finish();
    assert_eq!(table.pulls()[0].1, 2);
    assert!(table.pulls()[0].4);
}

#[test]
fn clients_pulls_and_what_has_ended_are_bounded() {
    let table = Table::new();
    for number in 0..PULLS_MAX + 5 {
        table.clock.advance(Duration::from_millis(1));
        let repository = format!("a/b{number}");
        table.ask("10.0.0.7", &repository, Kind::Manifest, Outcome::Hit, 1);
    }
    let running = |table: &Table| table.pulls().iter().filter(|it| !it.4).count();
    assert_eq!(running(&table), PULLS_MAX);
    assert_eq!(table.pulls().len(), PULLS_MAX + 5);
    // One host with IPv6 is one client, and no other one goes for it.
    for number in 0..100 {
        let address = format!("2001:db8:1:2::{number:x}");
        table.ask(&address, "a/b", Kind::Manifest, Outcome::Hit, 1);
    }
    assert_eq!(table.visits.clients().len(), 2);
    for number in 0..PARTS * CLIENTS_MAX + 1000 {
        let number = u32::try_from(number).unwrap();
        let address = std::net::Ipv4Addr::from_bits(0x0b01_0000 + number);
        table.ask(&address.to_string(), "a/b", Kind::Manifest, Outcome::Hit, 1);
    }
    assert_eq!(table.visits.clients().len(), PARTS * CLIENTS_MAX);
    assert!(running(&table) <= PARTS * PULLS_OF_PART_MAX);
    assert!(table.pulls().len() <= PARTS * PULLS_OF_PART_MAX + ENDED_MAX);
}
