//! `serve`: runs the mirror until a signal ends it.

mod notify;
mod signals;

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::{EXIT_DONE, EXIT_START, client_config, fail, runtime};
use crate::app::{App, Launch, start};
use crate::clock::SystemClock;
use crate::config::{Config, Loaded, Overrides, Snapshot};
use crate::server::{Inherited, ReloadError, Reloaded};
use crate::telemetry::logging;
use notify::Manager;
use signals::Signals;

pub(super) use signals::survive_large_files;

/// The time that the end may take longer than the drain: what was begun is recorded, and the index written.
const STOP_WAIT_MAX: Duration = Duration::from_secs(3);

/// The time between two lines that say how long a drain may still take.
const COUNT_EACH: Duration = Duration::from_secs(10);

/// The longest that the start is held up for a ready line that nobody reads.
const SAY_WAIT_MAX: Duration = Duration::from_secs(1);

/// Serves, and says with which code the process ends. Logging must have been set up.
#[must_use]
pub fn run(loaded: Loaded, flags: &Overrides, takes_over: bool) -> u8 {
    let config = loaded.config;
    for note in &loaded.notes {
        tracing::warn!("{note}");
    }
    // Before there are threads: it takes variables out of the environment.
    let inherited = match Inherited::take() {
        Ok(inherited) => inherited,
        Err(error) => return fail(EXIT_START, &error),
    };
    start::announce(&config, Config::file_of(flags).as_deref());
    // Signals and the end of the process have a thread of their own, which hangs with nothing.
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let (runtime, control) = match runtime().and_then(|runtime| Ok((runtime, control?))) {
        Ok(both) => both,
        Err(error) => return fail(EXIT_START, &format!("cannot start threads: {error}")),
    };
    logging::write_access_lines_directly();
    logging::log_panics();
    let launch = Launch {
        flags: Some(flags.clone()),
        stamp: loaded.stamp,
        clients: Some(client_config::setups),
        takes_over,
    };
    let code = control.block_on(serve_until_signal(config, launch, &runtime, inherited));
    // Tasks that still run must not hold up the exit.
    runtime.shutdown_background();
    code
}

async fn serve_until_signal(
    config: Config,
    launch: Launch,
    runtime: &Runtime,
    inherited: Inherited,
) -> u8 {
    // Before anything starts, so that no signal finds the system's default, which kills.
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return fail(EXIT_START, &format!("cannot handle signals: {error}")),
    };
    let (scheme, admin_scheme) = (config.server.scheme(), config.server.admin_scheme());
    let drain_timeout = config.server.drain_timeout;
    let snapshot = Snapshot::new(config);
    let manager = Manager::of_environment();
    let takes_over = launch.takes_over;
    let starting = {
        let starting = App::start_with(snapshot, launch, Arc::new(SystemClock), inherited);
        runtime.spawn(Box::pin(starting))
    };
    let started = tokio::select! {
        started = starting => started,
        stop = signals.next() => {
            tracing::info!(signal = stop.as_str(), "stopped before it had started");
            return EXIT_DONE;
        }
    };
    let app = match started {
        Ok(Ok(app)) => app,
        Ok(Err(error)) => return fail(EXIT_START, &error),
        Err(error) => return fail(EXIT_START, &format!("cannot start: {error}")),
    };
    let (address, admin) = (app.address(), app.admin_address());
    let ready = format!("listening on {scheme}://{address} (admin {admin_scheme}://{admin})");
    manager.ready(&ready);
    if takes_over {
        manager.is_main();
    }
    runtime.spawn(manager.clone().watch(move || notify::ask(admin)));
    heed(&mut signals, &app, runtime, (&manager, &ready));
    if let Err(error) = say_in_time(format!("{ready}\n")).await {
        // Our output is closed, or nobody reads it; clients can still be served.
        tracing::warn!(%error, %address, %admin, "cannot write the ready line");
    }
    let first = tokio::select! {
        first = signals.next() => Some(first),
        () = app.handed_over() => None,
    };
    let stop_wait_max = app.finish_max(drain_timeout).saturating_add(STOP_WAIT_MAX);
    // The service goes on, in the process that has taken over.
    if let Some(first) = first {
        tracing::info!(signal = first.as_str(), "draining");
        manager.stopping(stop_wait_max);
    }
    finish(app, stop_wait_max, &mut signals, runtime).await
}

/// Ends the server, in no more time than this, and says with which code the process ends.
async fn finish(app: App, stop_wait_max: Duration, signals: &mut Signals, runtime: &Runtime) -> u8 {
    let stopping = runtime.spawn(Box::pin(app.stop()));
    tokio::select! {
        stopped = tokio::time::timeout(stop_wait_max, stopping) => {
            match stopped {
                Ok(Ok(())) => tracing::info!("stopped"),
                Ok(Err(error)) => tracing::error!(%error, "stopped in disorder"),
                Err(_late) => tracing::error!(
                    "stopped without waiting any longer for what still runs: does the disk answer? What was stored stays"
                ),
            }
            EXIT_DONE
        }
        never = count_down(stop_wait_max) => match never {},
        second = signals.next() => {
            tracing::warn!(signal = second.as_str(), "second signal: stopping without draining");
            second.exit_code()
        }
    }
}

/// Reloads on SIGHUP, of which the service manager is told, and opens files again on SIGUSR1.
fn heed(signals: &mut Signals, app: &App, runtime: &Runtime, (manager, ready): (&Manager, &str)) {
    let reload = Arc::clone(app.reload());
    let threads = runtime.handle().clone();
    let (manager, ready) = (manager.clone(), ready.to_owned());
    signals.on_reload(move || {
        let reload = Arc::clone(&reload);
        let (manager, ready) = (manager.clone(), ready.clone());
        manager.reloading();
        threads.spawn_blocking(move || {
            // It logs what became of it.
            let reloaded = reload.run();
            manager.ready(&format!("{ready}{}", outcome(&reloaded)));
        });
    });
    let audit = app.guard().audit().clone();
    signals.on_reopen(move || {
        if !audit.is_on() {
            tracing::info!("SIGUSR1: there is no audit log that could be opened again");
        }
        audit.reopen();
    });
}

/// The outcome of a reload, for `systemctl status`. The log, which fewer may read, has the values.
fn outcome(reloaded: &Result<Reloaded, ReloadError>) -> &'static str {
    match reloaded {
        Ok(reloaded) if reloaded.after_restart.is_empty() => "",
        Ok(_) => "; keys of the new configuration need a restart: see the log",
        Err(ReloadError::Busy) => "; the configuration is being read again",
        Err(ReloadError::Invalid(_) | ReloadError::Unreadable(_)) => {
            "; the last reload failed and changed nothing: see the log"
        }
    }
}

/// Says how long the drain may still take.
async fn count_down(wait_max: Duration) -> Infallible {
    let end = Instant::now() + wait_max;
    let mut ticks = tokio::time::interval(COUNT_EACH);
    // The first comes at once.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        tracing::info!(
            seconds_left = left,
            "draining: transfers under way are finished; a second signal stops at once"
        );
    }
}

/// Writes to standard output and flushes, for a pipe would keep the line back.
fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Says it without waiting much longer than a reader takes that is there.
async fn say_in_time(text: String) -> io::Result<()> {
    let (sender, said) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("ready line".to_owned());
    thread.spawn(move || sender.send(say(&text)))?;
    let said = tokio::time::timeout(SAY_WAIT_MAX, said).await;
    said.map_or_else(
        |_late| Err(io::ErrorKind::TimedOut.into()),
        |said| said.unwrap_or_else(|gone| Err(io::Error::other(gone))),
    )
}
