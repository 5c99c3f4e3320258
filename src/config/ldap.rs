//! `[access.ldap]`: users of a directory.

use url::Url;

use super::table::{Context, Given, Place, Values as _, name, table, texts};
use super::values::{Flag, Path};
use crate::access::ldap::names::{self, TEMPLATE_BYTES_MAX};
use crate::access::ldap::{Directory, Groups, Server, UserSearch};

/// The attribute of a user's name in most directories; Active Directory has `sAMAccountName`.
const USER_ATTRIBUTE: &str = "uid";

/// The filter for the groups of a user, and the attribute that has their names.
const GROUP_FILTER: &str = "(member={dn})";
const GROUP_ATTRIBUTE: &str = "cn";

table! {
    /// `[access.ldap]`.
    LdapKey {
        /// The server: `ldaps://HOST[:PORT]`, or `ldap://HOST[:PORT]` with `start_tls`. A name with several addresses is tried at all of them. Required.
        url: ServerUrl,
        /// `true`: TLS begins on the port of `ldap://`, before anything else is sent. Default: `false`.
        start_tls: Flag,
        /// A PEM file of certificates that the server's may be signed by, besides the system's.
        ca_file: Path,
        /// `true`: passwords are sent unencrypted to `ldap://` on another machine, where anybody on the way can read them. Default: `false`.
        insecure: Flag,
        /// The name to bind as, with `{user}` in the place of the user's: `uid={user},ou=people,dc=corp`, or `{user}@corp.example` in Active Directory. Instead of a search before the bind.
        bind_dn: BindName,
        /// The distinguished name of the account that searches for users and groups. Without it (and without `bind_dn`) the search is anonymous.
        search_bind_dn: DistinguishedName,
        /// A file with its password, read for each login.
        search_bind_password_file: Path,
        /// Users are at or below this entry. Required, unless there is a `bind_dn`.
        base: DistinguishedName,
        /// The filter that finds one user, with `{user}` in the place of the name. Default: `({user_attribute}={user})`.
        filter: Filter,
        /// The attribute that has a user's name, as policies name it; `sAMAccountName` in Active Directory. Default: `uid`.
        user_attribute: Attribute,
        /// Groups are at or below this entry. One search finds all groups of a user.
        group_base: DistinguishedName,
        /// The filter that finds the groups of a user, with `{dn}` in the place of the user's distinguished name, or `{user}` in the place of the name. Default: `(member={dn})`.
        group_filter: Filter,
        /// The attribute that has a group's name, as policies name it. Default: `cn`.
        group_attribute: Attribute,
        /// Instead of `group_base`: the attribute of a user's entry that names the groups (`memberOf`); the first part of each name is the group's.
        member_of: Attribute,
    }
}

texts! {
    /// The URL of a server.
    ServerUrl: Url = server_url, "^[lL][dD][aA][pP][sS]?://[^/?#@]+/?$";
    /// A template of names.
    BindName: String = |text: &str| names::check_bind_name(text).map(|()| text.to_owned()), r"^.*\{user\}.*$";
    /// A template of filters.
    Filter: String = |text: &str| names::check_filter(text).map(|()| text.to_owned()), r"^\(.*\{(user|dn)\}.*\)$";
    /// A distinguished name.
    DistinguishedName: String = distinguished_name, "^[^=]+=.*$";
    /// The name of an attribute (RFC 4512 section 2.5).
    Attribute: String = attribute, "^[A-Za-z][A-Za-z0-9-]*$";
}

fn server_url(text: &str) -> Result<Url, String> {
    let url: Option<Url> = text.parse().ok();
    let is_server = |url: &Url| {
        matches!(url.scheme(), "ldap" | "ldaps")
            && url.host_str().is_some_and(|host| !host.is_empty())
            && matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
    };
    let wrong = || "must be a URL like \"ldaps://ldap.corp\"".to_owned();
    url.filter(is_server).ok_or_else(wrong)
}

fn distinguished_name(text: &str) -> Result<String, String> {
    let is_name = text.len() <= TEMPLATE_BYTES_MAX
        && text.split_once('=').is_some_and(|(it, _)| !it.is_empty())
        && !text.chars().any(char::is_control);
    if is_name {
        return Ok(text.to_owned());
    }
    Err("must be a distinguished name like \"ou=people,dc=corp\"".to_owned())
}

fn attribute(text: &str) -> Result<String, String> {
    let is_attribute = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.len() <= 64
        && text
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || it == b'-');
    if is_attribute {
        return Ok(text.to_owned());
    }
    Err("must be the name of an attribute like \"uid\"".to_owned())
}

