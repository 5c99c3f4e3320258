//! What is done about a tag when upstream cannot, or will not, say what it names: every cell of
//! failure and choice, rules, pinned tags, revalidation in the background.

use std::sync::Arc;
use std::time::Duration;

use crate::common::images;
use crate::common::mirror::{STALE_IF_ERROR, TTL};
use crate::common::{
    Answer, Auth, Dialect, FakeRegistry, Fault, Image, Kind, Mirror, MirrorBuilder, Rule, within,
};
use http::Method;
use roadstead::mirror::{self, Failure, Pattern, Policy, Revalidate, StaleOn, Ttl};
use tokio::sync::Semaphore;

const TAG: &str = "/v2/team/app/manifests/v1";
const SECOND: Duration = Duration::from_secs(1);
const NEGATIVE_TTL: Duration = Duration::from_secs(10);
/// Longer than a failed upstream is left alone.
const SPARED: Duration = Duration::from_secs(10);

struct World {
    registry: FakeRegistry,
    mirror: Mirror,
    old: Image,
    new: Image,
}

/// `app:v1` is cached and no longer fresh; a newer image is at hand.
async fn world(change: impl FnOnce(&mut Policy)) -> World {
    let registry = FakeRegistry::start().await;
    let old = images::image(61, &[1000], Dialect::Oci);
    let new = images::image(62, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &old);
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| change(&mut config.tags.defaults))
        .start()
        .await;
    mirror.get(TAG).await.assert_bytes(200, &old.manifest.bytes);
    registry.reset();
    mirror.clock.advance(TTL + SECOND);
    World {
        registry,
        mirror,
        old,
        new,
    }
}

impl World {
    /// Manifests asked for, by HEAD and by GET.
    fn asked(&self) -> (usize, usize) {
        asked(&self.registry)
    }

    fn move_tag(&self) {
        self.registry.put_image("team/app", Some("v1"), &self.new);
    }

