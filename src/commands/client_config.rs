//! `client-config`: the files that lead a client to this mirror, shown, written, and taken back.
//!
//! `plan` says which files a client has and what is ours in them; `json`, `hosts`, `cri`, `buildkit` and `rancher` join
//! that with what is there; `files` reads and writes below a root directory; `install` decides.

mod buildkit;
mod client;
pub(super) mod cri;
mod diff;
mod every;
pub(super) mod fault;
pub(super) mod files;
mod hosts;
mod install;
mod json;
pub(super) mod mirror;
mod piece;
mod plan;
mod rancher;
mod setups;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Serialize;
use serde_json::json;
use url::Url;

use super::output::{complain, note, say, say_json, write};
use super::target::{named_server, server_url};
use super::{EXIT_DONE, EXIT_FAILED, fail, run_async};
use crate::config::{Config, Overrides};
use client::Client;
use files::Root;
use install::{Change, Job, Outcome};
use mirror::Mirror;
use plan::{Plan, plan};
pub(super) use setups::setups;

/// Certificates of authorities are some kilobytes.
const CA_BYTES_MAX: u64 = 1024 * 1024;
/// A round reads some dozen files.
const EVERY_MIN: Duration = Duration::from_secs(1);
/// The directory of a user that is not known.
const HOME_UNKNOWN: &str = "/root";

/// `client-config`.
#[derive(Clone, Debug, Args)]
#[command(group = clap::ArgGroup::new("mode").multiple(false))]
#[expect(clippy::struct_excessive_bools, reason = "flags, one mode of three")]
pub struct Arguments {
    /// The client
    #[arg(value_name = "CLIENT", value_enum)]
    client: Client,
    /// The mirror's address as clients reach it [env: `ROADSTEAD_SERVER`] [default: the configuration's listener]
    #[arg(long, value_name = "URL|HOST:PORT", value_parser = server_url)]
    server: Option<Url>,
    /// The certificate (PEM) of the authority that the mirror's certificate is from, where clients do not trust it already
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Write the files: what is there is merged, and kept beside it as FILE.roadstead-backup
    #[arg(long, group = "mode")]
    write: bool,
    /// Print what --write would change, as a unified diff; exit 1 if it would change anything
    #[arg(long, group = "mode")]
    diff: bool,
    /// Take back what --write wrote
    #[arg(long, group = "mode")]
    undo: bool,
    /// The directory that the files are below; links do not lead out of it [default: /, for kind and talos .]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// With --write: write again after each such time, until SIGTERM or SIGINT, and tell only changes
    #[arg(long, value_name = "DURATION", value_parser = every, requires = "write")]
    every: Option<Duration>,
    /// Print JSON: a list of {path, content, restart, note}
    #[arg(long)]
    json: bool,
    /// The configuration file, to find the listener and the upstreams
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// A file as JSON.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    path: String,
    content: String,
    restart: &'a str,
    note: String,
}

/// Does it.
///
/// # Errors
/// The command line or the configuration is wrong: one line for each fault.
pub fn run(arguments: &Arguments) -> Result<u8, String> {
    let mirror = arguments.mirror()?;
    let home = home();
    let is_print = !arguments.write && !arguments.diff && !arguments.undo;
    if is_print {
        print(&plan(arguments.client, &mirror, &home), arguments.json);
        return Ok(EXIT_DONE);
    }
    let root = arguments.root.clone();
    let root = root.unwrap_or_else(|| arguments.client.root().into());
    let root = Root::open(&root).map_err(|error| format!("--root {}: {error}", root.display()))?;
    let job = Job {
        client: arguments.client,
        mirror: &mirror,
        home: &home,
        root: &root,
    };
    if arguments.diff {
        return Ok(diff(&job, arguments.json));
    }
    if arguments.undo {
        return Ok(undo(&job, arguments.json));
    }
    let Some(every) = arguments.every else {
        return Ok(written(&job, arguments.json));
    };
    tell_notes(&plan(arguments.client, &mirror, &home));
    // A changed configuration counts, so it is read again each time.
    let round = || {
        let mirror = arguments.mirror().map_err(|error| vec![error])?;
        Job {
            mirror: &mirror,
            ..job
        }
        .write()
    };
    Ok(run_async(every::heal(every, arguments.json, round)))
}

impl Arguments {
    fn mirror(&self) -> Result<Mirror, String> {
        let overrides = Overrides {
            config: self.config.clone(),
            ..Overrides::default()
        };
        let config = Config::load(&overrides);
        let config = config.map_err(|error| error.lines().join("\nerror: "))?;
        let server = named_server(self.server.as_ref(), self.config.as_ref())?;
        let mut mirror = Mirror::of(&config, server, self.client.has_dockerd())?;
        if let Some(path) = &self.ca {
            if !mirror.has_tls() {
                return Err(format!("--ca is for HTTPS, and {} is not", mirror.url()));
            }
            mirror.ca = Some(certificates(path)?);
        } else if self.undo {
            // An earlier --write may have had one; its file is told by its name and its record.
            mirror.ca = Some(String::new());
        }
        Ok(mirror)
    }
}

