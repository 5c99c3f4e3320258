//! The command line.
//!
//! Exit codes: 0 when all went well; 1 when roadstead could not start, `warm`, `export` or `import` left
//! something missing, a pull of `bench` failed, `verify` found something that stays wrong, or an operator's
//! command could not be done (what it names is not there, nobody has the cache); 2 when the command line or the
//! configuration is wrong; 130, 143 and the like when a second signal cut the drain short.

mod signals;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use rustix::fs::Mode;
use rustix::process::umask;
use tokio::runtime::Runtime;
use url::Url;

use crate::app::{App, start};
use crate::clock::{Clock as _, SystemClock};
use crate::commands::cache::reach::{Place, ReachError, admin_url, server_url};
use crate::commands::cache::{self, CommandError, Screen};
use crate::commands::{airgap, bench, verify, warm};
use crate::config::{Config, Overrides};
use crate::format;
use crate::telemetry::logging;
use signals::Signals;

/// Runs the program with these arguments, the first of which is its own name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way too, with exit code 0.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE));
        }
    };
    if arguments.command.may_write_a_cache() {
        // What is cached is nobody's business but the owner's and his group's, whoever starts this and how.
        let before = umask(Mode::RWXO);
        umask(before | Mode::RWXO | Mode::WGRP);
    }
    let load = |overrides: &Overrides| Config::load(overrides).map_err(|error| error.to_string());
    let outcome = match arguments.command {
        Command::Serve(overrides) => {
            load(&overrides).map(|config| serve(config, Config::file_of(&overrides).as_deref()))
        }
        Command::Check(overrides) => load(&overrides).map(|config| check(&config)),
        Command::Warm(arguments) => match &arguments.server {
            Some(server) => Ok(server.clone()),
            None => found(arguments.config.as_ref(), server_url),
        }
        .map(|server| warm(&arguments, server)),
        Command::Verify(arguments) => verify(&arguments),
        Command::Export(arguments) => match &arguments.server {
            Some(server) => Ok(server.clone()),
            None => found(arguments.config.as_ref(), server_url),
        }
        .map(|server| export(&arguments, server)),
        Command::Import(arguments) => match &arguments.admin {
            Some(admin) => Ok(admin.clone()),
            None => found(arguments.config.as_ref(), admin_url),
        }
        .map(|admin| import(&arguments, admin)),
        Command::Bench(arguments) => Ok(bench(&arguments)),
        Command::Admin(command) => {
            let common = command.common();
            load(&Overrides {
                config: common.config.clone(),
                cache_dir: common.cache_dir.clone(),
                ..Overrides::default()
            })
            .and_then(|config| {
                let place = Place::new(config, common.admin.clone());
                let place = place.map_err(|error| error.to_string())?;
                Ok(match common.cache_dir {
                    Some(_) => place.in_directory(),
                    None => place,
                })
            })
            .map(|place| operate(&command, &place))
        }
    };
    let code = outcome.unwrap_or_else(|error| fail(EXIT_USAGE, &error));
    logging::flush(logging::FLUSH_WAIT_MAX);
    code
}

/// A pull-through caching mirror for OCI and Docker registries.
#[derive(Debug, Parser)]
#[command(name = "roadstead", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the mirror
    Serve(Overrides),
    /// Print the effective configuration, secrets masked; exit 2 if it has an error
    Check(Overrides),
    /// Pull images through a running mirror, so that they are in its cache
    Warm(Box<warm::Arguments>),
    /// Hash what is stored, and say what is damaged or missing; exit 1 if anything is, and stays so
    Verify(Box<verify::Arguments>),
    /// Write images as an OCI layout, to be carried to where no registry is reached
    Export(Box<airgap::ExportArguments>),
    /// Put the images of an OCI layout into a running mirror
    Import(Box<airgap::ImportArguments>),
    /// Pull an image many times at once from any registry, or from two in turn, and tell what it took; exit 1
    /// if a pull failed
    Bench(Box<bench::Arguments>),
    #[command(flatten)]
    Admin(cache::Command),
}