    /// Asks until the answer is as wanted: nothing announces the end of what happens in the background.
    async fn get_until(&self, what: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        within(what, async {
            loop {
                let answer = self.mirror.get(TAG).await;
                if wanted(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }
}

fn asked(registry: &FakeRegistry) -> (usize, usize) {
    let counters = registry.counters();
    (
        counters.of(&Method::HEAD, Kind::Manifest),
        counters.of(&Method::GET, Kind::Manifest),
    )
}

fn by_digest(image: &Image) -> String {
    format!("/v2/team/app/manifests/{}", image.manifest.digest)
}

#[track_caller]
fn assert_stale(answer: &Answer, what: &str) {
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    assert_eq!(
        answer.header("cache-status"),
        "roadstead; fwd=stale",
        "{what}"
    );
    let warnings = answer.all("warning");
    let warned = warnings.iter().any(|text| text.starts_with("110"));
    assert!(warned, "{what}: {:?}", answer.headers);
}

/// What goes wrong in a cell of the table.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Down,
    Nonsense,
    WrongBytes,
    Cut,
    Status(u16),
    Limited,
    Deleted,
}

impl Trouble {
    async fn befall(self, world: &World) {
        let registry = &world.registry;
        let all = || Rule::all(Kind::Manifest);
        match self {
            Self::Down => registry.go_down().await,
            Self::Nonsense => {
                world.move_tag();
                let page = Fault::Instead {
                    content_type: "text/html",
                    body: "<html>Please log in</html>",
                };
                registry.fault(Rule::gets(Kind::Manifest), page);
            }
            Self::WrongBytes => {
                world.move_tag();
                registry.fault(Rule::gets(Kind::Manifest), Fault::Flip(20));
            }
            Self::Cut => {
                world.move_tag();
                registry.fault(Rule::gets(Kind::Manifest), Fault::Cut(20));
            }
            Self::Status(status) => registry.fault(all(), Fault::Status(status)),
            Self::Limited => registry.fault(all(), Fault::RateLimited(30)),
            Self::Deleted => registry.delete_tag("team/app", "v1"),
        }
    }
}

const TABLE: &[(Trouble, Failure, &[u16])] = &[
    (Trouble::Down, Failure::Unreachable, &[502, 504]),
    (Trouble::Nonsense, Failure::Unreachable, &[502]),
    (Trouble::WrongBytes, Failure::Unreachable, &[502]),
    (Trouble::Cut, Failure::Unreachable, &[502, 504]),
    (Trouble::Status(500), Failure::ServerError, &[502, 504]),
    (Trouble::Status(503), Failure::ServerError, &[502, 504]),
    (Trouble::Status(429), Failure::RateLimited, &[429]),
    (Trouble::Limited, Failure::RateLimited, &[429]),
    (Trouble::Status(401), Failure::Denied, &[403]),
    (Trouble::Status(403), Failure::Denied, &[403]),
    (Trouble::Deleted, Failure::Deleted, &[404]),
];

/// The minute in which a login that was refused is not tried is no silence of upstream's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_was_refused_is_denied_while_it_is_left_alone_too() {
    let registry = FakeRegistry::start().await;
    let image = images::image(63, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    registry.options(|options| options.auth = Auth::token_for("robot", "s3cret"));
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| {
            config.upstreams[0].logins =
                vec![crate::common::mirror::credentials("robot", "s3cret")];
        })
        .start()
        .await;
    mirror
        .get(TAG)
        .await
        .assert_bytes(200, &image.manifest.bytes);
    registry.options(|options| options.auth = Auth::token_for("robot", "changed"));
    registry.expire_tokens();
    for turn in 0..3 {
        mirror.clock.advance(TTL + SECOND);
        let answer = mirror.get(TAG).await;
        assert_eq!(answer.status, 403, "{turn}: {}", answer.text());
    }
}

/// A policy that serves the old answer for this failure alone, or for all but this one.
fn choosing(policy: &mut Policy, failure: Failure, alone: bool) {
    let others = [
        Failure::Unreachable,
        Failure::ServerError,
        Failure::RateLimited,
        Failure::Denied,
    ];
    let chosen = others.iter().filter(|f| (**f == failure) == alone);
    policy.stale_on = chosen.fold(StaleOn::NOTHING, |set, f| set.with(*f));
    policy.keep_deleted = (failure == Failure::Deleted) == alone;
}

/// gardener/gardener#8554, goharbor/harbor#19899: which failure means what is the operator's choice.
async fn every_cell(method: Method) {
    for &(trouble, failure, statuses) in TABLE {
        for serves in [true, false] {
            let what = format!("{method} with {trouble:?}, served stale: {serves}");
            let world = world(|policy| choosing(policy, failure, serves)).await;
            trouble.befall(&world).await;
            let answer = match method {
                Method::HEAD => world.mirror.head(TAG).await,
                _ => world.mirror.get(TAG).await,
            };
            if serves {
                assert_stale(&answer, &what);
                let digest = answer.header("docker-content-digest");
                assert_eq!(digest, world.old.manifest.digest, "{what}");
            } else {
                let (status, text) = (answer.status, answer.text());
                assert!(statuses.contains(&status), "{what}: {status} {text}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failure_has_its_choice_by_get() {
    every_cell(Method::GET).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failure_has_its_choice_by_head() {
    every_cell(Method::HEAD).await;
}

/// What is not said is: stale for what is no answer, and not for what is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_defaults_serve_stale_for_what_is_no_answer() {
    for &(trouble, failure, statuses) in TABLE {
        let world = world(|_| {}).await;
        trouble.befall(&world).await;
        let answer = world.mirror.get(TAG).await;
        if matches!(failure, Failure::Denied | Failure::Deleted) {
            assert!(statuses.contains(&answer.status), "{trouble:?}");
        } else {
            assert_stale(&answer, &format!("{trouble:?}"));
        }
    }
}

/// goharbor/harbor#22106: an image vanished from the proxy with its tag.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_tag_is_kept_for_good() {
    let world = world(|policy| {
        policy.keep_deleted = true;
        policy.negative_ttl = NEGATIVE_TTL;
    })
    .await;
    world.registry.delete_tag("team/app", "v1");
    for _ in 0..3 {
        assert_stale(&world.mirror.get(TAG).await, "deleted");
    }
    // Some registries answer HEAD with 404 and GET with what is there: GET is asked, too.
    assert_eq!(
        world.asked(),
        (1, 1),
        "the deletion is believed for a while"
    );
    // Deleted is an answer: how long upstream may be silent has nothing to do with it.
    world.mirror.clock.advance(STALE_IF_ERROR * 10);
    assert_stale(&world.mirror.get(TAG).await, "long ago");
    assert_eq!(world.asked(), (2, 2));
    // And when it comes back, it is followed.
    world.move_tag();
    world.mirror.clock.advance(NEGATIVE_TTL + SPARED);
    let answer = world.mirror.get(TAG).await;
    answer.assert_bytes(200, &world.new.manifest.bytes);
}

/// A refresh noticed a deletion and told nobody, so that what cannot be fetched again was not pinned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_a_refresh_notices_pins_what_is_kept() {
    let world = world(|policy| policy.keep_deleted = true).await;
    world.registry.delete_tag("team/app", "v1");
    let ours = [("x-roadstead-admin", "1")];
    let path = "/api/v1/refresh?image=docker.io/team/app:v1";
    let answer = world.mirror.admin.ask(Method::POST, path, &ours).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    within("the pin", async {
        loop {
            let pins = world.mirror.admin.get("/api/v1/pins").await;
            if pins.text().contains("docker.io/team/app:v1") {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_decide_by_tag() {
    let registry = FakeRegistry::start().await;
    let image = images::image(63, &[1000], Dialect::Oci);
    for tag in ["v1", "v2", "latest"] {
        registry.put_image("team/app", Some(tag), &image);
    }
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| {
            let defaults = config.tags.defaults;
            let rule = |pattern: &str, ttl: Ttl, stale_on: StaleOn| mirror::Rule {
                pattern: Pattern::parse(pattern).unwrap(),
                policy: Policy {
                    ttl,
                    stale_on,
                    ..defaults
                },
            };
            config.tags.rules = vec![
                rule("docker.io/team/*:v1", Ttl::Forever, StaleOn::NOTHING),
                rule("**:v*", defaults.ttl, StaleOn::NOTHING),
                rule("docker.io/**", Ttl::For(Duration::ZERO), defaults.stale_on),
            ];
        })
        .start()
        .await;
    let get = async |tag: &str| mirror.get(&format!("/v2/team/app/manifests/{tag}")).await;
    for tag in ["v1", "v2", "latest"] {
        assert_eq!(get(tag).await.status, 200);
    }
    registry.fault(Rule::all(Kind::Manifest), Fault::Status(503));
    assert_stale(&get("latest").await, "never fresh");
    assert_eq!(get("v2").await.header("cache-status"), "roadstead; hit");
    mirror.clock.advance(TTL + SECOND);
    assert_eq!(get("v1").await.header("cache-status"), "roadstead; hit");
    assert!(matches!(get("v2").await.status, 502..=504));
    assert_stale(&get("latest").await, "still");
}

/// A pinned tag is asked for once, whatever happens to it, to upstream, or to this mirror.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_tag_is_never_asked_again() {
    let world = world(|policy| policy.ttl = Ttl::Forever).await;
    world.move_tag();
    world.mirror.clock.advance(STALE_IF_ERROR * 1000);
    let answer = world.mirror.get(TAG).await;
    answer.assert_bytes(200, &world.old.manifest.bytes);
    assert_eq!(answer.header("cache-status"), "roadstead; hit");
    assert_eq!(world.asked(), (0, 0));

    let World {
        registry,
        mirror,
        old,
        ..
    } = world;
    let mirror = mirror.restart().await;
    mirror.get(TAG).await.assert_bytes(200, &old.manifest.bytes);
    assert_eq!(asked(&registry), (0, 0), "nor after a restart");

    // Its manifest is evicted: it is asked for by the digest that the tag was pinned to.
    let file = mirror.blob_path(&old.manifest.digest);
    let mirror = mirror
        .restart_after(|_| std::fs::remove_file(&file).unwrap())
        .await;
    let answer = mirror.get(TAG).await;
    answer.assert_bytes(200, &old.manifest.bytes);
    assert_eq!(answer.header("cache-status"), "roadstead; fwd=miss; stored");
    assert_eq!(registry.counters().manifest_gets(&old.manifest.digest), 1);
    assert_eq!(asked(&registry), (0, 1), "and by nothing else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_background_nobody_waits() {
    let world = world(|policy| policy.revalidate = Revalidate::Background).await;
    world.move_tag();
    let gate = Arc::new(Semaphore::new(0));
    let held = Fault::Wait(Arc::clone(&gate));
    world.registry.fault(Rule::all(Kind::Manifest), held);
    // Upstream says nothing yet, and everybody is answered.
    for _ in 0..10 {
        let answer = world.mirror.get(TAG).await;
        assert_stale(&answer, "upstream is silent");
        answer.assert_bytes(200, &world.old.manifest.bytes);
        assert_stale(&world.mirror.head(TAG).await, "upstream is silent");
    }
    world
        .registry
        .wait_for("the question", |c| c.of(&Method::HEAD, Kind::Manifest) > 0)
        .await;
    assert_eq!(world.asked(), (1, 0), "one question at a time");
    gate.add_permits(1);
    let new = world.new.manifest.digest.clone();
    let answer = world
        .get_until("the new image", |a| {
            a.header("docker-content-digest") == new
        })
        .await;
    answer.assert_bytes(200, &world.new.manifest.bytes);
    assert_eq!(answer.header("cache-status"), "roadstead; hit");
    assert_eq!(world.asked(), (1, 1));
}

/// What may not be served stale is not served in advance of the same answer either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_background_a_refusal_is_heeded() {
    for (trouble, status) in [(Trouble::Status(403), 403), (Trouble::Deleted, 404)] {
        let world = world(|policy| policy.revalidate = Revalidate::Background).await;
        trouble.befall(&world).await;
        assert_stale(&world.mirror.get(TAG).await, "before upstream has said so");
        world
            .get_until("the refusal", |answer| answer.status == status)
            .await;
        assert_eq!(world.mirror.get(TAG).await.status, status, "it stays so");
        world.registry.heal();
        world.move_tag();
        let answer = world.mirror.get(TAG).await;
        answer.assert_bytes(200, &world.new.manifest.bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_background_a_failure_is_not_asked_about_by_each_pull() {
    let world = world(|policy| policy.revalidate = Revalidate::Background).await;
    world
        .registry
        .fault(Rule::all(Kind::Manifest), Fault::RateLimited(2));
    assert_stale(&world.mirror.get(TAG).await, "first");
    world
        .registry
        .wait_for("the question", |c| c.of(&Method::HEAD, Kind::Manifest) > 0)
        .await;
    for _ in 0..20 {
        assert_stale(&world.mirror.get(TAG).await, "spared");
    }
    let (heads, gets) = world.asked();
    // The pulls until the first question has failed may have begun a second one; not one each.
    assert!(heads <= 2 && gets == 0, "{heads} HEADs, {gets} GETs");
    // Past the time in which it may be stale, clients wait for upstream.
    world.mirror.clock.advance(STALE_IF_ERROR + TTL);
    assert_eq!(world.mirror.get(TAG).await.status, 429);
    world.registry.heal();
    world.mirror.clock.advance(SPARED);
    let answer = world.mirror.get_when_spared_no_more(TAG).await;
    assert_eq!(answer.status, 200);
}

/// Whoever has an old answer does not wait for a limit to pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_limited_the_old_answer_comes_at_once() {
    for rule in [Rule::all(Kind::Manifest), Rule::gets(Kind::Manifest)] {
        let world = world(|_| {}).await;
        world.move_tag();
        let by_head = rule.method.is_none();
        world.registry.fault(rule, Fault::RateLimited(1));
        assert_stale(&world.mirror.get(TAG).await, "limited");
        let expected = if by_head { (1, 0) } else { (1, 1) };
        assert_eq!(world.asked(), expected, "nothing was tried again");
    }
}

/// Who has an old answer is content with a quick failure; who asked for the same digest and has
/// nothing is not: its question is asked again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hurried_question_that_fails_is_asked_again_for_who_has_nothing_else() {
    let world = world(|_| {}).await;
    world.move_tag();
    let digest = world.new.manifest.digest.clone();
    // A broken connection is tried once more by itself.
    let twice = Rule::gets(Kind::Manifest).of(&digest).times(2);
    world.registry.fault(twice, Fault::Cut(20));
    let gate = world.registry.gate(&digest);
    let (client, path) = (world.mirror.client, by_digest(&world.new));
    let hurried = tokio::spawn(async move { client.get(TAG).await });
    world
        .registry
        .wait_for("the GET", |c| c.manifest_gets(&digest) > 0)
        .await;
    let patient = tokio::spawn(async move { client.get(&path).await });
    // Nothing announces that it has joined; if it has not, it asks for itself, and the test shows less.
    tokio::time::sleep(Duration::from_millis(300)).await;
    gate.open();
    assert_stale(&hurried.await.unwrap(), "broken off");
    let patient = within("the patient one", patient).await.unwrap();
    patient.assert_bytes(200, &world.new.manifest.bytes);
}
