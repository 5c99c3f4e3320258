//! The logins of roadstead at an upstream or at one of its endpoints.

use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::cloud;
use super::texts::{Source, file, source};
use crate::config::defaults;
use crate::config::keys::{Endpoint, Login, Upstream};
use crate::config::table::{
    Context, Field, Given, Key, Keys, Outcome, Place, Read, Reported, Values as _, Written,
    items_of,
};
use crate::upstream::LoginConfig;

/// The keys of an entry that is a user name and password.
const PASSWORD_KEYS: &[&str] = &[
    "username",
    "username_file",
    "username_env",
    "password",
    "password_file",
    "password_env",
];
/// The keys of an entry that is a program.
const EXEC_KEYS: &[&str] = &["exec", "timeout", "ttl"];
/// The keys that say which kind an entry is.
const KINDS: &[&str] = &[
    "username",
    "username_file",
    "username_env",
    "password",
    "password_file",
    "password_env",
    "docker_config",
    "exec",
    "provider",
];
const NO_LOGIN: &str = "needs username and password, docker_config, exec or provider";
const NOT_A_POOL: &str =
    "must be a table like { username = \"…\", password_file = \"…\" }, or an array of such tables";

/// `credentials`: a login, or a pool of them.
pub(in crate::config) enum CredentialsKey {}

impl Read for CredentialsKey {
    type Value = Vec<Login>;
    const KEYS: &'static [Key] = Login::KEYS;

    /// Each entry's keys are judged when its kind is known.
    fn read(written: &Written<'_>, place: &Place, context: &Context<'_>) -> Outcome<Vec<Login>> {
        let entry = |entry: &&Written<'_>| {
            let place = place.at(context.origins.of(entry.span().start));
            if !entry.get_ref().is_table() {
                return Err(context.wrong(&place, NOT_A_POOL));
            }
            Login::read_keys(entry, &place, context)
        };
        let entries: Vec<_> = items_of(written).iter().map(entry).collect();
        entries.into_iter().collect()
    }
    fn schema() -> Json {
        let one = Login::schema();
        json!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

/// The keys of a table that may give a login.
struct Ways<'a> {
    keys: &'a Keys,
    username: Source<'a>,
    password: Source<'a>,
    docker_config: Option<&'a Given<PathBuf>>,
    credentials: &'a Field<CredentialsKey>,
}

/// The [`Ways`] of an upstream's table or an endpoint's.
macro_rules! ways {
    ($table:expr) => {
        Ways {
            keys: &$table.keys,
            username: source!($table, username username_file username_env),
            password: source!($table, password password_file password_env),
            docker_config: $table.docker_config.as_ref(),
            credentials: &$table.credentials,
        }
    };
}

/// The pool of logins of an upstream; `None`: nothing was said. `hosts`: those of the endpoints.
pub(super) fn of_upstream(
    table: &Upstream,
    hosts: &[&str],
    context: &Context<'_>,
) -> Outcome<Option<Vec<LoginConfig>>> {
    ways!(table).logins(hosts, context)
}

/// Likewise of an endpoint.
pub(super) fn of_endpoint(
    table: &Endpoint,
    hosts: &[&str],
    context: &Context<'_>,
) -> Outcome<Option<Vec<LoginConfig>>> {
    ways!(table).logins(hosts, context)
}

impl Ways<'_> {
    fn logins(&self, hosts: &[&str], context: &Context<'_>) -> Outcome<Option<Vec<LoginConfig>>> {
        let ways: [&[&str]; 3] = [PASSWORD_KEYS, &["docker_config"], &["credentials"]];
        let Some((way, _)) = self.keys.one_of(&ways, context)? else {
            return Ok(None);
        };
        match way {
            "credentials" => {
                let Given { value: pool, .. } = self.credentials.as_ref().ok_or(Reported)?;
                let logins: Vec<_> = pool
                    .iter()
                    .map(|entry| login(entry, hosts, context))
                    .collect();
                logins.into_iter().collect::<Outcome<_>>().map(Some)
            }
            "docker_config" => docker_config(self.docker_config, context).map(|it| Some(vec![it])),
            _ => user(&self.username, &self.password, context).map(|it| Some(vec![it])),
        }
    }
}

/// One entry of a pool: exactly one kind of login.
fn login(table: &Login, hosts: &[&str], context: &Context<'_>) -> Outcome<LoginConfig> {
    let keys = &table.keys;
    let kinds: [&[&str]; 4] = [PASSWORD_KEYS, &["docker_config"], &["exec"], &["provider"]];
    let Some((kind, _)) = keys.one_of(&kinds, context)? else {
        keys.only(KINDS, context)?;
        return Err(context.wrong(&keys.place, NO_LOGIN));
    };
    match kind {
        "provider" => cloud::login(table, hosts, context).map(LoginConfig::Cloud),
        "exec" => exec(table, context),
        "docker_config" => {
            keys.only(&["docker_config"], context)?;
            docker_config(table.docker_config.as_ref(), context)
        }
        _ => {
            keys.only(PASSWORD_KEYS, context)?;
            let username = source!(table, username username_file username_env);
            let password = source!(table, password password_file password_env);
            user(&username, &password, context)
        }
    }
}

fn user(
    username: &Source<'_>,
    password: &Source<'_>,
    context: &Context<'_>,
) -> Outcome<LoginConfig> {
    let (username, password) = username.pair(password, context)?.ok_or(Reported)?;
    Ok(LoginConfig::Password {
        username: username.text(),
        password: password.text(),
    })
}

fn docker_config(given: Option<&Given<PathBuf>>, context: &Context<'_>) -> Outcome<LoginConfig> {
    let path = file(given, context)?;
    path.map(LoginConfig::DockerConfig).ok_or(Reported)
}

fn exec(table: &Login, context: &Context<'_>) -> Outcome<LoginConfig> {
    table.keys.only(EXEC_KEYS, context)?;
    Ok(LoginConfig::Exec {
        command: table.exec.value().ok_or(Reported)?,
        timeout: table.timeout.value_or(defaults::EXEC_TIMEOUT),
        ttl: table.ttl.value_or(defaults::EXEC_TTL),
    })
}