impl Command {
    /// Whether it may make files in the cache directory.
    fn may_write_a_cache(&self) -> bool {
        match self {
            Self::Serve(_) | Self::Verify(_) | Self::Admin(_) => true,
            Self::Check(_) | Self::Warm(_) | Self::Export(_) | Self::Import(_) | Self::Bench(_) => {
                false
            }
        }
    }
}

fn check(config: &Config) -> ExitCode {
    match say(&config.to_toml()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(EXIT_START, &format!("cannot write: {error}")),
    }
}

/// The configuration for a command that has no flags of `serve`.
fn load_file(file: Option<&PathBuf>) -> Result<Config, String> {
    let overrides = Overrides {
        config: file.cloned(),
        ..Overrides::default()
    };
    Config::load(&overrides).map_err(|error| error.to_string())
}

/// The address of the running server that the configuration has.
fn found(
    file: Option<&PathBuf>,
    address: impl FnOnce(&Config) -> Result<Url, ReachError>,
) -> Result<Url, String> {
    address(&load_file(file)?).map_err(|error| error.to_string())
}

fn verify(arguments: &verify::Arguments) -> Result<ExitCode, String> {
    // With an address that the user has named, no directory is opened instead.
    let (admin, config) = if let Some(admin) = &arguments.admin {
        (admin.clone(), None)
    } else {
        let config = load_file(arguments.config.as_ref())?;
        let admin = admin_url(&config).map_err(|error| error.to_string())?;
        (admin, Some(config))
    };
    let job = arguments.job(admin, config);
    let job = job.map_err(|error| error.to_string())?;
    Ok(run_async(async {
        match Box::pin(verify::run(&job)).await {
            Ok(outcome) if outcome.is_well() => ExitCode::SUCCESS,
            Ok(_) => ExitCode::from(EXIT_MISSING),
            Err(error) => fail(EXIT_MISSING, &error),
        }
    }))
}

fn export(arguments: &airgap::ExportArguments, server: Url) -> ExitCode {
    let job = match arguments.job(server) {
        Ok(job) => job,
        Err(error) => return fail(EXIT_USAGE, &error),
    };
    run_async(async {
        match Box::pin(airgap::export(&job)).await {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => fail(EXIT_MISSING, &error),
        }
    })
}

fn import(arguments: &airgap::ImportArguments, admin: Url) -> ExitCode {
    let job = match arguments.job(admin) {
        Ok(job) => job,
        Err(error) => return fail(EXIT_USAGE, &error),
    };
    run_async(async {
        match Box::pin(airgap::import(&job)).await {
            Ok(puts) if puts.iter().all(|put| put.failed.is_none()) => ExitCode::SUCCESS,
            Ok(_) => ExitCode::from(EXIT_MISSING),
            Err(error) => fail(EXIT_MISSING, &error),
        }
    })
}

fn bench(arguments: &bench::Arguments) -> ExitCode {
    let job = match arguments.job() {
        Ok(job) => job,
        Err(error) => return fail(EXIT_USAGE, &error),
    };
    run_async(async {
        match Box::pin(bench::run(&job)).await {
            Ok(report) if report.is_complete() => ExitCode::SUCCESS,
            Ok(_) => ExitCode::from(EXIT_MISSING),
            Err(error) => fail(EXIT_MISSING, &error),
        }
    })
}

/// Runs a command.
fn run_async(work: impl Future<Output = ExitCode>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(async {
            signals::survive_large_files();
            work.await
        }),
        Err(error) => fail(EXIT_START, &format!("cannot start threads: {error}")),
    }
}

fn warm(arguments: &warm::Arguments, server: Url) -> ExitCode {
    // As compose does: what the environment says comes before a default.
    let environment: HashMap<OsString, OsString> = std::env::vars_os().collect();
    let variable = |name: &str| {
        let value = environment.get(OsStr::new(name))?;
        value.to_str().map(str::to_owned)
    };
    let (job, notes) = match arguments.job(server, &variable) {
        Ok(job) => job,
        Err(error) => return fail(EXIT_USAGE, &error),
    };
    for note in notes {
        // The images are what counts.
        writeln!(io::stderr(), "note: {}", format::harmless(&note)).ok();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(EXIT_START, &format!("cannot start threads: {error}")),
    };
    match runtime.block_on(Box::pin(warm::run(&job))) {
        Ok(outcome) if outcome.summary.complete == outcome.summary.images => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(EXIT_MISSING),
        Err(error) => fail(EXIT_MISSING, &error),
    }
}

