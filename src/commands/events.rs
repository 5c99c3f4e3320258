//! `events`: what has changed in hosted repositories, and what changes.

use std::time::{Duration, SystemTime};

use clap::Args;
use http::Method;

use super::cache::screen::{Screen, say, say_json};
use super::hosted::{Common, digest};
use super::output::note;
use super::target::{Locator, Target, TargetError};
use crate::format::harmless;
use crate::server::{EventInfo, EventList};

const EVENTS: &str = "/api/v1/events";

/// Events in a request.
const LIMIT: &str = "1000";

/// Seconds that the server may wait for an event.
const WAIT_SECONDS: &str = "50";

/// Time between two attempts to reach a server that has gone, a restart for example.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// `events`.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Go on with what changes; without --since, from now on
    #[arg(long)]
    follow: bool,
    /// Begin behind the event of this number, or at a time: 2026-11-21T19:34:54Z, or 2h ago as `2h`
    #[arg(long, value_name = "SEQ|TIME")]
    since: Option<String>,
    /// Only those of these repositories, such as `team/*`; `*` stands for anything
    #[arg(long, value_name = "GLOB")]
    repository: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// The first event that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Since {
    /// The one behind this.
    Seq(i64),
    /// The first from this time on.
    Time(String),
}

impl Arguments {
    /// The server to ask.
    ///
    /// # Errors
    /// One line: a flag makes no sense, or the configuration does not say where the server is.
    pub fn locate(&self) -> Result<Locator, String> {
        self.since()?;
        Locator::of(&self.common.server, None, None)
    }

    fn since(&self) -> Result<Option<Since>, String> {
        let Some(text) = &self.since else {
            return Ok(None);
        };
        if let Ok(seq) = text.parse::<i64>()
            && seq >= 0
        {
            return Ok(Some(Since::Seq(seq)));
        }
        if humantime::parse_rfc3339_weak(text).is_ok() {
            return Ok(Some(Since::Time(text.clone())));
        }
        let ago = humantime::parse_duration(text).ok();
        let then = ago.and_then(|ago| now().checked_sub(ago));
        let then = then.filter(|it| *it >= SystemTime::UNIX_EPOCH);
        then.map(|then| Some(Since::Time(humantime::format_rfc3339_millis(then).to_string())))
            .ok_or_else(|| {
                format!("--since {text:?} is no event's number, no time like 2026-11-21T19:34:54Z, and no length of time like 2h")
            })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a length of time on the command line is before now"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Shows events.
///
/// # Errors
/// [`TargetError`]: the server does not answer, or refuses.
pub async fn run(arguments: &Arguments, place: &Locator) -> Result<(), TargetError> {
    let mut target = place.reach_server().await?;
    let screen = Screen::new(arguments.common.json);
    // It was read before.
    let mut since = arguments.since().unwrap_or_default();
    if arguments.follow && since.is_none() {
        let newest = ask(&target, arguments, Some(&Since::Seq(0)), "1", "0").await?;
        since = Some(Since::Seq(newest.last));
    }
    loop {
        let wait = if arguments.follow { WAIT_SECONDS } else { "0" };
        let list = match ask(&target, arguments, since.as_ref(), LIMIT, wait).await {
            Ok(list) => list,
            Err(error) if arguments.follow && is_passing(&error) => {
                note(&format!("{error}; trying again"));
                target = reach_again(place).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        if list.missed > 0 {
            note(&format!(
                "{} events are not kept any more, and are missing here",
                list.missed
            ));
        }
        for event in &list.events {
            show(event, screen);
        }
        let is_end = list.next >= list.last;
        since = Some(Since::Seq(list.next));
        if is_end && !arguments.follow {
            return Ok(());
        }
        if super::output::failure().is_some() {
            // Nobody reads any more.
            return Ok(());
        }
    }
}

async fn ask(
    target: &Target,
    arguments: &Arguments,
    since: Option<&Since>,
    limit: &str,
    wait: &str,
) -> Result<EventList, TargetError> {
    let mut parameters = vec![("limit", limit), ("wait", wait)];
    let number;
    match since {
        None => {}
        Some(Since::Seq(seq)) => {
            number = seq.to_string();
            parameters.push(("after", &number));
        }
        Some(Since::Time(time)) => parameters.push(("since", time)),
    }
    let pattern = arguments.repository.as_deref();
    parameters.extend(pattern.map(|pattern| ("repository", pattern)));
    target.ask(Method::GET, EVENTS, &parameters).await
}

/// True for a server that restarts, or is busy.
fn is_passing(error: &TargetError) -> bool {
    match error {
        TargetError::NotThere { .. } | TargetError::Nonsense { .. } => true,
        TargetError::Refused { status, .. } => matches!(status, 429 | 503),
        TargetError::Address(_)
        | TargetError::Nobody { .. }
        | TargetError::Configuration { .. }
        | TargetError::Directory(_) => false,
    }
}

async fn reach_again(place: &Locator) -> Target {
    loop {
        tokio::time::sleep(AGAIN_AFTER).await;
        if let Ok(target) = place.reach_server().await {
            return target;
        }
    }
}

fn show(event: &EventInfo, screen: Screen) {
    if screen.json {
        say_json(event);
        return;
    }
    let EventInfo {
        seq,
        time,
        kind,
        repository,
        by,
        ..
    } = event;
    let tag = event.tag.as_ref().map(|tag| format!(":{tag}"));
    let named = event.digest.as_ref().map(|it| format!(" {}", digest(it)));
    let rule = event.rule.as_ref().map(|rule| format!(" ({rule})"));
    let [tag, named, rule] = [tag, named, rule].map(Option::unwrap_or_default);
    let line = format!("{seq} {time} {kind} {repository}{tag}{named} by {by}{rule}");
    say(&harmless(&line));
}
