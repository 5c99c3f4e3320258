//! The command line: what the arguments mean, which command they name, and the exit code.

mod config;
mod help;
mod reference;
mod state;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

pub use reference::reference;

use clap::{ArgAction, Args, FromArgMatches as _, Parser, Subcommand};
use rustix::fs::Mode;
use rustix::process::umask;

use crate::app::start;
use crate::commands::cache::{self, CommandError, Screen};
use crate::commands::output::{self, Colour, Style};
use crate::commands::target::Locator;
use crate::commands::{
    EXIT_DONE, EXIT_FAILED, EXIT_USAGE, access, adopt, airgap, backup, bench, ca, client_config,
    cluster, credential_provider, doctor, events, fail, hosted, people, repo, run_async, serve,
    verify, version, warm,
};
use crate::config::{Config, Loaded, Overrides};
use crate::telemetry::{LogFormat, logging};
use state::State;

/// Runs the program with these arguments, the first of which is its own name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let code = match parse(args) {
        Ok(arguments) => {
            let outcome = dispatch(arguments);
            outcome.unwrap_or_else(|error| fail(EXIT_USAGE, &error))
        }
        Err(code) => code,
    };
    let code = settle(code);
    logging::flush(logging::FLUSH_WAIT_MAX);
    ExitCode::from(code)
}

/// The exit code, where the answer could not be written.
fn settle(code: u8) -> u8 {
    let Some((why, is_pipe)) = output::failure() else {
        return code;
    };
    if !is_pipe {
        let code = code.max(EXIT_FAILED);
        return fail(code, &format!("cannot write: standard output: {why}"));
    }
    // As other programs end whose reader has gone.
    if code == EXIT_DONE {
        output::EXIT_PIPE
    } else {
        code
    }
}

/// The command line as it can be shown: help, completions, manual pages, reference.
#[must_use]
pub fn command() -> clap::Command {
    help::dress(<Arguments as clap::CommandFactory>::command())
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Arguments, u8> {
    let args: Vec<OsString> = args.into_iter().collect();
    let colour = colour_of(&args);
    let parsed = command()
        .color(colour.into())
        .try_get_matches_from(args)
        .and_then(|matches| Arguments::from_arg_matches(&matches));
    parsed.map_err(|error| {
        output::set_style(Style {
            colour,
            ..Style::default()
        });
        // Help and version come this way too, with exit code 0.
        if error.use_stderr() {
            error.print().ok();
        } else {
            let text = error.render();
            output::write(&if output::has_colours() {
                text.ansi().to_string()
            } else {
                text.to_string()
            });
        }
        u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE)
    })
}

/// The value of `--color` where the other arguments may make no sense: help and mistakes have colours too.
fn colour_of(args: &[OsString]) -> Colour {
    let mut args = args.iter().filter_map(|it| it.to_str());
    while let Some(arg) = args.next().filter(|it| *it != "--") {
        let value = match arg.strip_prefix("--color") {
            Some("") => args.next(),
            Some(value) => value.strip_prefix('='),
            None => None,
        };
        if let Some(value) = value {
            return <Colour as clap::ValueEnum>::from_str(value, false).unwrap_or_default();
        }
    }
    Colour::default()
}

