//! The command `adopt`: another registry's images into hosted repositories, by pushing them as any client does.
//!
//! | file | what it does |
//! | --- | --- |
//! | `source` | what is copied: a directory, or a registry that runs |
//! | `storage` | the directory of a registry that runs no more |
//! | `remote` | a registry that runs |
//! | `copy` | one repository: what is to be sent, and in which order |
//! | `pusher` | requests to the roadstead that is pushed to |
//!
//! It keeps no state: a run asks the server for what is there, so that another one resumes it after a kill.

mod copy;
mod pusher;
mod remote;
mod source;
mod storage;

use std::path::PathBuf;

use serde::Serialize;
use url::Url;

use super::UsageError;
use super::airgap::Reporter;
use super::output::Output;
use super::target::ServerFlags;
use crate::format::{plural, size};
use crate::mirror::{Pattern, Source as Named};
use crate::oci::{Reference, Repository, Tag, UpstreamName};
pub use copy::Copied;
use copy::Copy;
pub(super) use pusher::{Begun, CHUNK_BYTES, Pusher};
use remote::Login;
pub use source::Fault;
use source::Source;

/// The word that may stand before a source, and says what it is.
const KIND: &str = "registry:2";

/// Upstreams have names, which patterns begin with; repositories of a source have none.
const NO_UPSTREAM: &str = "source";

/// The arguments of `adopt`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The registry: its storage directory, while it does not run, or its URL, such as `http://127.0.0.1:5000`. The word
    /// `registry:2` may stand before it
    #[arg(long, value_name = "[registry:2] DIR|URL", required = true, num_args = 1..=2)]
    from: Vec<String>,
    /// Copy only repositories that this pattern means, such as 'team/*' (`*` within a part of the name, `**` for any
    /// number of parts); may be given several times
    #[arg(long, value_name = "GLOB")]
    repository: Vec<String>,
    /// Put all repositories below this namespace: app becomes NAMESPACE/app
    #[arg(long, value_name = "NAMESPACE")]
    into: Option<String>,
    /// Give a repository, or all below that name, another name; may be given several times, the first that fits counts
    #[arg(long, value_name = "OLD=NEW", conflicts_with = "into")]
    rename: Vec<String>,
    /// Keep tags that name something else here
    #[arg(long)]
    keep_existing: bool,
    /// Only say what would be copied
    #[arg(long)]
    dry_run: bool,
    /// Print JSON: an object for each repository and fault, and one for the whole
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    login: Login,
    #[command(flatten)]
    pub(crate) server: ServerFlags,
}

/// A run of `adopt`.
#[derive(Debug)]
pub struct Job {
    source: Source,
    repositories: Vec<Pattern>,
    names: Names,
    keeps: bool,
    dry_run: bool,
    server: Url,
    ca_file: Option<PathBuf>,
    output: Output,
}

/// The names that repositories get.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Names {
    Same,
    Into(String),
    Renamed(Vec<(String, String)>),
}

/// The result of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Repositories that were copied, or should have been.
    pub repositories: u64,
    /// The sum.
    #[serde(flatten)]
    pub copied: Copied,
    /// Nothing was changed.
    pub dry_run: bool,
}

/// The reason that nothing was copied: one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AdoptError(String);

impl Arguments {
    /// The job at the server with this URL. Opens a directory, and dials nothing.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn job(&self, server: Url) -> Result<Job, UsageError> {
        let from = match self.from.as_slice() {
            [from] if from != KIND => from,
            [kind, from] if kind == KIND => from,
            [kind, _] => {
                let why = format!("--from {kind}: {KIND} is what can be copied");
                return Err(UsageError(why));
            }
            _ => {
                return Err(UsageError(format!(
                    "--from {KIND}: name its DIR or URL, too"
                )));
            }
        };
        let patterns = self.repository.iter().map(|text| {
            let pattern = Pattern::parse(&format!("{NO_UPSTREAM}/{text}"));
            pattern.map_err(|why| UsageError(format!("--repository {text:?}: {why}")))
        });
        let repositories = patterns.collect::<Result<_, _>>()?;
        Ok(Job {
            names: self.names()?,
            source: Source::open(from, &self.login).map_err(UsageError)?,
            repositories,
            keeps: self.keep_existing,
            dry_run: self.dry_run,
            server,
            ca_file: self.server.ca_file.clone(),
            output: Output::of(self.json),
        })
    }

    fn names(&self) -> Result<Names, UsageError> {
        let checked = |flag: &str, name: &str| match Repository::parse(name) {
            Ok(_) => Ok(name.to_owned()),
            Err(why) => Err(UsageError(format!("{flag} {name:?}: {why}"))),
        };
        if let Some(into) = &self.into {
            return Ok(Names::Into(checked("--into", into)?));
        }
        if self.rename.is_empty() {
            return Ok(Names::Same);
        }
        let pairs = self.rename.iter().map(|text| {
            let (old, new) = text
                .split_once('=')
                .ok_or_else(|| UsageError(format!("--rename {text:?}: write OLD=NEW")))?;
            Ok((checked("--rename", old)?, checked("--rename", new)?))
        });
        pairs.collect::<Result<_, _>>().map(Names::Renamed)
    }
}

