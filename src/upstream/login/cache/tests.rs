use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tokio::sync::Semaphore;

use super::*;
use crate::upstream::{Credentials, Secret};

/// The password and its life in seconds, or why there is none.
type Next = Result<(&'static str, Option<u64>), &'static str>;

/// Gives what the test has put in line; what is last in line again and again.
struct Scripted {
    script: Mutex<VecDeque<Next>>,
    fetches: AtomicUsize,
    /// A fetch ends when it gets one.
    permits: Semaphore,
    inputs: Vec<PathBuf>,
}

impl Provider for Scripted {
    async fn fetch(&self) -> Result<Issued, FetchError> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        self.permits.acquire().await.unwrap().forget();
        let mut script = self.script.lock().unwrap();
        let next = script.pop_front().unwrap();
        if script.is_empty() {
            script.push_back(next);
        }
        let (password, life) = next.map_err(|why| FetchError::Login(why.to_owned()))?;
        Ok(Issued {
            login: Some(basic(password)),
            good_for: life.map(Duration::from_secs),
        })
    }

    fn name(&self) -> &'static str {
        "the scripted login"
    }

    fn inputs(&self) -> &[PathBuf] {
        &self.inputs
    }
}

fn basic(password: &str) -> Login {
    Login::Basic(Credentials {
        username: "robot".to_owned(),
        password: Secret::new(password.to_owned()),
    })
}

type Script = [Next];

fn cache(script: &Script) -> Arc<CredentialCache<Scripted>> {
    with_inputs(script, &[])
}

fn with_inputs(script: &Script, inputs: &[&Path]) -> Arc<CredentialCache<Scripted>> {
    let provider = Scripted {
        script: Mutex::new(script.iter().copied().collect()),
        fetches: AtomicUsize::new(0),
        permits: Semaphore::new(1000),
        inputs: inputs.iter().map(|path| path.to_path_buf()).collect(),
    };
    let upstream = UpstreamName::parse("test.example").unwrap();
    Arc::new(CredentialCache::new(provider, upstream))
}

impl CredentialCache<Scripted> {
    fn fetches(&self) -> usize {
        self.provider.fetches.load(Ordering::SeqCst)
    }

    fn hold_fetches(&self) {
        self.provider.permits.forget_permits(1000);
    }

    fn end_a_fetch(&self) {
        self.provider.permits.add_permits(1);
    }
}

async fn login(cache: &Arc<CredentialCache<Scripted>>) -> Result<Arc<Login>, FetchError> {
    let deadline = Deadline::after(Duration::from_secs(5));
    cache.login(deadline).await.map(Option::unwrap)
}

/// The password, or the error's text.
async fn password(cache: &Arc<CredentialCache<Scripted>>) -> String {
    match login(cache).await {
        Ok(login) => match &*login {
            Login::Basic(credentials) => credentials.password.expose().to_owned(),
            other @ (Login::Refresh(_) | Login::Bearer(_)) => panic!("{other:?}"),
        },
        Err(error) => error.to_string(),
    }
}