/// Does what the arguments say.
///
/// # Errors
/// The command line or the configuration is wrong: one line.
fn dispatch(arguments: Arguments) -> Result<u8, String> {
    let Arguments { global, command } = arguments;
    output::set_style(Style {
        colour: global.color,
        quiet: global.quiet,
    });
    let filter = global.filter()?;
    if command.may_write_a_cache() {
        // The cache is nobody's business but the owner's and his group's, however this was started.
        let before = umask(Mode::RWXO);
        umask(before | Mode::RWXO | Mode::WGRP);
    }
    if !matches!(command, Command::Serve(_)) {
        // Standard output is for the answer; whoever opens a damaged store must hear of it.
        logging::init(LogFormat::Text, filter.as_deref(), global.command_level());
    }
    match command {
        Command::Serve(it) => it.run(&global, filter.as_deref()),
        Command::Check(mut it) => {
            it.overrides.log_level = global.serve_level();
            check(&it)
        }
        Command::Config { command } => {
            output::write(&command.output());
            Ok(EXIT_DONE)
        }
        Command::State(it) => state(&it),
        Command::Warm(it) => warm(&it),
        Command::Verify(it) => verify(&it),
        Command::Export(it) => export(&it),
        Command::Import(it) => import(&it),
        Command::Adopt(it) => adopt(&it),
        Command::Bench(it) => bench(&it),
        Command::Cache(it) => operate(&it),
        Command::Backup(it) => back_up(&it),
        Command::Restore(it) => restore(&it),
        Command::Ns(it) => Ok(ended(hosted::namespaces(&it, &it.locate()?), |()| true)),
        Command::Tag(it) => Ok(ended(hosted::tag(&it, &it.locate()?), |()| true)),
        Command::Repo(it) => Ok(ended(repo::run(&it, &it.locate()?), |()| true)),
        Command::Events(it) => Ok(ended(events::run(&it, &it.locate()?), |()| true)),
        Command::Cluster(it) => Ok(ended(cluster::run(&it, &it.locate()?), |()| true)),
        Command::Ca(it) => authority(&it),
        Command::ClientConfig(it) => client_config::run(&it),
        Command::Doctor(it) => doctor::run(&it),
        Command::Access(it) => Ok(run_async(async {
            let done = Box::pin(access::run(&it)).await;
            done.unwrap_or_else(|error| fail(EXIT_USAGE, &error))
        })),
        Command::CredentialProvider => Ok(match credential_provider::answer() {
            Ok(answer) => {
                output::write(&format!("{answer}\n"));
                EXIT_DONE
            }
            Err(error) => fail(EXIT_FAILED, &error),
        }),
        Command::User(it) => Ok(run_async(async { done(Box::pin(people::user(&it)).await) })),
        Command::Token(it) => Ok(run_async(async {
            done(Box::pin(people::token(&it)).await)
        })),
        Command::Version(it) => {
            version::show(it.json);
            Ok(EXIT_DONE)
        }
        Command::Completions { shell } => {
            help::completions(shell);
            Ok(EXIT_DONE)
        }
        Command::Man { dir } => help::manual(dir.as_deref()),
    }
}

/// A pull-through cache (proxy cache) for OCI and Docker registries
#[derive(Debug, Parser)]
#[command(
    name = "roadstead",
    version,
    propagate_version = false,
    max_term_width = 100
)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// The options that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// When to use colours
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Colour::Auto, global = true, hide_possible_values = true)]
    color: Colour,
    /// Log more to standard error; -vv for debug
    #[arg(short, long, action = ArgAction::Count, global = true, conflicts_with = "quiet")]
    verbose: u8,
    /// No notes, no progress; errors and the answer only
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Log level: error, warn, info, debug, trace, off, or directives such as `info,roadstead::upstream=debug`
    #[arg(long, value_name = "LEVEL", global = true, value_parser = logging::checked)]
    log_level: Option<String>,
}

impl Global {
    /// The flag, or else the variable.
    ///
    /// # Errors
    /// The variable makes no sense.
    fn filter(&self) -> Result<Option<String>, String> {
        if self.log_level.is_some() {
            return Ok(self.log_level.clone());
        }
        logging::filter_of_environment()
    }

    /// The level of a command: its answer is what the user waits for.
    fn command_level(&self) -> &'static str {
        match (self.quiet, self.verbose) {
            (true, _) => "error",
            (false, 0) => "warn",
            (false, 1) => "info",
            (false, 2) => "debug",
            (false, _) => "trace",
        }
    }

    /// The level of a server, where the flags say it.
    fn serve_level(&self) -> Option<String> {
        let level = match (self.quiet, self.verbose) {
            (true, _) => "warn",
            (false, 0) => return self.log_level.clone(),
            (false, 1) => "debug",
            (false, _) => "trace",
        };
        Some(self.log_level.clone().unwrap_or_else(|| level.to_owned()))
    }
}

/// The arguments of `serve`.
#[derive(Debug, Args)]
struct Serve {
    #[command(flatten)]
    overrides: Overrides,
    /// If a roadstead with this state directory runs, take over its listeners and its store, without a failed request; it
    /// finishes what is under way, and ends
    #[arg(long)]
    take_over: bool,
}

