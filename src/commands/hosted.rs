//! `ns` and `tag`: namespaces of hosted repositories, and the history of tags.

use clap::{Args, Subcommand, ValueEnum};
use http::Method;

use super::cache::screen::{Cell, Screen, Table, say, say_json, span};
use super::target::{AdminFlags, Locator, TargetError};
use crate::format::{plural, size};
use crate::server::{DeletedContent, Expired, ExpiryPlan, HostedChange, NamespaceList, TagHistory};

const NAMESPACES: &str = "/api/v1/namespaces";
const COLLECT: &str = "/api/v1/namespaces/gc";
const RESTORE_NAMESPACE: &str = "/api/v1/namespaces/restore";
const EXPIRE: &str = "/api/v1/expire";
const RESTORE: &str = "/api/v1/tags/restore";
const HISTORY: &str = "/api/v1/tags/history";

/// Names and values.
type Parameters = Vec<(&'static str, String)>;

/// Namespaces of hosted repositories.
#[derive(Clone, Debug, Subcommand)]
pub enum NsCommand {
    /// Create a namespace
    Create(Create),
    /// List the namespaces, and what they take
    Ls(List),
    /// Change a namespace; what is not given stays
    Set(Set),
    /// Delete a namespace; it can be restored for a while (`hosted.undelete`)
    Rm(Remove),
    /// Restore a namespace that was deleted, with what was in it
    Restore(Named),
    /// Delete the tags that the rules say go now (`hosted.expire`); with --dry-run, show what the next run takes, and when
    Expire(Expire),
    /// Show how much deleted content there is, or let go of it at once with --now
    Gc(Collect),
}

/// Tags of hosted repositories.
#[derive(Clone, Debug, Subcommand)]
pub enum TagCommand {
    /// Have a tag name what it named before, also where that was deleted
    Restore(Restore),
    /// Show what a tag has named, since when, and who moved it
    History(History),
}

/// Clients that may pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Seen {
    /// Whoever may pull from the server
    Public,
    /// Those who have said who they are
    Private,
}

/// `ns create`.
#[derive(Clone, Debug, Args)]
pub struct Create {
    /// Its name: lower-case letters, digits, `_` and `-`
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    wishes: Wishes,
    /// Create it although the default upstream may have repositories of that name, which clients would not get any more
    #[arg(long)]
    take_name: bool,
    #[command(flatten)]
    common: Common,
}

/// `ns ls`.
#[derive(Clone, Debug, Args)]
pub struct List {
    #[command(flatten)]
    common: Common,
}

/// `ns set`.
#[derive(Clone, Debug, Args)]
pub struct Set {
    /// The namespace
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    wishes: Wishes,
    #[command(flatten)]
    common: Common,
}

/// `ns rm`.
#[derive(Clone, Debug, Args)]
pub struct Remove {
    /// The namespace
    #[arg(value_name = "NAME")]
    name: String,
    /// Delete it with all repositories and images that are in it
    #[arg(long)]
    content: bool,
    /// It cannot be restored, and its name is free at once; also for one that was deleted before
    #[arg(long)]
    forever: bool,
    #[command(flatten)]
    common: Common,
}

/// `ns restore`.
#[derive(Clone, Debug, Args)]
pub struct Named {
    /// The namespace
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    common: Common,
}

/// `ns expire`.
#[derive(Clone, Debug, Args)]
pub struct Expire {
    /// Show the tags that the next run takes, and when it is, and delete nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: Common,
}

/// `ns gc`.
#[derive(Clone, Debug, Args)]
pub struct Collect {
    /// Let go of deleted content, which cannot be restored then; content that a client may count on stays until its lease ends
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    common: Common,
}

/// `tag restore`.
#[derive(Clone, Debug, Args)]
pub struct Restore {
    /// The tag: `team/app:v1`
    #[arg(value_name = "REPOSITORY:TAG")]
    tag: String,
    /// The manifest that it is to name; without it, what it named last
    #[arg(long, value_name = "DIGEST")]
    digest: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// `tag history`.
#[derive(Clone, Debug, Args)]
pub struct History {
    /// The tag: `team/app:v1`
    #[arg(value_name = "REPOSITORY:TAG")]
    tag: String,
    /// The most entries to show, the latest first
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: u16,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Debug, Args)]
struct Wishes {
    /// Clients that may pull
    #[arg(long, value_enum)]
    visibility: Option<Seen>,
    /// Bytes that it may take, such as 100GB; `none`: no bound
    #[arg(long, value_name = "SIZE")]
    quota: Option<String>,
    /// Take manifests that name content which the repository does not have
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    sparse: Option<bool>,
}