async fn seconds(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

/// Lets the tasks that are ready run.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[expect(clippy::disallowed_methods, reason = "the test owns its files")]
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

const REFUSED: &str = "credentials: the registry refused the scripted login less than a minute ago";

#[tokio::test(start_paused = true)]
async fn one_fetch_serves_all_who_wait_and_outlives_them() {
    let cache = cache(&[Ok(("one", Some(100)))]);
    cache.hold_fetches();
    let mut first = Box::pin(login(&cache));
    assert!(futures_util::poll!(&mut first).is_pending());
    settle().await;
    drop(first);
    let all = join_all((0..50).map(|_| password(&cache)));
    let release = async {
        settle().await;
        cache.end_a_fetch();
    };
    let (passwords, ()) = tokio::join!(all, release);
    assert!(passwords.iter().all(|it| it == "one"), "{passwords:?}");
    assert_eq!(cache.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_waits_no_longer_than_it_can() {
    let cache = cache(&[Ok(("one", None))]);
    cache.hold_fetches();
    let error = login(&cache).await.unwrap_err();
    assert_eq!(error, FetchError::Timeout("a login"));
    cache.end_a_fetch();
    assert_eq!(password(&cache).await, "one");
    assert_eq!(cache.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn it_is_fetched_again_before_its_end_and_nobody_waits() {
    let cache = cache(&[Ok(("one", Some(100))), Ok(("two", Some(3600)))]);
    assert_eq!(password(&cache).await, "one");
    seconds(79).await;
    assert_eq!(password(&cache).await, "one");
    settle().await;
    assert_eq!(cache.fetches(), 1);

    seconds(2).await;
    cache.hold_fetches();
    for _ in 0..3 {
        let now = futures_util::poll!(Box::pin(password(&cache)));
        assert_eq!(now, std::task::Poll::Ready("one".to_owned()));
        settle().await;
    }
    assert_eq!(cache.fetches(), 2);
    cache.end_a_fetch();
    settle().await;
    assert_eq!(password(&cache).await, "two");

    // The last five minutes of an hour, not its last fifth.
    seconds(3600 - 305).await;
    password(&cache).await;
    settle().await;
    assert_eq!(cache.fetches(), 2);
    seconds(10).await;
    password(&cache).await;
    settle().await;
    assert_eq!(cache.fetches(), 3);
}

#[tokio::test(start_paused = true)]
async fn after_its_end_it_is_not_used() {
    let cache = cache(&[Ok(("one", Some(100))), Ok(("two", Some(100)))]);
    assert_eq!(password(&cache).await, "one");
    seconds(101).await;
    assert_eq!(password(&cache).await, "two");
}

#[tokio::test(start_paused = true)]
async fn a_life_of_no_time_does_not_make_a_storm() {
    let cache = cache(&[Ok(("one", Some(0)))]);
    for _ in 0..10 {
        assert_eq!(password(&cache).await, "one");
    }
    settle().await;
    // One, and one in the background.
    assert!(cache.fetches() <= 11, "{}", cache.fetches());
    let forever = keeper_with_life(u64::MAX);
    assert_eq!(password(&forever).await, "one");
}

fn keeper_with_life(seconds: u64) -> Arc<CredentialCache<Scripted>> {
    cache(&[Ok(("one", Some(seconds)))])
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_for_ten_seconds_and_then_for_longer() {
    let cache = cache(&[Err("down")]);
    for (failures, pause) in [10, 20, 40, 60, 60].into_iter().enumerate() {
        assert_eq!(password(&cache).await, "credentials: down");
        seconds(pause - 1).await;
        assert_eq!(password(&cache).await, "credentials: down");
        assert_eq!(cache.fetches(), failures + 1);
        seconds(1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_leaves_the_old_one_in_use_to_its_end() {
    let script = [
        Ok(("one", Some(100))),
        Err("down"),
        Err("down"),
        Ok(("two", Some(100))),
    ];
    let cache = cache(&script);
    password(&cache).await;
    seconds(81).await;
    for fetches in [2, 2, 3] {
        assert_eq!(password(&cache).await, "one");
        settle().await;
        assert_eq!(cache.fetches(), fetches);
        seconds(6).await;
    }
    // At 99 s; the second failure is told until 113 s.
    seconds(3).await;
    assert_eq!(password(&cache).await, "credentials: down");
    seconds(12).await;
    assert_eq!(password(&cache).await, "two");
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_panics_is_a_failure() {
    let cache = cache(&[Ok(("one", None))]);
    cache.provider.permits.close();
    let error = password(&cache).await;
    assert_eq!(error, "credentials: the fetch was broken off");
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_rests_for_a_minute() {
    let cache = cache(&[Ok(("one", None))]);
    let one = login(&cache).await.unwrap();
    cache.refused(&one);
    assert_eq!(password(&cache).await, REFUSED);
    seconds(59).await;
    // A late word from the same time does not make it longer.
    cache.refused(&one);
    assert_eq!(password(&cache).await, REFUSED);
    seconds(2).await;
    assert_eq!(password(&cache).await, "one");
    assert_eq!(cache.fetches(), 1, "a literal is not fetched again");
    cache.refused(&one);
    assert_eq!(password(&cache).await, REFUSED);
}

#[tokio::test(start_paused = true)]
async fn what_can_be_fetched_again_is_once_when_it_was_refused() {
    let life = Some(36_000);
    let script = [Ok(("one", life)), Ok(("two", life)), Ok(("three", life))];
    let cache = cache(&script);
    let one = login(&cache).await.unwrap();
    cache.refused(&one);
    let two = login(&cache).await.unwrap();
    assert_eq!(*two, basic("two"));
    cache.refused(&one);
    assert_eq!(
        password(&cache).await,
        "two",
        "a late word about the old one"
    );
    // Fresh ones that are refused, too, do not make a storm.
    cache.refused(&two);
    assert_eq!(password(&cache).await, REFUSED);
    assert_eq!(cache.fetches(), 2);
    seconds(61).await;
    assert_eq!(password(&cache).await, "two");
    cache.refused(&two);
    assert_eq!(password(&cache).await, "three");
}

#[tokio::test(start_paused = true)]
async fn the_same_login_fetched_again_is_refused_still() {
    let cache = cache(&[Ok(("one", Some(36_000)))]);
    cache.refused(&login(&cache).await.unwrap());
    assert_eq!(password(&cache).await, REFUSED);
    assert_eq!(password(&cache).await, REFUSED);
    assert_eq!(cache.fetches(), 2);
    seconds(61).await;
    assert_eq!(password(&cache).await, "one");
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_makes_it_fetched_again_within_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    write(&path, "1");
    let cache = with_inputs(&[Ok(("one", None)), Ok(("two", None))], &[&path]);
    assert_eq!(password(&cache).await, "one");
    write(&path, "12");
    assert_eq!(password(&cache).await, "one", "looked at a moment ago");
    seconds(1).await;
    assert_eq!(password(&cache).await, "two");
    seconds(2).await;
    assert_eq!(password(&cache).await, "two");
    assert_eq!(cache.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_ends_a_refusal_and_a_failure_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    let script = [
        Err("no file"),
        Ok(("one", None)),
        Err("empty"),
        Ok(("two", None)),
    ];
    let cache = with_inputs(&script, &[&path]);
    assert_eq!(password(&cache).await, "credentials: no file");
    seconds(1).await;
    assert_eq!(password(&cache).await, "credentials: no file");
    write(&path, "1");
    seconds(1).await;
    assert_eq!(password(&cache).await, "one");

    write(&path, "");
    seconds(1).await;
    assert_eq!(password(&cache).await, "one", "the last good one is cached");
    assert_eq!(cache.fetches(), 3);
    cache.refused(&login(&cache).await.unwrap());
    assert_eq!(password(&cache).await, REFUSED);
    write(&path, "12");
    seconds(1).await;
    assert_eq!(password(&cache).await, "two");
    assert_eq!(cache.fetches(), 4);
}

#[tokio::test(start_paused = true)]
async fn nothing_tells_the_secret() {
    let cache = cache(&[Ok(("s3cret", None))]);
    let login = login(&cache).await.unwrap();
    cache.refused(&login);
    let error = password(&cache).await;
    let text = format!("{cache:?} {login:?} {error}");
    assert!(!text.contains("s3cret"), "{text}");
}
