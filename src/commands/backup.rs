//! The commands `backup` and `restore`: copies of what is hosted, made beside the server or without one, and state
//! directories that are made of them.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::backup::{
    self, BackupError, Lost, Place, Restored, TagThen, Taken, Wanted, put_tags_back,
};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::commands::output::{self, Output, say, say_json};
use crate::commands::progress::Progress;
use crate::config::{Config, ConfigError, Overrides};
use crate::format::{plural, size};

/// Damaged blobs and tags that are shown; JSON has all of them.
const SHOWN_MAX: usize = 1_000;

/// The state directory, and the form of the answer.
#[derive(Clone, Debug, clap::Args)]
struct Common {
    /// The configuration file, to find the state directory
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The state directory, instead of the configuration's
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `backup`.
#[derive(Clone, Debug, clap::Args)]
pub struct BackupCommand {
    /// The backup: a directory, which is made, or brought up to date; or a file that is not there yet, whose name ends with .tar
    #[arg(short, long, value_name = "FILE|DIR")]
    output: PathBuf,
    #[command(flatten)]
    common: Common,
}

/// `restore`.
#[derive(Clone, Debug, clap::Args)]
pub struct RestoreCommand {
    /// The backup. Without one, --tags-at is about the state directory as it is
    #[arg(value_name = "FILE|DIR", required_unless_present = "tags_at")]
    from: Option<PathBuf>,
    /// Have all tags name what they named at this time (RFC 3339: 2026-12-01T13:00:00Z), as their history says
    #[arg(long, value_name = "TIME", value_parser = time)]
    tags_at: Option<Timestamp>,
    /// Write nothing: verify the backup, and show the tags that would move
    #[arg(long)]
    dry_run: bool,
    /// If the state directory has a catalogue or hosted content, move that aside, into before-restore-… in it
    #[arg(long, requires = "from")]
    replace: bool,
    /// Restore everything else if blobs of the backup are missing or damaged: they are named, and the exit code is 1
    #[arg(long, requires = "from")]
    keep_going: bool,
    #[command(flatten)]
    common: Common,
}

/// The outcome of `restore`, for scripts.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    dry_run: bool,
    /// Milliseconds since 1970; absent without a backup.
    created: Option<Timestamp>,
    blobs: u64,
    bytes: u64,
    lost: &'a [Lost],
    tags: Vec<Moved<'a>>,
    aside: Option<&'a PathBuf>,
}

#[derive(Debug, Serialize)]
struct Moved<'a> {
    repository: &'a str,
    tag: &'a str,
    now: Option<String>,
    then: Option<String>,
    /// What it named then is not there any more: it stays.
    gone: bool,
}

impl Common {
    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&Overrides {
            config: self.config.clone(),
            state_dir: self.state_dir.clone(),
            ..Overrides::default()
        })
    }

    fn output(&self) -> Output {
        Output::of(self.json)
    }
}

impl BackupCommand {
    /// The configuration with its flags.
    ///
    /// # Errors
    /// The configuration has an error.
    pub fn load(&self) -> Result<Config, ConfigError> {
        self.common.load()
    }

    /// Makes the backup; whether all of it could be had.
    ///
    /// # Errors
    /// One line that says what to do.
    pub async fn run(&self, config: &Config) -> Result<bool, BackupError> {
        let (state_dir, place) = (config.state.dir.clone(), Place::of(&self.output));
        let bar = Progress::new(self.common.output());
        let taking = tokio::task::spawn_blocking(move || {
            let progress = |done, total| bar.set(done, total, "");
            let taken = backup::take(&state_dir, &place, SystemClock.now(), &progress);
            drop(bar);
            taken
        });
        let taken = taking
            .await
            .map_err(|error| BackupError(error.to_string()))??;
        self.tell(&taken);
        Ok(taken.lost.is_empty())
    }

    fn tell(&self, taken: &Taken) {
        if self.common.json {
            say_json(taken);
            return;
        }
        if taken.without_lock {
            output::note(
                "warning: the file system of the state directory has no locks, so that the backup is complete only if no server was running",
            );
        }
        say(&format!(
            "{}: the catalogue and {}, {} of them new ({} of {})",
            self.output.display(),
            plural(taken.blobs, "blob"),
            taken.new_blobs,
            size(taken.new_bytes),
            size(taken.bytes),
        ));
        tell_lost(&taken.lost);
    }
}

impl RestoreCommand {
    /// The configuration with its flags.
    ///
    /// # Errors
    /// The configuration has an error.
    pub fn load(&self) -> Result<Config, ConfigError> {
        self.common.load()
    }

