//! The configuration of a directory, and the steps of a login there.

use super::message::Entry;
use super::names;
use super::session::{Failure, Session, search};
use crate::net::{Dialer, Secret};
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt as _;
use url::Url;

/// The largest file with a password, in bytes.
const PASSWORD_BYTES_MAX: u64 = 4096;

/// The most groups of a user. More are an error rather than left out: a statement that denies may be about one of them.
const GROUPS_MAX: usize = 2000;

/// A directory (LDAP, Active Directory), and the way in which its users log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// The server.
    pub server: Server,
    /// A template of the name to bind as; `None`: it is searched for.
    pub bind_name: Option<String>,
    /// The search for a user.
    pub users: Option<UserSearch>,
    /// The attribute that has a user's name.
    pub user_attribute: String,
    /// The source of a user's groups.
    pub groups: Groups,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `ldap://HOST[:PORT]` or `ldaps://HOST[:PORT]`.
    pub url: Url,
    /// TLS begins on the port of `ldap://`.
    pub start_tls: bool,
    /// A PEM file of certificates that the server's may be signed by, besides the system's.
    pub ca_file: Option<PathBuf>,
}

/// The search for a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSearch {
    /// Users are at or below it.
    pub base: String,
    /// A template of the filter.
    pub filter: String,
    /// The account that searches: its name, and the file with its password. `None`: it is done without one, or by the
    /// user, where [`Directory::bind_name`] is.
    pub account: Option<(String, PathBuf)>,
}

/// The source of a user's groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Groups {
    /// Users have none.
    None,
    /// An attribute of the user's entry with the names of groups.
    MemberOf(String),
    /// A search.
    Search {
        /// Groups are at or below it.
        base: String,
        /// A template of the filter.
        filter: String,
        /// The attribute that has a group's name.
        attribute: String,
    },
}

/// A user whose password was right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    /// The name as the directory has it.
    pub(super) name: String,
    /// Groups, sorted.
    pub(super) groups: Vec<String>,
}

/// A user that was found.
struct Person {
    dn: String,
    /// The name as the directory has it, and the groups in the entry.
    account: Account,
}

impl Server {
    /// True if TLS begins with the connection.
    #[must_use]
    pub fn is_ldaps(&self) -> bool {
        self.url.scheme() == "ldaps"
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        let usual = if self.is_ldaps() { 636 } else { 389 };
        self.url.port().unwrap_or(usual)
    }
}

impl Directory {
    /// Asks the directory about a user and a password. `None`: it does not know them.
    ///
    /// # Errors
    /// [`Failure`].
    pub(super) async fn log_in(
        &self,
        dialer: &Dialer,
        user: &str,
        password: &Secret,
    ) -> Result<Option<Account>, Failure> {
        let mut session = Session::open(self, dialer).await?;
        let account = match &self.bind_name {
            Some(template) => self.bound(&mut session, template, user, password).await,
            None => self.searched(&mut session, user, password).await,
        }?;
        session.close().await;
        Ok(account)
    }

    /// Binds by the user's name, and searches as the user.
    async fn bound(
        &self,
        session: &mut Session,
        template: &str,
        user: &str,
        password: &Secret,
    ) -> Result<Option<Account>, Failure> {
        let Some(name) = names::bind_name(template, user) else {
            return Ok(None);
        };
        let plain = names::plain(user);
        if self.users.is_none() && plain.is_none() {
            return Ok(None);
        }
        if !session.bind(&name, password).await? {
            return Ok(None);
        }
        let person = match (&self.users, plain) {
            (Some(users), _) => {
                let Some(person) = self.find(session, users, user).await? else {
                    let why =
                        format!("user {user:?} can log in, and is not found in access.ldap.base");
                    return Err(Failure::Unusable(why));
                };
                person
            }
            (None, plain) => Person {
                account: Account {
                    name: plain.unwrap_or_default(),
                    groups: self.groups_of_entry(session, &name).await?,
                },
                dn: name,
            },
        };
        self.with_groups(session, person).await.map(Some)
    }

    /// Searches for the user, and binds as what was found.
    async fn searched(
        &self,
        session: &mut Session,
        user: &str,
        password: &Secret,
    ) -> Result<Option<Account>, Failure> {
        let Some(users) = &self.users else {
            return Ok(None);
        };
        let account = match &users.account {
            Some((name, file)) => Some((name, password_of(file).await?)),
            None => None,
        };
        if let Some((name, own)) = &account {
            as_account(session, name, own).await?;
        }
        let Some(person) = self.find(session, users, user).await? else {
            return Ok(None);
        };
        if !session.bind(&person.dn, password).await? {
            return Ok(None);
        }
        // Users may not be allowed to look at groups.
        if let (Some((name, own)), Groups::Search { .. }) = (&account, &self.groups) {
            as_account(session, name, own).await?;
        }
        self.with_groups(session, person).await.map(Some)
    }

