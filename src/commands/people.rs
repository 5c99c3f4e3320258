//! `user` and `token`: who can log in. They ask the server that runs, or, where none does, change the catalogue
//! themselves.

mod target;

use std::io::Read as _;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::cache::screen::{Cell, Screen, Table};
use super::output::{say, say_json};
use super::target::AdminFlags;
use crate::access::{TokenInfo, TokenWanted, UserInfo};
use crate::catalogue::TokenKind;
use crate::clock::Timestamp;
use crate::mirror::inspect::When;
use target::People;
pub use target::PeopleError;

/// The longest password that is read, with the end of its line.
const PASSWORD_BYTES_MAX: u64 = 4096;

/// Users of this server.
#[derive(Clone, Debug, Subcommand)]
pub enum UserCommand {
    /// Make a user
    Add(AddUser),
    /// Change the password of a user; tokens that clients got with the old one end
    Passwd(Passwd),
    /// Remove a user and his tokens
    Rm(RemoveUser),
    /// List users
    Ls(ListUsers),
}

/// Tokens: passwords for programs.
#[derive(Clone, Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token of a user, or a robot
    Create(CreateToken),
    /// Make a temporary password of a user, and print how to log in with it
    Temp(TemporaryToken),
    /// List tokens
    Ls(ListTokens),
    /// Revoke tokens: they open nothing from now on
    Revoke(RevokeTokens),
}

/// The place of users and tokens, and how they are shown.
#[derive(Clone, Debug, Args)]
pub struct Common {
    #[command(flatten)]
    pub(super) server: AdminFlags,
    /// Open this state directory and ask no server: none may be using it
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with = "admin",
        help_heading = "Server"
    )]
    pub(super) state_dir: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `user add`.