impl Names {
    /// The name of a repository here.
    fn of(&self, repository: &Repository) -> Result<Repository, String> {
        let renamed = match self {
            Self::Same => return Ok(repository.clone()),
            Self::Into(namespace) => Some(format!("{namespace}/{repository}")),
            Self::Renamed(pairs) => pairs.iter().find_map(|(old, new)| {
                let rest = repository.as_str().strip_prefix(old.as_str())?;
                (rest.is_empty() || rest.starts_with('/')).then(|| format!("{new}{rest}"))
            }),
        };
        let Some(renamed) = renamed else {
            return Ok(repository.clone());
        };
        Repository::parse(&renamed).map_err(|why| format!("{renamed}: {why}"))
    }
}

impl Outcome {
    /// True if nothing is missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.copied.faults == 0
    }
}

/// Copies a registry, and shows it. What could not be copied does not keep the rest from it.
///
/// # Errors
/// [`AdoptError`]: nothing was begun.
pub async fn run(job: &Job) -> Result<Outcome, AdoptError> {
    let pusher = Pusher::new(&job.server, job.ca_file.clone()).map_err(AdoptError)?;
    pusher.ping().await.map_err(AdoptError)?;
    let reporter = Reporter::new(job.output, false);
    reporter.progress.doing("the list of repositories");
    let (all, faults) = job.source.repositories().await.map_err(AdoptError)?;
    let mut outcome = Outcome {
        dry_run: job.dry_run,
        ..Outcome::default()
    };
    for fault in faults {
        outcome.copied.faults += 1;
        tell_fault(&reporter, &fault);
    }
    let wanted = all.into_iter().filter(|it| job.means(it));
    for repository in wanted {
        outcome.repositories += 1;
        let copied = Box::pin(job.repository(&repository, &pusher, &reporter)).await;
        outcome.copied.add(&copied);
    }
    if outcome.repositories == 0 && outcome.copied.faults == 0 && !job.repositories.is_empty() {
        let why = "no repository of the source is meant by --repository";
        return Err(AdoptError(why.to_owned()));
    }
    tell(&reporter, &outcome);
    Ok(outcome)
}

impl Job {
    fn means(&self, repository: &Repository) -> bool {
        let Ok(upstream) = UpstreamName::parse(NO_UPSTREAM) else {
            return false;
        };
        let named = Named {
            upstream,
            repository: repository.clone(),
        };
        let mut patterns = self.repositories.iter();
        self.repositories.is_empty() || patterns.any(|pattern| pattern.means(&named, None))
    }

    async fn repository(&self, from: &Repository, pusher: &Pusher, reporter: &Reporter) -> Copied {
        reporter.progress.doing(from.as_str());
        let failed = |why: String| {
            tell_fault(reporter, &Fault::of(from, why));
            Copied {
                faults: 1,
                ..Copied::default()
            }
        };
        let to = match self.names.of(from) {
            Ok(to) => to,
            Err(why) => return failed(why),
        };
        let tags = match self.source.tags(from).await {
            Ok(tags) => tags,
            Err(why) => return failed(format!("the list of tags: {why}")),
        };
        let mut copy = Copy {
            source: &self.source,
            pusher,
            reporter,
            from,
            to: &to,
            keeps: self.keeps,
            copied: Copied::default(),
            done: std::collections::HashSet::new(),
        };
        if self.dry_run {
            self.compare(&mut copy, &tags).await;
        } else {
            copy.run(&tags).await;
        }
        let copied = copy.copied;
        tell_repository(reporter, from, &to, &copied, self.dry_run);
        copied
    }

