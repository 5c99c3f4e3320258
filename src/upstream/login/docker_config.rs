//! A Docker client's `config.json`: `auths`, `credsStore`, `credHelpers`
//! (docker/cli, `cli/config/configfile` and `cli/config/credentials`).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use super::exec::Helper;
use super::issued::Issued;
use super::{Login, file};
use crate::upstream::{Credentials, FetchError, Secret};

/// The login that a `config.json` holds for one registry.
pub(super) struct Docker {
    path: PathBuf,
    registry: String,
    /// The prefix of the names of helpers.
    helper_prefix: OsString,
}

impl Docker {
    pub(super) fn new(path: PathBuf, registry: String) -> Self {
        Self {
            path,
            registry,
            helper_prefix: OsString::from("docker-credential-"),
        }
    }

    /// Reads the file, and asks the helper that it names, if any.
    ///
    /// # Errors
    /// [`FetchError::Login`], naming the file or program.
    pub(super) async fn fetch(&self) -> Result<Issued, FetchError> {
        let (path, registry) = (self.path.clone(), self.registry.clone());
        let found = super::off_thread(move || find(&path, &registry)).await?;
        let helper = match found {
            Found::Login(login) => {
                return Ok(Issued {
                    login,
                    good_for: None,
                });
            }
            Found::Helper(name) => name,
        };
        let mut program = self.helper_prefix.clone();
        program.push(helper);
        let helper = Helper {
            command: vec![program, OsString::from("get")],
            timeout: HELPER_TIMEOUT,
            ttl: HELPER_TTL,
        };
        helper.ask(server(&self.registry)).await
    }
}

/// The file's entry for a registry.
enum Found {
    /// This login; `None`: nobody in particular.
    Login(Option<Login>),
    /// That this helper is to be asked.
    Helper(String),
}

fn find(path: &Path, registry: &str) -> Result<Found, FetchError> {
    let wrong = |why: &str| FetchError::Login(format!("{}: {why}", path.display()));
    let bytes = file::read(path, FILE_BYTES_MAX)?;
    let file: File = serde_json::from_slice(&bytes).map_err(|error| {
        // serde_json's own text may quote a value.
        let (line, column) = (error.line(), error.column());
        wrong(&format!(
            "no configuration of Docker's: line {line}, column {column}"
        ))
    })?;
    file.find(registry).map_err(wrong)
}

/// `config.json`, as far as it matters here.
#[derive(Deserialize)]
struct File {
    auths: Option<BTreeMap<String, Entry>>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
    #[serde(rename = "credHelpers")]
    helpers: Option<BTreeMap<String, String>>,
}

impl File {
    /// Like Docker: a helper for the registry, even an empty one, counts more than the store, and either
    /// of them more than what the file holds itself.
    fn find(&self, registry: &str) -> Result<Found, &'static str> {
        let own = self.helpers.as_ref().and_then(|all| entry(all, registry));
        let helper = own.or(self.store.as_ref()).filter(|name| !name.is_empty());
        if let Some(name) = helper {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            // A program on the path, not any file.
            return if name.bytes().all(plain) {
                Ok(Found::Helper(name.clone()))
            } else {
                Err("the name of a credential helper holds characters that none has")
            };
        }
        let found = self.auths.as_ref().and_then(|all| entry(all, registry));
        let login = found.map(Entry::login).transpose()?;
        Ok(Found::Login(login.flatten()))
    }
}

/// One of `auths`.
#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl Entry {
    /// The strongest thing that it holds; nothing at all is what Docker leaves where a store has the login.
    fn login(&self) -> Result<Option<Login>, &'static str> {
        let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = said(&self.registrytoken) {
            return Ok(Some(Login::Bearer(Secret::new(token))));
        }
        if let Some(token) = said(&self.identitytoken) {
            return Ok(Some(Login::Refresh(Secret::new(token))));
        }
        let pair = match said(&self.auth) {
            Some(auth) => Some(decode(&auth).ok_or("an `auth` is no base64 of user:password")?),
            None => said(&self.username).zip(said(&self.password)),
        };
        Ok(pair.map(|(username, password)| {
            Login::Basic(Credentials {
                username,
                password: Secret::new(password),
            })
        }))
    }
}

/// Base64 of `user:password`, as Docker writes it; NULs at the end are old padding.
fn decode(auth: &str) -> Option<(String, String)> {
    let bytes = BASE64.decode(auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.split_once(':')?;
    let password = password.trim_end_matches('\0');
    Some((username.to_owned(), password.to_owned()))
}

/// The entry for a registry: under the name that Docker itself uses, or else under one of its other forms.
fn entry<'a, T>(entries: &'a BTreeMap<String, T>, registry: &str) -> Option<&'a T> {
    let exact = entries
        .get(server(registry))
        .or_else(|| entries.get(registry));
    exact.or_else(|| {
        let mut matching = entries.iter().filter(|(key, _)| matches(key, registry));
        matching.next().map(|(_, entry)| entry)
    })
}

/// The name of a registry in Docker's files, and what its helpers are asked.
fn server(registry: &str) -> &str {
    if is_hub(registry) {
        HUB_SERVER
    } else {
        registry
    }
}

/// True if a key names the registry: `host`, `host:port`, with a scheme, with the `/v1/` or `/v2/` of old.
/// Other paths, by which podman tells namespaces apart, are not the whole registry.
fn matches(key: &str, registry: &str) -> bool {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let whole = matches!(path.trim_end_matches('/'), "" | "v1" | "v2");
    whole && (host.eq_ignore_ascii_case(registry) || (is_hub(host) && is_hub(registry)))
}

/// Docker Hub has many names.
fn is_hub(host: &str) -> bool {
    ["docker.io", "index.docker.io", "registry-1.docker.io"]
        .iter()
        .any(|name| host.eq_ignore_ascii_case(name))
}

/// Docker's name for its own registry.
const HUB_SERVER: &str = "https://index.docker.io/v1/";
/// A Kubernetes secret, where such a file often comes from, is at most this large.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Helpers read a keychain, or ask a cloud once.
const HELPER_TIMEOUT: Duration = Duration::from_secs(10);
/// Helpers do not say how long what they gave lives; the shortest tokens in use live some 15 minutes.
const HELPER_TTL: Duration = Duration::from_mins(5);

#[cfg(test)]
mod tests;
