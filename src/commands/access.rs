//! `access`: what the rules of a configuration say, without a server and without a client.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;

use super::cache::screen::{Cell, Screen, Table};
use super::output::{say, say_json};
use super::{EXIT_DONE, EXIT_FAILED};
use crate::access::rules::explain::Explained;
use crate::access::{Action, Context, Kind, Principal, Resource, Rules, Subject};
use crate::catalogue::{Catalogue, TokenKind};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::{Config, Overrides};
use crate::telemetry::Metrics;

/// The verdict of the rules.
#[derive(Clone, Debug, Subcommand)]
pub enum AccessCommand {
    /// Say whether somebody may do something; exit 0 if so, 1 if not
    Test(Question),
    /// Say it statement by statement
    Explain(Question),
    /// List who may do something
    WhoCan(WhoCan),
}

/// Somebody, an action and a resource.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("who").required(true))]
pub struct Question {
    /// A user
    #[arg(long, value_name = "NAME", group = "who")]
    user: Option<String>,
    /// A robot
    #[arg(long, value_name = "NAME", group = "who")]
    robot: Option<String>,
    /// A client without credentials
    #[arg(long, group = "who")]
    anonymous: bool,
    /// A group besides those that the user is in; may be repeated
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// A claim; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = claim)]
    claim: Vec<(String, String)>,
    /// A policy that a token is narrowed to; may be repeated
    #[arg(long, value_name = "NAME")]
    policy: Vec<String>,
    #[command(flatten)]
    what: What,
}

/// `access who-can`.
#[derive(Clone, Debug, Args)]
pub struct WhoCan {
    #[command(flatten)]
    what: What,
}

/// An action and a resource, under which circumstances.
#[derive(Clone, Debug, Args)]
struct What {
    /// pull, push, delete, list or admin
    #[arg(value_name = "ACTION", value_parser = action)]
    action: Action,
    /// mirror/<upstream>/<repository>, repository/<namespace>/<name> or admin
    #[arg(value_name = "RESOURCE", value_parser = resource)]
    resource: String,
    /// The tag that is asked for
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// The address that the client has
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    source: IpAddr,
    /// The client has shown a certificate
    #[arg(long)]
    certificate: bool,
    /// When, such as 2026-01-31T08:00:00Z [default: now]
    #[arg(long, value_name = "TIME", value_parser = time)]
    time: Option<Timestamp>,
    /// The configuration file [default: ./roadstead.toml, then /etc/roadstead/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Told {
    effect: &'static str,
    policy: Option<String>,
    statement: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statements: Vec<ToldStatement>,
}

#[derive(Serialize)]
struct ToldStatement {
    policy: String,
    statement: usize,
    effect: &'static str,
    says: &'static str,
    narrows: bool,
}

#[derive(Serialize)]
struct ToldSubject {
    kind: &'static str,
    name: String,
    policy: Option<String>,
    statement: Option<usize>,
}

/// Does what a command says, and tells with which code the process ends.
///
/// # Errors
/// One line: the configuration has an error.
pub async fn run(command: &AccessCommand) -> Result<u8, String> {
    match command {
        AccessCommand::Test(it) => test(it, false).await,
        AccessCommand::Explain(it) => test(it, true).await,
        AccessCommand::WhoCan(it) => who_can(&it.what).await,
    }
}

/// The rules, and who is known.
struct Known {
    rules: Rules,
    /// Users of the catalogue and of the file, with their groups.
    users: BTreeMap<String, Vec<String>>,
    /// Robots with their policies.
    robots: BTreeMap<String, Vec<String>>,
    subjects: Vec<Subject>,
}

async fn test(question: &Question, is_explained: bool) -> Result<u8, String> {
    let what = &question.what;
    let known = Known::of(what).await?;
    let who = question.principal(&known);
    let resource = Resource::parse(&what.resource)?;
    let at = what.context();
    let decision = known.rules.decide(&who, what.action, &resource, &at);
    let statements = if is_explained {
        known.rules.explain(&who, what.action, &resource, &at)
    } else {
        Vec::new()
    };
    if what.json {
        say_json(&Told {
            effect: decision.effect.name(),
            policy: decision.statement.map(|(policy, _)| policy.to_owned()),
            statement: decision.statement.map(|(_, number)| number),
            statements: statements.iter().map(ToldStatement::from).collect(),
        });
    } else {
        say(&decision.to_string());
        show(&statements);
    }
    Ok(if decision.is_allowed() {
        EXIT_DONE
    } else {
        EXIT_FAILED
    })
}

fn show(statements: &[Explained]) {
    if statements.is_empty() {
        return;
    }
    let mut table = Table::new(Screen::new(false), &["STATEMENT", "EFFECT", "SAYS"]);
    for it in statements {
        let narrows = if it.narrows {
            " (narrows the token)"
        } else {
            ""
        };
        table.row(vec![
            Cell::from(format!("{}#{}", it.policy, it.number)),
            Cell::from(it.effect.name()),
            Cell::from(format!("{}{narrows}", it.says.text())),
        ]);
    }
}