/// The user's own directory, for Docker Desktop.
fn home() -> String {
    let home = directories::BaseDirs::new().map(|it| it.home_dir().display().to_string());
    home.unwrap_or_else(|| HOME_UNKNOWN.to_owned())
}

fn every(text: &str) -> Result<Duration, String> {
    let every = humantime::parse_duration(text).map_err(|_| "write a time such as 30s or 5m")?;
    if every < EVERY_MIN {
        return Err("must be 1s or more".to_owned());
    }
    Ok(every)
}

/// The text of a file of certificates.
fn certificates(path: &std::path::Path) -> Result<String, String> {
    use std::io::Read as _;
    let wrong = |why: &dyn std::fmt::Display| format!("--ca {}: {why}", path.display());
    let file = std::fs::File::open(path).map_err(|error| wrong(&error))?;
    let mut text = String::new();
    let read = file.take(CA_BYTES_MAX + 1).read_to_string(&mut text);
    let read = read.map_err(|error| wrong(&error))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let is_certificate = certificates.is_ok_and(|found| !found.is_empty());
    if !is_certificate || read as u64 > CA_BYTES_MAX {
        return Err(wrong(
            &"is no certificate in PEM (-----BEGIN CERTIFICATE-----)",
        ));
    }
    if text.contains("PRIVATE KEY") {
        return Err(wrong(
            &"has a private key in it, which clients must not get",
        ));
    }
    Ok(text)
}

fn print(plan: &Plan, json: bool) {
    if json {
        let common = plan.notes.join("\n");
        let shown = plan.pieces.iter().map(|piece| Shown {
            path: piece.path.clone(),
            content: piece.form.fresh(),
            restart: piece.restart,
            note: [piece.note, &common]
                .into_iter()
                .filter(|it| !it.is_empty())
                .collect::<Vec<_>>()
                .join("\n"),
        });
        say_json(&shown.collect::<Vec<_>>());
        return;
    }
    for piece in &plan.pieces {
        say(&format!("==> {} <==", piece.path));
        write(&piece.form.fresh());
        say("");
    }
    for piece in plan.pieces.iter().filter(|it| !it.restart.is_empty()) {
        say(&format!("Then, for {}: {}", piece.path, piece.restart));
    }
    for piece in plan.pieces.iter().filter(|it| !it.note.is_empty()) {
        say(&format!("Note on {}: {}", piece.path, piece.note));
    }
    for note in &plan.notes {
        say(&format!("Note: {note}"));
    }
}

fn diff(job: &Job<'_>, json: bool) -> u8 {
    let diffs = match job.diff() {
        Ok(diffs) => diffs,
        Err(errors) => return failed(&errors),
    };
    if json {
        let shown = diffs.iter();
        let shown = shown.map(|(path, diff)| json!({ "path": path, "diff": diff }));
        say_json(&shown.collect::<Vec<_>>());
    } else {
        for (_, diff) in &diffs {
            write(diff);
        }
    }
    if diffs.is_empty() {
        EXIT_DONE
    } else {
        EXIT_FAILED
    }
}

fn written(job: &Job<'_>, json: bool) -> u8 {
    let outcomes = match job.write() {
        Ok(outcomes) => outcomes,
        Err(errors) => return failed(&errors),
    };
    tell(&outcomes, json);
    let plan = plan(job.client, job.mirror, job.home);
    if !json {
        for piece in &plan.pieces {
            if let piece::Form::ByHand(lines) = &piece.form {
                say(&format!("By hand, in {} ({}):", piece.path, piece.note));
                write(lines);
                say(&format!("then: {}", piece.restart));
            }
        }
    }
    tell_notes(&plan);
    EXIT_DONE
}

fn undo(job: &Job<'_>, json: bool) -> u8 {
    match job.undo() {
        Ok(outcomes) => {
            tell(&outcomes, json);
            EXIT_DONE
        }
        Err((outcomes, errors)) => {
            tell(&outcomes, json);
            failed(&errors)
        }
    }
}

fn tell(outcomes: &[Outcome], json: bool) {
    if json {
        say_json(&outcomes);
        return;
    }
    let changed = outcomes.iter().filter(|it| it.change != Change::None);
    for outcome in changed.clone() {
        let done = match outcome.change {
            Change::None => continue,
            Change::Written => "wrote",
            Change::Restored => "restored",
            Change::Removed => "removed",
            Change::Cleaned => "removed the mirror from",
        };
        say(&format!("{done} {}", outcome.path));
    }
    for note in outcomes.iter().flat_map(|it| &it.notes) {
        say(&format!("note: {note}"));
    }
    let mut restarts: Vec<&str> = changed.map(|it| it.restart).collect();
    if restarts.is_empty() {
        say("nothing to change");
    }
    restarts.retain(|it| !it.is_empty());
    restarts.dedup();
    for restart in restarts {
        say(&format!("then: {restart}"));
    }
}

fn tell_notes(plan: &Plan) {
    for line in &plan.notes {
        note(&format!("note: {line}"));
    }
}

fn failed(errors: &[String]) -> u8 {
    let Some((last, others)) = errors.split_last() else {
        return EXIT_FAILED;
    };
    for error in others {
        complain(&format!("error: {error}"));
    }
    fail(EXIT_FAILED, last)
}
