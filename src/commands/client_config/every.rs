//! The write again and again, for a node on which others change the files.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::install::{Change, Outcome};
use crate::commands::output::{complain, say, say_json};
use crate::commands::{EXIT_DONE, EXIT_FAILED, fail};

/// Runs the write until a signal ends it. Changes are told, and each new error once.
pub(super) async fn heal(
    every: Duration,
    json: bool,
    round: impl Fn() -> Result<Vec<Outcome>, Vec<String>>,
) -> u8 {
    let signals = signal(SignalKind::terminate())
        .and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
    let (mut terminate, mut interrupt) = match signals {
        Ok(signals) => signals,
        Err(error) => return fail(EXIT_FAILED, &format!("cannot wait for signals: {error}")),
    };
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Vec::new();
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => return EXIT_DONE,
            _ = interrupt.recv() => return EXIT_DONE,
            _ = ticks.tick() => {}
        }
        match round() {
            Ok(outcomes) => {
                told.clear();
                tell(&outcomes, json);
            }
            Err(errors) if errors != told => {
                for error in &errors {
                    complain(&format!("error: {error}"));
                }
                told = errors;
            }
            Err(_) => {}
        }
    }
}

fn tell(outcomes: &[Outcome], json: bool) {
    for outcome in outcomes.iter().filter(|it| it.change != Change::None) {
        if json {
            say_json(outcome);
            continue;
        }
        let restart = if outcome.restart.is_empty() {
            String::new()
        } else {
            format!("; then: {}", outcome.restart)
        };
        say(&format!("wrote {}{restart}", outcome.path));
    }
}
