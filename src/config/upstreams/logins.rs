//! Who roadstead is to an upstream or to one of its endpoints.

use std::path::PathBuf;

use super::cloud;
use super::keys::{Keys, file};
use crate::config::error::Problem;
use crate::config::raw::{Leaf, Value};
use crate::config::{defaults, values};
use crate::upstream::LoginConfig;

/// The pool of logins of an upstream's or an endpoint's keys: the short forms (`username` …,
/// `docker_config`) or `credentials`. `None`: nothing was said. `hosts`: those of the endpoints.
pub(super) fn logins(keys: &Keys<'_>, hosts: &[&str]) -> Result<Option<Vec<LoginConfig>>, Problem> {
    let Some(way) = keys.one_of(&[&password_keys(), &one("docker_config"), &one("credentials")])?
    else {
        return Ok(None);
    };
    match way.name.as_str() {
        "credentials" => pool(keys, way.leaf, hosts).map(Some),
        "docker_config" => Ok(docker_config(keys)?.map(|login| vec![login])),
        _ => Ok(user(keys)?.map(|login| vec![login])),
    }
}

/// `credentials`: a table, or an array of tables.
fn pool(keys: &Keys<'_>, leaf: &Leaf, hosts: &[&str]) -> Result<Vec<LoginConfig>, Problem> {
    let entries = match &leaf.value {
        Value::List(entries) => entries.as_slice(),
        Value::Table(_) => std::slice::from_ref(leaf),
        Value::Text(_) | Value::Integer(_) | Value::Boolean(_) | Value::Other => {
            return Err(keys.problem("credentials", leaf, NOT_A_POOL));
        }
    };
    let entry = |entry: &Leaf| match &entry.value {
        Value::Table(table) => login(&keys.of_table("credentials", table, &entry.origin), hosts),
        Value::Text(_) | Value::Integer(_) | Value::Boolean(_) | Value::List(_) | Value::Other => {
            Err(keys.problem("credentials", entry, NOT_A_POOL))
        }
    };
    entries.iter().map(entry).collect()
}

/// One entry of a pool: exactly one kind of login.
fn login(keys: &Keys<'_>, hosts: &[&str]) -> Result<LoginConfig, Problem> {
    let Some(kind) = keys.one_of(&[
        &password_keys(),
        &one("docker_config"),
        &one("exec"),
        &one("provider"),
    ])?
    else {
        keys.only(KINDS)?;
        return Err(keys.incomplete("", NO_LOGIN));
    };
    match kind.name.as_str() {
        "provider" => cloud::login(keys, hosts).map(LoginConfig::Cloud),
        "exec" => exec(keys, kind.leaf),
        "docker_config" => {
            keys.only(&["docker_config"])?;
            docker_config(keys)?.ok_or_else(|| keys.incomplete("", NO_LOGIN))
        }
        _ => {
            keys.only(PASSWORD_KEYS)?;
            user(keys)?.ok_or_else(|| keys.incomplete("", NO_LOGIN))
        }
    }
}

fn user(keys: &Keys<'_>) -> Result<Option<LoginConfig>, Problem> {
    let pair = keys.pair("username", "password")?;
    Ok(pair.map(|(username, password)| LoginConfig::Password {
        username: username.text(),
        password: password.text(),
    }))
}

fn docker_config(keys: &Keys<'_>) -> Result<Option<LoginConfig>, Problem> {
    let path: Option<PathBuf> = keys.value("docker_config", file)?;
    Ok(path.map(LoginConfig::DockerConfig))
}

fn exec(keys: &Keys<'_>, leaf: &Leaf) -> Result<LoginConfig, Problem> {
    keys.only(EXEC_KEYS)?;
    let command = values::command(&leaf.value).map_err(|why| keys.problem("exec", leaf, why))?;
    Ok(LoginConfig::Exec {
        command,
        timeout: keys
            .value("timeout", values::time_limit)?
            .unwrap_or(defaults::EXEC_TIMEOUT),
        ttl: keys
            .value("ttl", values::time_limit)?
            .unwrap_or(defaults::EXEC_TTL),
    })
}

fn password_keys() -> Vec<String> {
    PASSWORD_KEYS.iter().map(|key| (*key).to_owned()).collect()
}

fn one(key: &str) -> [String; 1] {
    [key.to_owned()]
}

/// The keys of an entry that is a user name and password.
pub(super) const PASSWORD_KEYS: &[&str] = &[
    "username",
    "username_file",
    "username_env",
    "password",
    "password_file",
    "password_env",
];
/// The keys of an entry that is a program.
pub(super) const EXEC_KEYS: &[&str] = &["exec", "timeout", "ttl"];
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