    /// Counts the tags that would be set.
    async fn compare(&self, copy: &mut Copy<'_>, tags: &[Tag]) {
        if !copy.to.as_str().contains('/') {
            copy.reporter.note(&format!(
                "note: {}: only a host name of hosted.hosts takes names of one component; --into NAMESPACE puts it in a namespace",
                copy.to
            ));
        }
        for tag in tags {
            copy.copied.tags += 1;
            let reference = Reference::Tag(tag.clone());
            let name = format!("{}:{tag}", copy.from);
            let there = match self.source.manifest(copy.from, &reference).await {
                Ok(Some(manifest)) => manifest.digest,
                Ok(None) => {
                    copy.fault(&Fault::of(name, "the source has no such manifest"));
                    continue;
                }
                Err(why) => {
                    copy.fault(&Fault::of(name, why));
                    continue;
                }
            };
            match copy.pusher.glance(copy.to, &reference).await {
                Ok(Some(here)) if here == there => {}
                Ok(Some(_)) if self.keeps => copy.copied.tags_kept += 1,
                Ok(here) => {
                    copy.tell_move(tag, here.as_ref(), &there);
                    copy.copied.tags_set += 1;
                }
                Err(refusal) => copy.fault(&Fault::of(name, refusal)),
            }
        }
    }
}

fn tell_fault(reporter: &Reporter, fault: &Fault) {
    reporter.failed(&format!("FAILED  {fault}"));
    let value = serde_json::json!({ "fault": { "name": fault.name, "why": fault.why } });
    reporter.json(&value);
}

fn tell_repository(
    reporter: &Reporter,
    from: &Repository,
    to: &Repository,
    copied: &Copied,
    dry_run: bool,
) {
    let name = if from == to {
        from.to_string()
    } else {
        format!("{from} -> {to}")
    };
    let state = if copied.faults == 0 { "ok" } else { "PART" };
    reporter.line(&format!("{state}  {name}: {}", counts(copied, dry_run)));
    reporter.json(&serde_json::json!({
        "repository": from.as_str(), "to": to.as_str(), "copied": copied,
    }));
}

fn tell(reporter: &Reporter, outcome: &Outcome) {
    let repositories = match outcome.repositories {
        1 => "1 repository".to_owned(),
        number => format!("{number} repositories"),
    };
    let copied = &outcome.copied;
    let faults = match copied.faults {
        0 => String::new(),
        faults => format!("; {} not copied", plural(faults, "thing")),
    };
    let counts = counts(copied, outcome.dry_run);
    reporter.line(&format!("{repositories}: {counts}{faults}"));
    reporter.json(&serde_json::json!({ "summary": outcome }));
}

fn counts(copied: &Copied, dry_run: bool) -> String {
    let tags = plural(copied.tags, "tag");
    let kept = match copied.tags_kept {
        0 => String::new(),
        kept => format!(", {kept} kept as they are here"),
    };
    if dry_run {
        return format!("{tags}, {} would be set{kept}", copied.tags_set);
    }
    format!(
        "{tags}, {} set{kept}; {} and {} sent ({}), {} mounted",
        copied.tags_set,
        plural(copied.manifests, "manifest"),
        plural(copied.blobs, "blob"),
        size(copied.bytes),
        copied.mounted,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_get_other_names() {
        let of = |names: &Names, name: &str| {
            let name = Repository::parse(name).unwrap();
            names.of(&name).map(|it| it.to_string())
        };
        let into = Names::Into("team".to_owned());
        assert_eq!(of(&into, "app").as_deref(), Ok("team/app"));
        let pair = |old: &str, new: &str| (old.to_owned(), new.to_owned());
        let renamed = Names::Renamed(vec![pair("app", "team/app"), pair("old", "new/x")]);
        for (name, expected) in [
            ("app", "team/app"),
            ("app/web", "team/app/web"),
            ("apps", "apps"),
            ("old/a", "new/x/a"),
        ] {
            assert_eq!(of(&renamed, name).as_deref(), Ok(expected), "{name}");
        }
        let long = "a".repeat(251);
        assert!(of(&into, &long).unwrap_err().contains("team/aaa"));
    }
}