    /// Restores; whether everything is as it was.
    ///
    /// # Errors
    /// One line that says what to do.
    pub async fn run(&self, config: &Config) -> Result<bool, BackupError> {
        let state_dir = config.state.dir.clone();
        let restored = match (&self.from, self.tags_at) {
            (Some(from), tags_at) => {
                let wanted = Wanted {
                    state_dir,
                    from: Place::of(from),
                    replace: self.replace,
                    keep_going: self.keep_going,
                    tags_at,
                    dry_run: self.dry_run,
                };
                let bar = Progress::new(self.common.output());
                let progress = |done, total| bar.set(done, total, "");
                backup::restore(&wanted, Arc::new(SystemClock), &progress).await?
            }
            (None, tags_at) => {
                let (at, dry_run) = (tags_at.unwrap_or_default(), self.dry_run);
                let moving = tokio::task::spawn_blocking(move || {
                    put_tags_back(&state_dir, at, SystemClock.now(), dry_run)
                });
                let tags = moving
                    .await
                    .map_err(|error| BackupError(error.to_string()))??;
                Restored {
                    created: Timestamp::default(),
                    blobs: 0,
                    bytes: 0,
                    lost: Vec::new(),
                    tags,
                    aside: None,
                }
            }
        };
        self.tell(&restored, config);
        Ok(restored.lost.is_empty() && !restored.tags.iter().any(|it| it.is_gone))
    }

    fn tell(&self, restored: &Restored, config: &Config) {
        if self.common.json {
            say_json(&self.answer(restored));
            return;
        }
        if self.from.is_some() {
            let blobs = plural(restored.blobs, "blob");
            let bytes = size(restored.bytes);
            let made = humantime::format_rfc3339_seconds(system_time(restored.created));
            let done = if self.dry_run {
                "verified, and nothing written".to_owned()
            } else {
                format!("restored into {}", config.state.dir.display())
            };
            say(&format!(
                "the backup of {made}, the catalogue and {blobs} ({bytes}): {done}"
            ));
        }
        if let Some(aside) = &restored.aside {
            say(&format!(
                "what was there is in {}: delete it when you no longer need it",
                aside.display()
            ));
        }
        tell_lost(&restored.lost);
        if self.tags_at.is_some() {
            self.tell_tags(&restored.tags);
        }
    }

    fn tell_tags(&self, tags: &[TagThen]) {
        for it in tags.iter().take(SHOWN_MAX) {
            let name = |digest: Option<crate::oci::Digest>| {
                digest.map_or_else(|| "nothing".to_owned(), |it| it.to_string())
            };
            let gone = if it.is_gone {
                "  NOT moved: that manifest is not there any more"
            } else {
                ""
            };
            let (now, then) = (name(it.now), name(it.then));
            say(&format!(
                "{}:{}  {now} -> {then}{gone}",
                it.repository, it.tag
            ));
        }
        let gone = tags.iter().filter(|it| it.is_gone).count();
        let moved = plural((tags.len() - gone) as u64, "tag");
        let done = if self.dry_run { "would move" } else { "moved" };
        say(&format!("{moved} {done}, {gone} could not be"));
    }

    fn answer<'a>(&self, restored: &'a Restored) -> Answer<'a> {
        let tags = restored.tags.iter().map(|it| Moved {
            repository: it.repository.as_str(),
            tag: it.tag.as_str(),
            now: it.now.map(|it| it.to_string()),
            then: it.then.map(|it| it.to_string()),
            gone: it.is_gone,
        });
        Answer {
            dry_run: self.dry_run,
            created: self.from.is_some().then_some(restored.created),
            blobs: restored.blobs,
            bytes: restored.bytes,
            lost: &restored.lost,
            tags: tags.collect(),
            aside: restored.aside.as_ref(),
        }
    }
}

fn tell_lost(lost: &[Lost]) {
    for it in lost.iter().take(SHOWN_MAX) {
        let needed = it.repositories.join(", ");
        say(&format!("MISSING  {}: {} (in {needed})", it.digest, it.why));
    }
}

fn time(text: &str) -> Result<Timestamp, String> {
    let parsed = Timestamp::of_rfc3339(text);
    parsed.ok_or_else(|| "not an RFC 3339 time, such as 2026-12-01T13:00:00Z".to_owned())
}

/// A time as it is shown. What a file says may be beyond what can be.
fn system_time(at: Timestamp) -> std::time::SystemTime {
    std::time::UNIX_EPOCH + std::time::Duration::from_millis(at.0.min(SHOWN_MS_MAX))
}

/// The last millisecond of the year 9999, which is the last that RFC 3339 can say.
const SHOWN_MS_MAX: u64 = 253_402_300_799_999;