impl Serve {
    fn run(self, global: &Global, filter: Option<&str>) -> Result<u8, String> {
        let Self {
            mut overrides,
            take_over,
        } = self;
        overrides.log_level = global.serve_level();
        let loaded = load(&overrides)?;
        let config = &loaded.config;
        logging::init(config.log_format, filter, &config.log_level);
        Ok(serve::run(loaded, &overrides, take_over))
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the mirror
    Serve(Serve),
    /// Print the effective configuration, secrets masked; exit 2 if it has an error
    Check(CheckArguments),
    /// Describe what a configuration file may hold
    Config {
        #[command(subcommand)]
        command: config::Command,
    },
    /// Back up the state directory
    #[command(subcommand)]
    State(State),
    /// Pull images through a running mirror, so that they are in its cache (prefetch)
    Warm(Box<warm::Arguments>),
    /// Hash what is stored, and say what is damaged or missing; exit 1 if anything is, and stays so
    Verify(Box<verify::Arguments>),
    /// Write images as an OCI layout, to be carried to an air-gapped site
    Export(Box<airgap::ExportArguments>),
    /// Put the images of an OCI layout into a running mirror
    Import(Box<airgap::ImportArguments>),
    /// Copy another registry (registry:2) into hosted repositories: tags, manifests, referrers, blobs
    Adopt(Box<adopt::Arguments>),
    /// Pull an image many times at once from any registry, or from two in turn, and tell what it took
    Bench(Box<bench::Arguments>),
    /// Make and show the local authority of transparent mode
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Print or write the files that lead a client to this mirror: dockerd, containerd, Podman, buildkitd and others
    ClientConfig(Box<client_config::Arguments>),
    /// Find what is wrong with a server and its surroundings, or with a node's way to the mirror; exit 1 if anything fails
    Doctor(Box<doctor::Arguments>),
    /// Say what the rules of access say
    #[command(subcommand)]
    Access(Box<access::AccessCommand>),
    /// Answer a kubelet's request for credentials (exec plugin): the pod's service account token
    CredentialProvider,
    /// Make, change and list users
    #[command(subcommand)]
    User(people::UserCommand),
    /// Make, list and revoke tokens: passwords for programs
    #[command(subcommand)]
    Token(people::TokenCommand),
    #[command(flatten)]
    Cache(cache::Command),
    /// Create, list, change, delete and restore namespaces of hosted repositories
    #[command(subcommand)]
    Ns(hosted::NsCommand),
    /// Restore tags of hosted repositories, and show their history
    #[command(subcommand)]
    Tag(hosted::TagCommand),
    /// Delete and restore whole hosted repositories
    #[command(subcommand)]
    Repo(repo::RepoCommand),
    /// Show what has changed in hosted repositories: pushes, deletes, namespaces
    Events(events::Arguments),
    /// Back up hosted repositories while the server runs: the catalogue and the content; exit 1 if any of it is damaged
    Backup(backup::BackupCommand),
    /// Make a state directory from a backup, or put tags back to a time; the server is stopped
    Restore(backup::RestoreCommand),
    /// Show the nodes of a cluster, and have one leave
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Print the version
    Version(VersionArguments),
    /// Print completions for a shell
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write those of all commands into a directory
    Man {
        /// An existing directory for roadstead.1, roadstead-serve.1, …
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// `check`.
#[derive(Debug, Args)]
struct CheckArguments {
    #[command(flatten)]
    overrides: Overrides,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `version`.
#[derive(Debug, Args)]
struct VersionArguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command {
    /// True if it may make files in the cache directory.
    fn may_write_a_cache(&self) -> bool {
        match self {
            Self::Serve(_)
            | Self::Verify(_)
            | Self::Cache(_)
            | Self::Backup(_)
            | Self::Restore(_) => true,
            Self::Check(_)
            | Self::Config { .. }
            | Self::State(_)
            | Self::Warm(_)
            | Self::Export(_)
            | Self::Import(_)
            | Self::Adopt(_)
            | Self::Bench(_)
            | Self::Ca(_)
            | Self::ClientConfig(_)
            | Self::Doctor(_)
            | Self::Access(_)
            | Self::CredentialProvider
            | Self::Ns(_)
            | Self::Tag(_)
            | Self::Repo(_)
            | Self::Events(_)
            | Self::Cluster(_)
            | Self::User(_)
            | Self::Token(_)
            | Self::Version(_)
            | Self::Completions { .. }
            | Self::Man { .. } => false,
        }
    }
}

fn load(overrides: &Overrides) -> Result<Loaded, String> {
    Config::load_with_notes(overrides).map_err(|error| config::lines(&error))
}

fn state(command: &State) -> Result<u8, String> {
    let config = command.load()?;
    Ok(match command.run(&config) {
        Ok(text) => {
            output::write(&text);
            EXIT_DONE
        }
        Err(error) => fail(EXIT_FAILED, &error),
    })
}

fn back_up(command: &backup::BackupCommand) -> Result<u8, String> {
    let config = command.load().map_err(|error| config::lines(&error))?;
    Ok(ended(command.run(&config), |is_well| *is_well))
}

fn restore(command: &backup::RestoreCommand) -> Result<u8, String> {
    let config = command.load().map_err(|error| config::lines(&error))?;
    Ok(ended(command.run(&config), |is_well| *is_well))
}

fn authority(command: &ca::CaCommand) -> Result<u8, String> {
    let config = command.load().map_err(|error| config::lines(&error))?;
    Ok(match command.run(&config) {
        Ok(true) => EXIT_DONE,
        Ok(false) => EXIT_FAILED,
        Err(error) => fail(EXIT_FAILED, &error),
    })
}

fn check(arguments: &CheckArguments) -> Result<u8, String> {
    let loaded = load(&arguments.overrides)?;
    for note in &loaded.notes {
        output::note(&format!("warning: {}", crate::format::harmless(note)));
    }
    let listeners = loaded.config.server.listeners.iter();
    let listeners: Vec<_> = listeners.map(|listener| listener.address).collect();
    if let Some(warning) = start::exposure(&loaded.config, &listeners) {
        output::note(&format!("warning: {warning}"));
    }
    let text = loaded.config.to_toml();
    if !arguments.json {
        output::write(&text);
        return Ok(EXIT_DONE);
    }
    let table: toml::Table = text.parse().map_err(|error| format!("internal: {error}"))?;
    output::say_json(&table);
    Ok(EXIT_DONE)
}

/// Does a job. `is_well`: nothing of its result is missing or wrong.
fn ended<T, E: Display>(
    job: impl Future<Output = Result<T, E>>,
    is_well: impl FnOnce(&T) -> bool,
) -> u8 {
    run_async(async {
        match Box::pin(job).await {
            Ok(outcome) if is_well(&outcome) => EXIT_DONE,
            Ok(_) => EXIT_FAILED,
            Err(error) => fail(EXIT_FAILED, &error),
        }
    })
}

fn verify(arguments: &verify::Arguments) -> Result<u8, String> {
    let job = arguments.job(Locator::of(&arguments.server, None, None)?)?;
    Ok(ended(verify::run(&job), verify::Outcome::is_well))
}

fn export(arguments: &airgap::ExportArguments) -> Result<u8, String> {
    let job = arguments.job(arguments.server.url()?)?;
    Ok(run_async(async {
        match Box::pin(airgap::export(&job)).await {
            Ok(_) => EXIT_DONE,
            // The reader of the archive has gone, and knows.
            Err(_) if output::failure().is_some_and(|(_, is_pipe)| is_pipe) => output::EXIT_PIPE,
            Err(error) => fail(EXIT_FAILED, &error),
        }
    }))
}

fn import(arguments: &airgap::ImportArguments) -> Result<u8, String> {
    let job = arguments.job(arguments.server.server()?)?;
    let is_well = |puts: &Vec<airgap::Put>| puts.iter().all(|put| put.failed.is_none());
    Ok(ended(airgap::import(&job), is_well))
}

fn adopt(arguments: &adopt::Arguments) -> Result<u8, String> {
    let job = arguments.job(arguments.server.url()?)?;
    Ok(ended(adopt::run(&job), adopt::Outcome::is_complete))
}

fn bench(arguments: &bench::Arguments) -> Result<u8, String> {
    let job = arguments.job()?;
    Ok(ended(bench::run(&job), bench::Report::is_complete))
}

fn warm(arguments: &warm::Arguments) -> Result<u8, String> {
    let server = arguments.server.url()?;
    // As compose does: what the environment says comes before a default.
    let environment: HashMap<OsString, OsString> = std::env::vars_os().collect();
    let variable = |name: &str| {
        let value = environment.get(OsStr::new(name))?;
        value.to_str().map(str::to_owned)
    };
    let (job, notes) = arguments.job(server, &variable)?;
    for note in notes {
        output::note(&format!("note: {}", crate::format::harmless(&note)));
    }
    Ok(ended(warm::run(&job), |outcome| {
        outcome.summary.complete == outcome.summary.images
    }))
}

/// The exit code of a command about users and tokens.
fn done(done: Result<(), people::PeopleError>) -> u8 {
    match done {
        Ok(()) => EXIT_DONE,
        Err(error @ people::PeopleError::Usage(_)) => fail(EXIT_USAGE, &error),
        Err(error @ people::PeopleError::Failed(_)) => fail(EXIT_FAILED, &error),
    }
}

/// A command that looks into the cache, or changes it.
fn operate(command: &cache::Command) -> Result<u8, String> {
    let common = command.common();
    let directories = (common.cache_dir.as_ref(), common.state_dir.as_ref());
    let locator = match (command, directories) {
        (cache::Command::Reload(_), (None, None)) => Locator::of_reload(&common.server)?,
        (_, (cache_dir, state_dir)) => Locator::of(&common.server, cache_dir, state_dir)?,
    };
    let screen = Screen::new(common.json);
    let warn = |error: &dyn Display| {
        fail(EXIT_FAILED, error);
    };
    Ok(run_async(async {
        match Box::pin(cache::run(command, &locator, screen, &warn)).await {
            Ok(()) => EXIT_DONE,
            Err(error @ CommandError::Usage(_)) => fail(EXIT_USAGE, &error),
            Err(error @ (CommandError::Failed(_) | CommandError::Some { .. })) => {
                fail(EXIT_FAILED, &error)
            }
        }
    }))
}