/// The server to ask, and the form of the answer.
#[derive(Clone, Debug, Args)]
pub(super) struct Common {
    #[command(flatten)]
    pub(super) server: AdminFlags,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Wishes {
    /// The parameters of the request.
    ///
    /// # Errors
    /// The quota is no size.
    fn parameters(&self) -> Result<Parameters, String> {
        let mut parameters = Vec::new();
        if let Some(seen) = self.visibility {
            let seen = match seen {
                Seen::Public => "public",
                Seen::Private => "private",
            };
            parameters.push(("visibility", seen.to_owned()));
        }
        match self.quota.as_deref() {
            None => {}
            Some("none") => parameters.push(("quota", "none".to_owned())),
            Some(text) => {
                let bytes: Result<bytesize::ByteSize, _> = text.parse();
                let bytes = bytes.map_err(|_| format!("{text:?} is no size like 100GB"))?;
                parameters.push(("quota", bytes.as_u64().to_string()));
            }
        }
        parameters.extend(self.sparse.map(|sparse| ("sparse", sparse.to_string())));
        Ok(parameters)
    }
}

impl NsCommand {
    fn common(&self) -> &Common {
        match self {
            Self::Create(it) => &it.common,
            Self::Ls(it) => &it.common,
            Self::Set(it) => &it.common,
            Self::Rm(it) => &it.common,
            Self::Restore(it) => &it.common,
            Self::Expire(it) => &it.common,
            Self::Gc(it) => &it.common,
        }
    }

    /// The request: its method and parameters.
    fn request(&self) -> Result<(Method, Parameters), String> {
        let named = |name: &String, mut rest: Parameters| {
            rest.insert(0, ("name", name.clone()));
            rest
        };
        Ok(match self {
            Self::Create(it) => {
                let mut wishes = it.wishes.parameters()?;
                if it.take_name {
                    wishes.push(("take_name", "true".to_owned()));
                }
                (Method::POST, named(&it.name, wishes))
            }
            Self::Set(it) => (Method::PUT, named(&it.name, it.wishes.parameters()?)),
            Self::Rm(it) => {
                let flags = [("content", it.content), ("forever", it.forever)];
                let given = flags.into_iter().filter(|(_, given)| *given);
                let given = given.map(|(name, _)| (name, "true".to_owned()));
                (Method::DELETE, named(&it.name, given.collect()))
            }
            Self::Restore(it) => (Method::POST, named(&it.name, Vec::new())),
            Self::Expire(it) if it.dry_run => (Method::GET, Vec::new()),
            Self::Expire(_) => (Method::POST, Vec::new()),
            Self::Gc(it) if it.now => (Method::POST, Vec::new()),
            Self::Ls(_) | Self::Gc(_) => (Method::GET, Vec::new()),
        })
    }

    /// The server to ask.
    ///
    /// # Errors
    /// One line: a flag makes no sense, or the configuration does not say where the server is.
    pub fn locate(&self) -> Result<Locator, String> {
        self.request()?;
        Locator::of(&self.common().server, None, None)
    }
}

impl TagCommand {
    fn common(&self) -> &Common {
        match self {
            Self::Restore(it) => &it.common,
            Self::History(it) => &it.common,
        }
    }

    /// The server to ask.
    ///
    /// # Errors
    /// One line: a flag makes no sense, or the configuration does not say where the server is.
    pub fn locate(&self) -> Result<Locator, String> {
        self.parts()?;
        Locator::of(&self.common().server, None, None)
    }