    /// The one entry of a user.
    async fn find(
        &self,
        session: &mut Session,
        users: &UserSearch,
        user: &str,
    ) -> Result<Option<Person>, Failure> {
        let filter = names::filter(&users.filter, user, "");
        let mut attributes = vec![self.user_attribute.as_str()];
        if let Groups::MemberOf(attribute) = &self.groups {
            attributes.push(attribute);
        }
        let found = session
            .search(search(&users.base, &filter, &attributes, 2)?)
            .await?;
        let Ok([entry]) = <[Entry; 1]>::try_from(found) else {
            // Of two, nobody could tell whose password is right.
            return Ok(None);
        };
        // Of several values the first in their order: one user is one name, whatever was typed.
        let names = values(&entry, &self.user_attribute)?;
        let name = names.into_iter().filter(|name| names::is_name(name)).min();
        let Some(name) = name else {
            let why = format!(
                "{:?} has no {:?} (access.ldap.user_attribute)",
                entry.name, self.user_attribute
            );
            return Err(Failure::Unusable(why));
        };
        Ok(Some(Person {
            account: Account {
                name,
                groups: self.groups_in(&entry)?,
            },
            dn: entry.name,
        }))
    }

    /// The groups in the entry of a user of whom only the name is known.
    async fn groups_of_entry(
        &self,
        session: &mut Session,
        dn: &str,
    ) -> Result<Vec<String>, Failure> {
        let Groups::MemberOf(attribute) = &self.groups else {
            return Ok(Vec::new());
        };
        let attributes = [attribute.as_str()];
        let mut entry = search(dn, "(objectClass=*)", &attributes, 1)?;
        entry.is_entry = true;
        match session.search(entry).await?.first() {
            Some(entry) => self.groups_in(entry),
            None => Err(Failure::Unusable(format!("{dn:?} may not read its entry"))),
        }
    }

    fn groups_in(&self, entry: &Entry) -> Result<Vec<String>, Failure> {
        let Groups::MemberOf(attribute) = &self.groups else {
            return Ok(Vec::new());
        };
        let groups = values(entry, attribute)?.into_iter();
        let named = |dn: String| {
            let name = names::first_value(&dn);
            name.ok_or_else(|| Failure::Unusable(format!("{dn:?} is no name of a group")))
        };
        groups.map(named).collect()
    }

    /// The account, with its groups.
    async fn with_groups(&self, session: &mut Session, person: Person) -> Result<Account, Failure> {
        let Person { mut account, dn } = person;
        if let Groups::Search {
            base,
            filter,
            attribute,
        } = &self.groups
        {
            let filter = names::filter(filter, &account.name, &dn);
            let attributes = [attribute.as_str()];
            let most = i64::try_from(GROUPS_MAX).unwrap_or(i64::MAX);
            let found = session
                .search(search(base, &filter, &attributes, most)?)
                .await?;
            for entry in &found {
                account.groups.extend(values(entry, attribute)?);
            }
        }
        account.groups.sort_unstable();
        account.groups.dedup();
        if account.groups.len() > GROUPS_MAX {
            let why = format!("{dn:?} is in more than {GROUPS_MAX} groups");
            return Err(Failure::Unusable(why));
        }
        Ok(account)
    }
}

/// Binds as the account that searches. That it may not is no fault of the user's.
async fn as_account(session: &mut Session, name: &str, password: &Secret) -> Result<(), Failure> {
    if session.bind(name, password).await? {
        return Ok(());
    }
    let why = format!("it refuses {name:?} (access.ldap.search_bind_dn) or its password");
    Err(Failure::Down(why))
}

/// The values of an attribute, whose name means the same in any case. A server that sends a part of them says so by an option
/// (`memberOf;range=0-1499`).
fn values(entry: &Entry, attribute: &str) -> Result<Vec<String>, Failure> {
    let mut all = Vec::new();
    for (description, values) in &entry.attributes {
        let (name, options) = description.split_once(';').unwrap_or((description, ""));
        if !name.eq_ignore_ascii_case(attribute) {
            continue;
        }
        if options.to_ascii_lowercase().contains("range=") && !values.is_empty() {
            let why = format!(
                "{:?} has more values of {name:?} than the server sends at once: set access.ldap.group_base instead",
                entry.name
            );
            return Err(Failure::Unusable(why));
        }
        for value in values {
            let text = std::str::from_utf8(value);
            let text = text.map_err(|_| {
                Failure::Unusable(format!(
                    "a value of {name:?} of {:?} is no text",
                    entry.name
                ))
            })?;
            all.push(text.to_owned());
        }
    }
    Ok(all)
}

/// The password in a file, without the line feed at its end. It is read for each login: so it may change.
async fn password_of(file: &Path) -> Result<Secret, Failure> {
    let failed = |why: &str| {
        let file = file.display();
        Failure::Down(format!(
            "access.ldap.search_bind_password_file {file}: {why}"
        ))
    };
    let read = async {
        let mut text = String::new();
        let file = tokio::fs::File::open(file).await?;
        let mut limited = file.take(PASSWORD_BYTES_MAX);
        limited.read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    let text = read.await.map_err(|error| failed(&error.to_string()))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(failed("it is empty"));
    }
    Ok(Secret::new(password.to_owned()))
}