/// Resolves `[access.ldap]`.
pub(super) fn resolve(given: Option<&Given<LdapKey>>, context: &Context<'_>) -> Option<Directory> {
    let Given { value: keys, .. } = given?;
    let why = "is missing; write url = \"ldaps://ldap.corp\"";
    let url = keys.keys.required(keys.url.as_ref(), "url", why, context);
    let url = url.ok()?;
    let start_tls = keys.start_tls.value_or(false);
    check_encryption(url, start_tls, keys, context);
    let user_attribute = keys.user_attribute.value_or(USER_ATTRIBUTE.to_owned());
    let users = users(keys, &user_attribute, context);
    let groups = groups(keys, context);
    check_names(keys, &groups, context);
    Some(Directory {
        server: Server {
            url: url.value.clone(),
            start_tls,
            ca_file: keys.ca_file.value(),
        },
        bind_name: keys.bind_dn.value(),
        users,
        user_attribute,
        groups,
    })
}

/// Passwords cross no network unencrypted, unless that is written out.
fn check_encryption(url: &Given<Url>, start_tls: bool, keys: &LdapKey, context: &Context<'_>) {
    let is_ldaps = url.value.scheme() == "ldaps";
    if is_ldaps && let Some(given) = keys.start_tls.as_ref().filter(|given| given.value) {
        context.wrong(&given.place, "is for ldap://; ldaps:// begins with TLS");
    }
    let is_plain = !is_ldaps && !start_tls;
    if is_plain && !keys.insecure.value_or(false) && !is_here(&url.value) {
        context.wrong(
            &url.place,
            "would send passwords unencrypted: use ldaps://, or start_tls = true, or write insecure = true",
        );
    }
}

/// True if it is this machine.
pub(super) fn is_here(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = |address: std::net::IpAddr| address.to_canonical().is_loopback();
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_loopback)
}

fn users(keys: &LdapKey, attribute: &str, context: &Context<'_>) -> Option<UserSearch> {
    let table = &keys.keys;
    let missing = |name: &str, why: &str| {
        if table.place_of(name).is_none() {
            let place = table.place.under(name, table.place.origin.clone());
            context.wrong(&place, format!("is missing; {why}"));
        }
    };
    if let (Some(bind), Some(search)) = (&keys.bind_dn, &keys.search_bind_dn) {
        let why = "is no use with bind_dn: users search themselves";
        let problem = super::error::Problem::new(&search.place.origin, &search.place.key, why);
        context.report(problem.and(&bind.place.origin));
    }
    if keys.bind_dn.is_none() && table.place_of("bind_dn").is_none() {
        missing("base", "users are searched for below it (or write bind_dn)");
    }
    if keys.search_bind_dn.is_some() {
        missing(
            "search_bind_password_file",
            "it has the password of search_bind_dn",
        );
    }
    if keys.search_bind_password_file.is_some() {
        missing("search_bind_dn", "the account whose password that is");
    }
    if keys.filter.is_some() {
        missing("base", "the filter is for a search below it");
    }
    let usual = format!("({attribute}={{user}})");
    if let Some(given) = keys.filter.as_ref().filter(|it| it.value.contains("{dn}")) {
        context.wrong(
            &given.place,
            "can have {user} alone: the name is not known yet",
        );
    }
    let base = keys.base.value()?;
    let account = keys
        .search_bind_dn
        .value()
        .zip(keys.search_bind_password_file.value());
    Some(UserSearch {
        base,
        filter: keys.filter.value_or(usual),
        account,
    })
}

fn groups(keys: &LdapKey, context: &Context<'_>) -> Groups {
    let wrong = |place: &Place, why: &str| {
        context.wrong(place, why);
    };
    let (filter, attribute) = (&keys.group_filter, &keys.group_attribute);
    let Some(base) = &keys.group_base else {
        for place in [
            filter.as_ref().map(|it| &it.place),
            attribute.as_ref().map(|it| &it.place),
        ] {
            if let Some(place) = place.filter(|_| keys.keys.place_of("group_base").is_none()) {
                wrong(place, "needs group_base");
            }
        }
        let attribute = keys.member_of.value();
        return attribute.map_or(Groups::None, Groups::MemberOf);
    };
    if let Some(given) = &keys.member_of {
        wrong(
            &given.place,
            "and group_base are two ways to find groups; only one of them can be",
        );
    }
    Groups::Search {
        base: base.value.clone(),
        filter: filter.value_or(GROUP_FILTER.to_owned()),
        attribute: attribute.value_or(GROUP_ATTRIBUTE.to_owned()),
    }
}

/// Groups are found by a distinguished name, which a name such as `alice@corp.example` is not.
fn check_names(keys: &LdapKey, groups: &Groups, context: &Context<'_>) {
    let Some(given) = &keys.bind_dn else {
        return;
    };
    if *groups != Groups::None && keys.base.is_none() && !names::is_dn(&given.value) {
        context.wrong(
            &given.place,
            "is no distinguished name, by which groups are found: write base, too, so that the user is searched for",
        );
    }
}