    fn parts(&self) -> Result<(&str, &str), String> {
        let text = match self {
            Self::Restore(it) => &it.tag,
            Self::History(it) => &it.tag,
        };
        let parts = text.rsplit_once(':');
        parts.ok_or_else(|| format!("{text:?} is no tag like team/app:v1"))
    }
}

/// Creates, lists, changes, deletes or restores namespaces.
///
/// # Errors
/// [`TargetError`]: the server does not answer, or refuses.
pub async fn namespaces(command: &NsCommand, place: &Locator) -> Result<(), TargetError> {
    let target = place.reach_server().await?;
    // It was read before.
    let (method, parameters) = command.request().unwrap_or_default();
    let parameters: Vec<(&str, &str)> = parameters.iter().map(|(k, v)| (*k, &**v)).collect();
    let screen = Screen::new(command.common().json);
    match command {
        NsCommand::Ls(_) => {
            let list: NamespaceList = target.ask(method, NAMESPACES, &parameters).await?;
            show(&list, screen);
        }
        NsCommand::Expire(it) if it.dry_run => {
            let plan: ExpiryPlan = target.ask(method, EXPIRE, &parameters).await?;
            show_plan(&plan, screen);
        }
        NsCommand::Expire(_) => {
            let done: Expired = target.ask(method, EXPIRE, &parameters).await?;
            if screen.json {
                say_json(&done);
            } else {
                say(&format!("{} tags have gone", done.expired));
            }
        }
        NsCommand::Restore(_) => {
            let done = target.ask(method, RESTORE_NAMESPACE, &parameters).await?;
            tell(done, screen);
        }
        NsCommand::Gc(_) => {
            let content: DeletedContent = target.ask(method, COLLECT, &parameters).await?;
            show_deleted(&content, screen);
        }
        NsCommand::Create(_) | NsCommand::Set(_) | NsCommand::Rm(_) => {
            let done = target.ask(method, NAMESPACES, &parameters).await?;
            tell(done, screen);
        }
    }
    Ok(())
}

/// Restores a tag, or shows its history.
///
/// # Errors
/// [`TargetError`]: the server does not answer, or refuses.
pub async fn tag(command: &TagCommand, place: &Locator) -> Result<(), TargetError> {
    let target = place.reach_server().await?;
    // It was read before.
    let (repository, tag) = command.parts().unwrap_or_default();
    let mut parameters = vec![("repository", repository), ("tag", tag)];
    let screen = Screen::new(command.common().json);
    match command {
        TagCommand::Restore(it) => {
            parameters.extend(it.digest.as_deref().map(|digest| ("digest", digest)));
            let done = target.ask(Method::POST, RESTORE, &parameters).await?;
            tell(done, screen);
        }
        TagCommand::History(it) => {
            let limit = it.limit.to_string();
            parameters.push(("limit", &limit));
            let found: TagHistory = target.ask(Method::GET, HISTORY, &parameters).await?;
            show_history(&found, screen);
        }
    }
    Ok(())
}

fn show_plan(plan: &ExpiryPlan, screen: Screen) {
    if screen.json {
        say_json(plan);
        return;
    }
    let mut table = Table::new(screen, &["TAG", "DIGEST", "PUSHED", "RULE"]);
    for it in &plan.tags {
        table.row(vec![
            Cell::from(format!("{}:{}", it.repository, it.tag)),
            Cell::from(digest(&it.digest)),
            Cell::from(it.pushed.to_string()),
            Cell::from(it.rule.clone()),
        ]);
    }
    table.flush();
    let more = if plan.more { ", and more later" } else { "" };
    let tags = plan.tags.len();
    say(&format!("{tags} tags go at {}{more}", plan.at));
    if let Some(held) = plan.held_until {
        say(&format!(
            "no tag goes before {held}: the clock was not looked at for more than a day, or has leapt"
        ));
    }
}

fn show_history(found: &TagHistory, screen: Screen) {
    if screen.json {
        say_json(found);
        return;
    }
    let named = |it: &Option<String>| it.as_deref().map_or_else(|| "-".to_owned(), digest);
    let mut table = Table::new(screen, &["WHEN", "FROM", "TO", "WHO"]);
    for it in &found.history {
        table.row(vec![
            Cell::from(it.time.to_string()),
            Cell::from(named(&it.from)),
            Cell::from(named(&it.to)),
            Cell::from(it.by.clone()),
        ]);
    }
    table.flush();
}

/// A digest, for people.
pub(super) fn digest(text: &str) -> String {
    let hex = text.split_once(':').map_or(text, |(_, hex)| hex);
    hex.chars().take(12).collect()
}

pub(super) fn tell(done: HostedChange, screen: Screen) {
    if screen.json {
        say_json(&done);
    } else if done.changed {
        say("done");
    } else {
        say("it was so already");
    }
}

fn show_deleted(content: &DeletedContent, screen: Screen) {
    if screen.json {
        say_json(content);
        return;
    }
    let amount = |blobs: u64, bytes: u64| format!("{} ({})", plural(blobs, "blob"), size(bytes));
    if content.gone_manifests + content.gone_blobs > 0 {
        let manifests = plural(content.gone_manifests, "manifest");
        let blobs = amount(content.gone_blobs, content.gone_bytes);
        say(&format!("gone now: {manifests}, {blobs}"));
    }
    let manifests = plural(content.manifests, "manifest");
    let blobs = amount(content.blobs, content.bytes);
    say(&format!(
        "deleted, and can go (--now): {manifests}, {blobs}"
    ));
    if content.leased_blobs > 0 {
        let blobs = amount(content.leased_blobs, content.leased_bytes);
        let until = content.leased_until.unwrap_or_default();
        let until = until.since(screen.now);
        say(&format!(
            "leased, since a client was told that it is there: {blobs}, the last for {}",
            span(until)
        ));
    }
}

fn show(list: &NamespaceList, screen: Screen) {
    if screen.json {
        say_json(list);
        return;
    }
    let mut table = Table::new(screen, &["NAME", "VISIBILITY", "SIZE", "QUOTA", "SPARSE"]);
    for it in &list.namespaces {
        let quota = it.quota.map_or_else(|| "-".to_owned(), size);
        table.row(vec![
            Cell::from(it.name.clone()),
            Cell::from(it.visibility.clone()),
            Cell::from(size(it.bytes)),
            Cell::from(quota),
            Cell::from(if it.sparse { "yes" } else { "no" }),
        ]);
    }
    table.flush();
}