/// An operator's command.
fn operate(command: &cache::Command, place: &Place) -> ExitCode {
    // Whoever opens a damaged store must hear of it; standard output is for the answer.
    logging::init_quiet();
    let screen = Screen {
        json: command.common().json,
        // https://no-color.org: set and not empty.
        colours: io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        now: SystemClock.now(),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(EXIT_START, &format!("cannot start threads: {error}")),
    };
    let warn = |error: &dyn Display| {
        fail(EXIT_FAILED, error);
    };
    match runtime.block_on(Box::pin(cache::run(command, place, screen, &warn))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ CommandError::Usage(_)) => fail(EXIT_USAGE, &error),
        Err(error @ (CommandError::Failed(_) | CommandError::Some { .. })) => {
            fail(EXIT_FAILED, &error)
        }
    }
}

fn serve(config: Config, file: Option<&Path>) -> ExitCode {
    logging::init(config.log_format);
    start::announce(&config, file);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    // Signals and the end of the process have a thread of their own, which hangs with nothing.
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let (runtime, control) = match runtime.and_then(|runtime| Ok((runtime, control?))) {
        Ok(both) => both,
        Err(error) => return fail(EXIT_START, &format!("cannot start threads: {error}")),
    };
    logging::write_access_lines_directly();
    logging::log_panics();
    let code = control.block_on(serve_until_signal(config, &runtime));
    // What still runs must not hold up the exit.
    runtime.shutdown_background();
    code
}

async fn serve_until_signal(config: Config, runtime: &Runtime) -> ExitCode {
    // Before anything starts, so that no signal finds the system's default, which kills.
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return fail(EXIT_START, &format!("cannot handle signals: {error}")),
    };
    let scheme = config.server.scheme();
    let stop_wait_max = config.server.drain_timeout.saturating_add(STOP_WAIT_MAX);
    let starting = runtime.spawn(Box::pin(App::start(config, Arc::new(SystemClock))));
    let started = tokio::select! {
        started = starting => started,
        stop = signals.next() => {
            tracing::info!(signal = stop.as_str(), "stopped before it had started");
            return ExitCode::SUCCESS;
        }
    };
    let app = match started {
        Ok(Ok(app)) => app,
        Ok(Err(error)) => return fail(EXIT_START, &error),
        Err(error) => return fail(EXIT_START, &format!("cannot start: {error}")),
    };
    let (address, admin) = (app.address(), app.admin_address());
    let ready = format!("listening on {scheme}://{address} (admin http://{admin})\n");
    if let Err(error) = say_in_time(ready).await {
        // Whoever started us closed our output, or does not read it; clients can still be served.
        tracing::warn!(%error, %address, %admin, "cannot write the ready line");
    }
    let first = signals.next().await;
    tracing::info!(signal = first.as_str(), "draining");
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
            ExitCode::SUCCESS
        }
        second = signals.next() => {
            tracing::warn!(signal = second.as_str(), "second signal: stopping without draining");
            ExitCode::from(second.exit_code())
        }
    }
}

/// Writes to standard output and flushes, for a pipe would keep the line back.
fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// The same, not waited for much longer than a reader takes that is there.
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

/// One clear line, and the exit code.
fn fail(code: u8, error: &dyn Display) -> ExitCode {
    let line = format!("error: {error}");
    logging::say(&format!("{}\n", format::shown(&line)));
    ExitCode::from(code)
}

/// How much longer than the drain the end may take: what was begun is recorded, and the index written.
const STOP_WAIT_MAX: Duration = Duration::from_secs(3);
/// How long the start is held up for a ready line that nobody reads.
const SAY_WAIT_MAX: Duration = Duration::from_secs(1);
/// It could not start.
const EXIT_START: u8 = 1;
/// Not all that was to be warmed, carried, measured or verified is there and well.
const EXIT_MISSING: u8 = 1;
/// An operator's command was not done, or not all of it.
const EXIT_FAILED: u8 = 1;
/// The command line or the configuration is wrong.
const EXIT_USAGE: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
