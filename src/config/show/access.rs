//! `[access]` as it is shown.

use std::collections::BTreeMap;

use super::{line, list, quoted, size, table};
use crate::access::condition::Window;
use crate::access::ldap::{Directory, Groups};
use crate::access::limits::Limit;
use crate::access::{Action, Condition, Config, Pattern, Policy, Statement, Subject};
use crate::config::ldap::is_here;
use crate::config::values::{AdminAccesses, Enforcements};

/// A word that stands for no action.
const NO_ACTION: &str = "cr:GetAuthorizationToken";

/// Nothing where there is no such table.
pub(super) fn show(out: &mut String, config: &Config) {
    if !config.enabled {
        return;
    }
    table(out, "access");
    let mode = Enforcements::name(config.enforcement);
    line(out, "mode", &quoted(mode));
    if !config.allow.is_empty() {
        line(
            out,
            "allow",
            &list(config.allow.iter().map(ToString::to_string)),
        );
    }
    if let Some(path) = &config.htpasswd {
        line(out, "htpasswd", &super::shown(path));
    }
    if let Some(url) = &config.token_url {
        line(out, "realm", &quoted(url));
    }
    line(out, "admin", &quoted(AdminAccesses::name(config.admin)));
    if let Some(directory) = &config.ldap {
        show_ldap(out, directory);
    }
    for trust in &config.oidc {
        table(out, "[access.oidc]");
        line(out, "name", &quoted(&trust.name));
        line(out, "issuer", &quoted(trust.issuer.as_str()));
        line(out, "audience", &list(trust.audience.iter()));
        if !trust.claims.is_empty() {
            line(out, "claims", &claims(&trust.claims));
        }
        if let Some(file) = &trust.ca_file {
            line(out, "ca_file", &super::shown(file));
        }
    }
    for policy in &config.policies {
        show_policy(out, policy);
    }
    for attachment in &config.attachments {
        table(out, "[access.attach]");
        match &attachment.subject {
            Subject::User(name) => line(out, "user", &quoted(name)),
            Subject::Group(name) => line(out, "group", &quoted(name)),
            Subject::Robot(name) => line(out, "robot", &quoted(name)),
            Subject::Claim(name, pattern) => {
                line(out, "claim", &quoted(&format!("{name}={pattern}")));
            }
            Subject::Anonymous => line(out, "anonymous", "true"),
        }
        line(out, "policies", &list(attachment.policies.iter()));
    }
    for limit in &config.limits {
        show_limit(out, limit);
    }
}

fn show_ldap(out: &mut String, directory: &Directory) {
    let Directory {
        server,
        bind_name,
        users,
        user_attribute,
        groups,
    } = directory;
    table(out, "access.ldap");
    line(out, "url", &quoted(server.url.as_str()));
    line(out, "start_tls", &server.start_tls.to_string());
    if !server.is_ldaps() && !server.start_tls && !is_here(&server.url) {
        line(out, "insecure", "true");
    }
    if let Some(file) = &server.ca_file {
        line(out, "ca_file", &super::shown(file));
    }
    if let Some(name) = bind_name {
        line(out, "bind_dn", &quoted(name));
    }
    if let Some(users) = users {
        if let Some((name, file)) = &users.account {
            line(out, "search_bind_dn", &quoted(name));
            line(out, "search_bind_password_file", &super::shown(file));
        }
        line(out, "base", &quoted(&users.base));
        line(out, "filter", &quoted(&users.filter));
    }
    line(out, "user_attribute", &quoted(user_attribute));
    match groups {
        Groups::None => {}
        Groups::MemberOf(attribute) => line(out, "member_of", &quoted(attribute)),
        Groups::Search {
            base,
            filter,
            attribute,
        } => {
            line(out, "group_base", &quoted(base));
            line(out, "group_filter", &quoted(filter));
            line(out, "group_attribute", &quoted(attribute));
        }
    }
}

fn show_limit(out: &mut String, limit: &Limit) {
    table(out, "[access.limit]");
    line(out, "match", &quoted(&limit.meaning.to_string()));
    if let Some(requests) = limit.requests {
        line(out, "requests", &requests.to_string());
    }
    if let Some(bytes) = limit.bytes {
        line(out, "bytes", &size(bytes));
    }
    if let Some(connections) = limit.connections {
        line(out, "connections", &connections.to_string());
    }
    if let Some(bytes) = limit.bytes_per_day {
        line(out, "bytes_per_day", &size(bytes));
    }
}

fn show_policy(out: &mut String, policy: &Policy) {
    table(out, "[access.policy]");
    line(out, "name", &quoted(&policy.name));
    if policy.statements.is_empty() {
        line(out, "statement", "[]");
    }
    for Statement {
        effect,
        actions,
        resources,
        condition,
    } in &policy.statements
    {
        table(out, "[access.policy.statement]");
        line(out, "effect", &quoted(effect.name()));
        let actions = if actions.is_empty() {
            // Of documents: about nothing that is here.
            list(std::iter::once(NO_ACTION))
        } else {
            list(actions.iter().map(Action::name))
        };
        line(out, "actions", &actions);
        line(
            out,
            "resources",
            &list(resources.iter().map(Pattern::as_str)),
        );
        if !condition.is_empty() {
            line(out, "condition", &shown(condition));
        }
    }
}

fn shown(condition: &Condition) -> String {
    let mut parts = Vec::new();
    if !condition.source_ip.is_empty() {
        let networks = condition.source_ip.iter().map(ToString::to_string);
        parts.push(format!("source_ip = {}", list(networks)));
    }
    if !condition.tag.is_empty() {
        parts.push(format!("tag = {}", list(condition.tag.iter())));
    }
    if !condition.time.is_empty() {
        let windows = condition.time.iter().map(Window::as_str);
        parts.push(format!("time = {}", list(windows)));
    }
    if let Some(certificate) = condition.certificate {
        parts.push(format!("certificate = {certificate}"));
    }
    if !condition.claim.is_empty() {
        parts.push(format!("claim = {}", claims(&condition.claim)));
    }
    format!("{{ {} }}", parts.join(", "))
}

fn claims(claims: &BTreeMap<String, Vec<String>>) -> String {
    let claims = claims.iter();
    let claims =
        claims.map(|(name, patterns)| format!("{} = {}", quoted(name), list(patterns.iter())));
    format!("{{ {} }}", claims.collect::<Vec<_>>().join(", "))
}