async fn who_can(what: &What) -> Result<u8, String> {
    let known = Known::of(what).await?;
    let resource = Resource::parse(&what.resource)?;
    let at = what.context();
    let mut told = Vec::new();
    for (kind, name, who) in known.everybody(what.certificate) {
        let decision = known.rules.decide(&who, what.action, &resource, &at);
        if decision.is_allowed() {
            told.push(ToldSubject {
                kind,
                name,
                policy: decision.statement.map(|(policy, _)| policy.to_owned()),
                statement: decision.statement.map(|(_, number)| number),
            });
        }
    }
    if what.json {
        for it in &told {
            say_json(it);
        }
    } else {
        let mut table = Table::new(Screen::new(false), &["WHO", "NAME", "BY"]);
        for it in &told {
            let by = match (&it.policy, it.statement) {
                (Some(policy), Some(number)) => format!("{policy}#{number}"),
                _ => "default".to_owned(),
            };
            table.row(vec![
                Cell::from(it.kind),
                Cell::from(&it.name),
                Cell::from(by),
            ]);
        }
    }
    Ok(if told.is_empty() {
        EXIT_FAILED
    } else {
        EXIT_DONE
    })
}

impl Known {
    /// Reads the configuration, and the catalogue's users, as far as they can be read.
    async fn of(what: &What) -> Result<Self, String> {
        let flags = Overrides {
            config: what.config.clone(),
            ..Overrides::default()
        };
        let config = Config::load(&flags).map_err(|error| error.to_string())?;
        let rules = config.access.rules().map_err(|error| error.to_string())?;
        let subjects = config.access.attachments.iter();
        let subjects = subjects.map(|it| it.subject.clone()).collect();
        let state = config.state.clone();
        let opened = tokio::task::spawn_blocking(move || {
            Catalogue::look_into(&state, Metrics::new(std::iter::empty()))
        });
        let catalogue = opened.await.map_err(|error| error.to_string())?;
        let users = catalogue.users().await.unwrap_or_default().into_iter();
        let mut users: BTreeMap<_, _> = users.map(|user| (user.name, user.groups)).collect();
        for name in config
            .access
            .htpasswd_users()
            .map_err(|error| error.to_string())?
        {
            users.entry(name).or_default();
        }
        let tokens = catalogue.tokens().await.unwrap_or_default().into_iter();
        let robots = tokens.filter(|token| token.kind == TokenKind::Robot);
        Ok(Self {
            rules,
            users,
            robots: robots.map(|token| (token.owner, token.policies)).collect(),
            subjects,
        })
    }

    /// Everybody who is known, by kind and name.
    fn everybody(&self, certificate: bool) -> Vec<(&'static str, String, Principal)> {
        let mut all = vec![("anonymous", String::new(), Principal::anonymous())];
        for (name, groups) in &self.users {
            all.push(("user", name.clone(), user(name, groups.clone())));
        }
        for (name, policies) in &self.robots {
            all.push(("robot", name.clone(), robot(name, policies.clone())));
        }
        for subject in &self.subjects {
            let one = match subject {
                Subject::Anonymous => continue,
                Subject::User(name) => ("user", name.clone(), user(name, Vec::new())),
                Subject::Robot(name) => ("robot", name.clone(), robot(name, Vec::new())),
                Subject::Group(name) => ("group", name.clone(), user("", vec![name.clone()])),
                Subject::Claim(name, pattern) => (
                    "claim",
                    format!("{name}={pattern}"),
                    Principal {
                        claims: [(name.clone(), pattern.clone())].into(),
                        ..Principal::of(Kind::Workload, "")
                    },
                ),
            };
            if !all
                .iter()
                .any(|(kind, name, _)| (kind, name) == (&one.0, &one.1))
            {
                all.push(one);
            }
        }
        for (_, _, who) in &mut all {
            who.certificate = certificate;
        }
        all
    }
}

fn user(name: &str, groups: Vec<String>) -> Principal {
    Principal {
        groups,
        ..Principal::user(name)
    }
}

fn robot(name: &str, policies: Vec<String>) -> Principal {
    Principal {
        policies,
        ..Principal::of(Kind::Robot, name)
    }
}

impl Question {
    fn principal(&self, known: &Known) -> Principal {
        let mut who = match (&self.user, &self.robot) {
            (Some(name), _) => user(name, known.users.get(name).cloned().unwrap_or_default()),
            (_, Some(name)) => robot(name, known.robots.get(name).cloned().unwrap_or_default()),
            (None, None) => Principal::anonymous(),
        };
        who.groups.extend(self.group.iter().cloned());
        who.claims.extend(self.claim.iter().cloned());
        who.certificate = self.what.certificate;
        if !self.policy.is_empty() {
            who.narrowed.push(self.policy.clone());
        }
        who
    }
}

impl What {
    fn context(&self) -> Context<'_> {
        Context {
            source: self.source,
            tag: self.tag.as_deref(),
            now: self.time.unwrap_or_else(|| SystemClock.now()),
        }
    }
}

impl From<&Explained> for ToldStatement {
    fn from(it: &Explained) -> Self {
        Self {
            policy: it.policy.clone(),
            statement: it.number,
            effect: it.effect.name(),
            says: it.says.text(),
            narrows: it.narrows,
        }
    }
}

fn action(text: &str) -> Result<Action, String> {
    Action::parse(text).ok_or_else(|| "must be pull, push, delete, list or admin".to_owned())
}

fn resource(text: &str) -> Result<String, String> {
    Resource::parse(text).map(|resource| resource.as_str().to_owned())
}

fn claim(text: &str) -> Result<(String, String), String> {
    let claim = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = claim.ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn time(text: &str) -> Result<Timestamp, String> {
    let at = humantime::parse_rfc3339_weak(text).map_err(|error| error.to_string())?;
    let since = at
        .duration_since(UNIX_EPOCH)
        .map_err(|error| error.to_string())?;
    Ok(Timestamp(
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
    ))
}