#[derive(Clone, Debug, Args)]
pub struct AddUser {
    /// The name
    name: String,
    /// Read the password from standard input
    #[arg(long, required = true)]
    password_stdin: bool,
    /// A group that the user is in; may be repeated
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// `user passwd`.
#[derive(Clone, Debug, Args)]
pub struct Passwd {
    /// The name
    name: String,
    /// Read the password from standard input
    #[arg(long, required = true)]
    password_stdin: bool,
    #[command(flatten)]
    common: Common,
}

/// `user rm`.
#[derive(Clone, Debug, Args)]
pub struct RemoveUser {
    /// The name
    name: String,
    #[command(flatten)]
    common: Common,
}

/// `user ls`.
#[derive(Clone, Debug, Args)]
pub struct ListUsers {
    #[command(flatten)]
    common: Common,
}

/// `token create`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("of").required(true))]
pub struct CreateToken {
    /// The user that it is of: it can do at most what he can
    #[arg(long, value_name = "NAME", group = "of")]
    user: Option<String>,
    /// The robot that it is: a program of its own, with these policies
    #[arg(long, value_name = "NAME", group = "of", requires = "policy")]
    robot: Option<String>,
    /// A policy that it is narrowed to; a robot's own; may be repeated
    #[arg(long, value_name = "NAME")]
    policy: Vec<String>,
    /// Its life, such as 90d [default: until it is revoked]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    /// A note on its use
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
    #[command(flatten)]
    common: Common,
}

/// `token temp`.
#[derive(Clone, Debug, Args)]
pub struct TemporaryToken {
    /// The user that it is of: it can do at most what he can
    #[arg(long, value_name = "NAME")]
    user: String,
    /// A policy that it is narrowed to; may be repeated
    #[arg(long, value_name = "NAME")]
    policy: Vec<String>,
    /// Its life, 12h at most
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// The host that clients log in to [default: the address of server.listen]
    #[arg(long, value_name = "HOST:PORT")]
    host: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// `token ls`.
#[derive(Clone, Debug, Args)]
pub struct ListTokens {
    /// Those of one user or robot alone
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// `token revoke`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("which").required(true))]
pub struct RevokeTokens {
    /// Ids, as `token ls` prints them
    #[arg(value_name = "ID", group = "which")]
    ids: Vec<String>,
    /// All of one user or robot
    #[arg(long, value_name = "NAME", group = "which")]
    user: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Deserialize, Serialize)]
struct Users {
    users: Vec<UserInfo>,
}

#[derive(Deserialize, Serialize)]
struct Tokens {
    tokens: Vec<TokenInfo>,
}

/// A token that was made.
#[derive(Deserialize, Serialize)]
struct NewToken {
    token: String,
    #[serde(flatten)]
    info: TokenInfo,
}

#[derive(Deserialize, Serialize)]
struct Done {
    changed: usize,
}

/// Does what a command about users says.
///
/// # Errors
/// [`PeopleError`].
pub async fn user(command: &UserCommand) -> Result<(), PeopleError> {
    match command {
        UserCommand::Add(it) => {
            let password = password()?;
            let people = People::reach(&it.common).await?;
            let body = json!({ "name": it.name, "password": password, "groups": it.group });
            let done: Done = people
                .ask(Method::POST, "/api/v1/users", Some(&body))
                .await?;
            tell(&it.common, &done, &format!("user {} was made", it.name));
        }
        UserCommand::Passwd(it) => {
            let password = password()?;
            let people = People::reach(&it.common).await?;
            let body = json!({ "name": it.name, "password": password });
            let done: Done = people
                .ask(Method::PUT, "/api/v1/users", Some(&body))
                .await?;
            tell(
                &it.common,
                &done,
                &format!("the password of {} was changed", it.name),
            );
        }
        UserCommand::Rm(it) => {
            let people = People::reach(&it.common).await?;
            let target = with_query("/api/v1/users", "name", &it.name);
            let done: Done = people.ask(Method::DELETE, &target, None).await?;
            tell(&it.common, &done, &format!("user {} was removed", it.name));
        }
        UserCommand::Ls(it) => {
            let people = People::reach(&it.common).await?;
            let Users { users } = people.ask(Method::GET, "/api/v1/users", None).await?;
            show_users(&users, Screen::new(it.common.json));
        }
    }
    Ok(())
}

/// Does what a command about tokens says.
///
/// # Errors
/// [`PeopleError`].
pub async fn token(command: &TokenCommand) -> Result<(), PeopleError> {
    match command {
        TokenCommand::Create(it) => create_token(it).await?,
        TokenCommand::Temp(it) => {
            let wanted = TokenWanted {
                kind: TokenKind::Temporary,
                owner: it.user.clone(),
                policies: it.policy.clone(),
                ttl_seconds: Some(it.ttl.as_secs()),
                note: String::new(),
            };
            let (people, made) = create(&it.common, &wanted).await?;
            if it.common.json {
                say_json(&made);
            } else {
                let host = it.host.clone().unwrap_or_else(|| people.host());
                let NewToken { token, .. } = made;
                say(&format!(
                    "docker login --username={} --password={token} {host}",
                    it.user
                ));
            }
        }
        TokenCommand::Ls(it) => {
            let people = People::reach(&it.common).await?;
            let target = match &it.user {
                Some(user) => with_query("/api/v1/tokens", "user", user),
                None => "/api/v1/tokens".to_owned(),
            };
            let Tokens { tokens } = people.ask(Method::GET, &target, None).await?;
            show_tokens(&tokens, Screen::new(it.common.json));
        }
        TokenCommand::Revoke(it) => {
            let people = People::reach(&it.common).await?;
            let by_user = it
                .user
                .iter()
                .map(|user| with_query("/api/v1/tokens", "user", user));
            let by_id = it
                .ids
                .iter()
                .map(|id| with_query("/api/v1/tokens", "id", id));
            let mut changed = 0;
            for target in by_user.chain(by_id) {
                let done: Done = people.ask(Method::DELETE, &target, None).await?;
                changed += done.changed;
            }
            tell(&it.common, &Done { changed }, &format!("{changed} revoked"));
        }
    }
    Ok(())
}

async fn create_token(it: &CreateToken) -> Result<(), PeopleError> {
    let (kind, owner) = match (&it.user, &it.robot) {
        (_, Some(robot)) => (TokenKind::Robot, robot),
        (Some(user), None) => (TokenKind::Token, user),
        (None, None) => return Err(PeopleError::Usage("name a user or a robot".to_owned())),
    };
    let wanted = TokenWanted {
        kind,
        owner: owner.clone(),
        policies: it.policy.clone(),
        ttl_seconds: it.ttl.map(|ttl| ttl.as_secs()),
        note: it.note.clone(),
    };
    let (_, made) = create(&it.common, &wanted).await?;
    if it.common.json {
        say_json(&made);
    } else {
        say(&made.token);
    }
    Ok(())
}

async fn create(common: &Common, wanted: &TokenWanted) -> Result<(People, NewToken), PeopleError> {
    let people = People::reach(common).await?;
    let body = serde_json::to_value(wanted).unwrap_or_default();
    let made = people
        .ask(Method::POST, "/api/v1/tokens", Some(&body))
        .await?;
    Ok((people, made))
}

fn tell(common: &Common, done: &Done, text: &str) {
    if common.json {
        say_json(done);
    } else {
        say(text);
    }
}

/// The first line of standard input.
fn password() -> Result<String, PeopleError> {
    let mut text = String::new();
    let read = std::io::stdin()
        .take(PASSWORD_BYTES_MAX)
        .read_to_string(&mut text);
    read.map_err(|error| PeopleError::Usage(format!("the password cannot be read: {error}")))?;
    let password = text.trim_end_matches(['\n', '\r']);
    if password.is_empty() {
        let why = "there is no password on standard input";
        return Err(PeopleError::Usage(why.to_owned()));
    }
    Ok(password.to_owned())
}

fn with_query(path: &str, name: &str, value: &str) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair(name, value);
    format!("{path}?{}", query.finish())
}

fn show_users(users: &[UserInfo], screen: Screen) {
    if screen.json {
        for user in users {
            say_json(user);
        }
        return;
    }
    let mut table = Table::new(screen, &["USER", "GROUPS", "FROM", "CREATED"]);
    for user in users {
        table.row(vec![
            Cell::from(&user.name),
            Cell::from(user.groups.join(",")),
            Cell::from(&user.from),
            Cell::from(screen.ago(user.created.map(When))),
        ]);
    }
    table.flush();
}

fn show_tokens(tokens: &[TokenInfo], screen: Screen) {
    if screen.json {
        for token in tokens {
            say_json(token);
        }
        return;
    }
    let head = [
        "ID",
        "KIND",
        "OF",
        "POLICIES",
        "CREATED",
        "EXPIRES",
        "LAST USED",
        "NOTE",
    ];
    let mut table = Table::new(screen, &head);
    let ago = |at: Option<Timestamp>| screen.ago(at.map(When));
    for token in tokens {
        let expires = token
            .expires
            .map_or_else(|| "never".to_owned(), |at| ago(Some(at)));
        table.row(vec![
            Cell::from(&token.id),
            Cell::from(token.kind.name()),
            Cell::from(&token.owner),
            Cell::from(token.policies.join(",")),
            Cell::from(ago(Some(token.created))),
            Cell::from(expires),
            Cell::from(ago(token.used)),
            Cell::from(&token.note),
        ]);
    }
    table.flush();
}
