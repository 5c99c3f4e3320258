//! `[access]`: who may come in, and who may do what.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use toml::de::DeValue;

use super::document::{self, UpstreamText};
use super::error::{Problem, Shown};
use super::ldap::{self, LdapKey};
use super::limits::{self, LimitKey};
use super::origin::Origin;
use super::table::{
    About, Context, Given, List, OneOrMore, Outcome, Place, Read, Scalar, Values as _, Written,
    in_order, name, table, texts,
};
use super::values::{AdminAccesses, Enforcements, Flag, Networks, Path, Text};
use crate::access::condition::{Condition, Window};
use crate::access::oidc::Trust;
use crate::access::{self, Actions, Attachment, Effect, Pattern, Policy, Statement, Subject};

/// Policies, and statements in one. Each is looked at when the file is read; a request sees those that may mean it.
const POLICIES_MAX: usize = 10_000;

table! {
    /// `[access]`.
    Access {
        /// `enforce` refuses what the rules deny; `warn` answers it, and logs what would have been refused. Default: `enforce`.
        mode: Enforcements,
        /// Networks that clients may come from, for all client listeners. Default: any.
        allow: OneOrMore<Networks>,
        /// A file of users in the format of `htpasswd -B` (bcrypt), read again when it changes.
        htpasswd: Path,
        /// A directory (LDAP, Active Directory) whose users can log in, besides those of `htpasswd` and of the catalogue.
        ldap: LdapKey,
        /// The URL of `/token` as clients reach it. Default: `/token` on the host that they ask.
        realm: Realm,
        /// Issuers of other tokens that are believed: Kubernetes, GitHub Actions, GitLab.
        oidc: List<OidcKey>,
        /// Policies: statements under a name, which are attached to users, groups, robots or claims.
        policy: List<PolicyKey>,
        /// Policies of a user, group, robot, claim or of anonymous clients: exactly one of these in each table.
        attach: List<Attach>,
        /// Limits by identity or address. Several may match a request, and all of them hold.
        limit: List<LimitKey>,
        /// `local`: a request to the admin API that has no credentials is an operator's if it comes from this machine; `identity`: none is. With credentials, changes need `admin` on the resource `admin`, and reading needs `list` or `admin`. Default: `local`.
        admin: AdminAccesses,
    }
}

table! {
    /// `[[access.oidc]]`.
    OidcKey {
        /// The name of the robot that such a token is. Required.
        oidc_name as "name": Text,
        /// The issuer, as the `iss` of its tokens has it: an `https` URL, below which is `/.well-known/openid-configuration`. Required.
        issuer: IssuerUrl,
        /// Audiences, one of which a token must be for: a token for another service must open nothing here. Required.
        audience: OneOrMore<Text>,
        /// Patterns of claims that a token must have, by their names; those within others with dots: `kubernetes.io.namespace`.
        claims: Claims,
        /// A PEM file of certificates that the issuer's may be signed by, besides the system's.
        ca_file: Path,
    }
}

table! {
    /// `[[access.policy]]`.
    PolicyKey {
        /// Its name. Built in are `read-only`, `developer`, `maintainer`, `admin` and `auditor`. Required.
        policy_name as "name": Text,
        /// Statements that allow or deny. One that denies wins over all that allow. Required, unless there is a document.
        statement: List<StatementKey>,
        /// Instead of statements: a policy of Alibaba Cloud's RAM, in JSON as it is written there.
        document: Text,
        /// Instead of statements: a file with such a policy; read at the start and on SIGHUP.
        document_file: Path,
        /// Upstreams whose repositories the document is about, besides hosted ones: `acs:cr:*:*:repository/*/team/*` then also means `mirror/<upstream>/team/*`.
        document_upstream: OneOrMore<UpstreamText>,
    }
}

table! {
    /// `[[access.policy.statement]]`.
    StatementKey {
        /// `allow` or `deny`. Required.
        effect: Effects,
        /// `pull`, `push`, `delete`, `list`, `admin`, `*`, or names of Alibaba Cloud's RAM such as `cr:PullRepository`. Required.
        actions: OneOrMore<ActionWord>,
        /// Patterns of `mirror/<upstream>/<repository>`, `repository/<namespace>/<name>` and `admin`, in which `*` stands for any characters, slashes too; or RAM's `acs:cr:*:*:repository/*/<namespace>/*`. Required.
        resources: OneOrMore<ResourcePattern>,
        /// Conditions, all of which must hold.
        condition: ConditionKey,
    }
}

table! {
    /// A condition.
    ConditionKey {
        /// Networks that the client is in.
        source_ip: OneOrMore<Networks>,
        /// Patterns of the tag. A pull by digest has no tag: an `allow` statement with this condition also applies to pulls by digest, a `deny` statement does not.
        tag: OneOrMore<Text>,
        /// Times like `"mon-fri 08:00-18:00 +08:00"`; UTC without an offset.
        time: OneOrMore<Windows>,
        /// `true`: the client has shown a certificate that was accepted.
        certificate: Flag,
        /// Patterns of claims of the client's token or certificate, by their names.
        claim: Claims,
    }
}

table! {
    /// `[[access.attach]]`: one of `user`, `group`, `robot`, `claim` and `anonymous`, and the policies that it has.
    Attach {
        /// A user by name; `*` is every user.
        user: Text,
        /// A group by name.
        group: Text,
        /// A robot by name; `*` is every robot.
        robot: Text,
        /// Holders of a claim: a table of its pattern, or `"name=pattern"`.
        claim: ClaimText,
        /// `true`: clients without credentials. Everybody may do what they may.
        anonymous: Flag,
        /// Names of policies. Required.
        policies: OneOrMore<Text>,
    }
}

/// An effect.
pub(super) enum Effects {}

impl Scalar for Effects {
    type Value = Effect;

    fn parse(written: &DeValue<'_>) -> Result<Effect, String> {
        match written.as_str().map(str::to_ascii_lowercase).as_deref() {
            Some("allow") => Ok(Effect::Allow),
            Some("deny") => Ok(Effect::Deny),
            _ => Err("must be \"allow\" or \"deny\"".to_owned()),
        }
    }
    fn schema() -> Json {
        json!({ "enum": ["allow", "deny"] })
    }
}

texts! {
    /// A word of `actions`.
    ActionWord: Actions = Actions::parse, r"^(pull|push|delete|list|admin|repo:[a-z]+|cr:.+|\*)$";
    /// A pattern of `resources`.
    ResourcePattern: Pattern = Pattern::parse,
        r"^(\*.*|(mirror|repository)/.+|admin(/.+)?|acs:.+|[mra][a-z]*\*.*)$";
    /// A window of time.
    Windows: Window = |text: &str| text.parse(), r"^\s*([A-Za-z,-]+\s+)?[0-9]{2}:[0-9]{2}-[0-9]{2}:[0-9]{2}(\s+\S+)?\s*$";
    /// The URL of an issuer.
    IssuerUrl: url::Url = issuer, "^[hH][tT][tT][pP][sS]?://[^?#]+$";
    /// The URL of the token endpoint.
    Realm: String = realm, "^[hH][tT][tT][pP][sS]?://[^?#]+$";
}

/// Over plain HTTP anybody on the way could give out keys, but on this machine.
fn issuer(text: &str) -> Result<url::Url, String> {
    let url: Option<url::Url> = text.parse().ok();
    let is_issuer = |url: &url::Url| {
        let is_here = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let is_safe = url.scheme() == "https" || (url.scheme() == "http" && is_here);
        is_safe && url.query().is_none() && url.fragment().is_none() && url.username().is_empty()
    };
    let wrong =
        || "must be an https URL like \"https://token.actions.githubusercontent.com\"".to_owned();
    url.filter(is_issuer).ok_or_else(wrong)
}

fn realm(text: &str) -> Result<String, String> {
    let url: Option<url::Url> = text.parse().ok();
    let is_plain = |url: &url::Url| {
        matches!(url.scheme(), "http" | "https")
            && url.query().is_none()
            && url.username().is_empty()
    };
    match url.filter(is_plain) {
        Some(url) => Ok(url.to_string()),
        None => Err("must be a URL like \"https://mirror.corp/token\"".to_owned()),
    }
}

/// Patterns by the names of claims.
pub(super) enum Claims {}

impl Read for Claims {
    type Value = BTreeMap<String, Vec<String>>;

    fn read(written: &Written<'_>, place: &Place, context: &Context<'_>) -> Outcome<Self::Value> {
        let DeValue::Table(entries) = written.get_ref() else {
            return Err(context.wrong(
                place,
                "must be a table of patterns, such as { sub = \"repo:acme/*\" }",
            ));
        };
        let mut claims = BTreeMap::new();
        for (name, value) in in_order(entries) {
            let name = name.get_ref().as_ref();
            let place = place.under(name, context.origins.of(value.span().start));
            let patterns = OneOrMore::<Text>::read(value, &place, context)?;
            claims.insert(name.to_owned(), patterns);
        }
        Ok(claims)
    }
    fn schema() -> Json {
        json!({ "type": "object", "additionalProperties": OneOrMore::<Text>::schema() })
    }
}

/// A claim that somebody has: a table with one entry, or `name=pattern`.
pub(super) enum ClaimText {}

impl Read for ClaimText {
    type Value = (String, String);

    fn read(written: &Written<'_>, place: &Place, context: &Context<'_>) -> Outcome<Self::Value> {
        let wrong = || context.wrong(place, "must be \"name=pattern\", or a table with one claim");
        if let Some(text) = written.get_ref().as_str() {
            let claim = text
                .split_once('=')
                .filter(|(name, pattern)| !name.is_empty() && !pattern.is_empty());
            let (name, pattern) = claim.ok_or_else(wrong)?;
            return Ok((name.to_owned(), pattern.to_owned()));
        }
        let mut claims = Claims::read(written, place, context)?.into_iter();
        match (claims.next(), claims.next()) {
            (Some((name, patterns)), None) => match <[String; 1]>::try_from(patterns) {
                Ok([pattern]) => Ok((name, pattern)),
                Err(_several) => Err(wrong()),
            },
            _ => Err(wrong()),
        }
    }
    fn schema() -> Json {
        json!({ "anyOf": [{ "type": "string", "pattern": "^[^=]+=.+$" }, Claims::schema()] })
    }
}

/// Names what a list of tables is.
macro_rules! lists {
    ($($kind:ident: $name:literal;)+) => {$(
        impl About for $kind {
            const MAX: usize = POLICIES_MAX;

            fn about_list() -> String {
                concat!("must be an array of tables, each under [[", $name, "]]").to_owned()
            }
        }
    )+};
}

lists! {
    OidcKey: "access.oidc";
    PolicyKey: "access.policy";
    StatementKey: "access.policy.statement";
    Attach: "access.attach";
}

/// Resolves `[access]`.
pub(super) fn resolve(given: Option<&Given<Access>>, context: &Context<'_>) -> access::Config {
    let Some(Given { value: keys, .. }) = given else {
        return access::Config::default();
    };
    let policies = policies(keys, context);
    let known =
        |name: &str| Policy::is_built_in(name) || policies.iter().any(|policy| policy.name == name);
    let attachments = keys.attach.iter().flat_map(|given| &given.value);
    let attachments = attachments.filter_map(|given| attachment(&given.value, &known, context));
    let attachments = attachments.collect();
    access::Config {
        enabled: true,
        enforcement: keys.mode.value_or(access::Enforcement::default()),
        allow: keys.allow.value_or(Vec::new()),
        htpasswd: keys.htpasswd.value(),
        ldap: ldap::resolve(keys.ldap.as_ref(), context),
        token_url: keys.realm.value(),
        oidc: trusts(keys, context),
        policies,
        attachments,
        certificates: false,
        limits: limits::resolve(keys.limit.as_ref(), context),
        admin: keys.admin.value_or(access::AdminAccess::default()),
        ruled: Vec::new(),
        // The node's keys are not read yet.
        cluster: None,
    }
}

fn trusts(keys: &Access, context: &Context<'_>) -> Vec<Trust> {
    let mut trusts: Vec<Trust> = Vec::new();
    for Given { value, place } in keys.oidc.iter().flat_map(|given| &given.value) {
        let table = &value.keys;
        let needed = [
            (
                "name",
                "the robot that its tokens are",
                value.oidc_name.is_none(),
            ),
            (
                "issuer",
                "write issuer = \"https://token.actions.githubusercontent.com\"",
                value.issuer.is_none(),
            ),
            (
                "audience",
                "without one, tokens for other services would be believed",
                value.audience.is_none(),
            ),
        ];
        for (name, why, _) in needed.iter().filter(|(.., is_missing)| *is_missing) {
            missing(name, why, table, context);
        }
        let (Some(name), Some(issuer), Some(audience)) = (
            value.oidc_name.value(),
            value.issuer.value(),
            value.audience.value(),
        ) else {
            continue;
        };
        if let Some(given) = value.audience.as_ref().filter(|_| audience.is_empty()) {
            context.wrong(&given.place, "is empty: no token would be for this mirror");
        }
        if trusts.iter().any(|other| other.name == name) {
            context.wrong(place, format!("{} is there twice", Shown(&name)));
        }
        trusts.push(Trust {
            name,
            issuer,
            audience,
            claims: value.claims.value_or(BTreeMap::new()),
            ca_file: value.ca_file.value(),
        });
    }
    trusts
}

fn policies(keys: &Access, context: &Context<'_>) -> Vec<Policy> {
    let mut policies: Vec<Policy> = Vec::new();
    let mut seen: BTreeMap<String, Origin> = BTreeMap::new();
    for Given { value, .. } in keys.policy.iter().flat_map(|given| &given.value) {
        let Some(Given { value: name, place }) = &value.policy_name else {
            missing("name", "a policy has a name", &value.keys, context);
            continue;
        };
        if Policy::is_built_in(name) {
            let why = format!("{} is built in: choose another name", Shown(name));
            context.wrong(place, why);
        }
        if let Some(first) = seen.insert(name.clone(), place.origin.clone()) {
            let why = format!("{} is there twice", Shown(name));
            context.report(Problem::new(&place.origin, &place.key, why).and(&first));
        }
        let statements = statements(value, context);
        policies.push(Policy {
            name: name.clone(),
            statements,
        });
    }
    policies
}

/// The statements of a policy, or of its document.
fn statements(keys: &PolicyKey, context: &Context<'_>) -> Vec<Statement> {
    const WAYS: &[&[&str]] = &[&["statement"], &["document"], &["document_file"]];
    let Ok(way) = keys.keys.one_of(WAYS, context) else {
        return Vec::new();
    };
    let is_document = matches!(way, Some(("document" | "document_file", _)));
    if let Some(given) = keys.document_upstream.as_ref().filter(|_| !is_document) {
        context.wrong(&given.place, "needs document or document_file");
    }
    if is_document {
        return document::statements(keys, context);
    }
    if way.is_none() {
        let what_to_do = "write [[access.policy.statement]] below it, or document";
        missing("statement", what_to_do, &keys.keys, context);
    }
    let statements = keys.statement.iter().flat_map(|given| &given.value);
    statements
        .filter_map(|given| statement(&given.value, context))
        .collect()
}

fn statement(keys: &StatementKey, context: &Context<'_>) -> Option<Statement> {
    let table = &keys.keys;
    let need = |name: &'static str, example: &str| {
        missing(name, &format!("write {name} = {example}"), table, context);
    };
    if keys.effect.is_none() {
        need("effect", "\"allow\"");
    }
    if keys.actions.is_none() {
        need("actions", "[\"pull\"]");
    }
    if keys.resources.is_none() {
        need("resources", "[\"mirror/docker.io/library/*\"]");
    }
    let resources = keys.resources.as_ref()?;
    let actions = keys.actions.as_ref()?;
    for (is_empty, given) in [
        (resources.value.is_empty(), &resources.place),
        (actions.value.is_empty(), &actions.place),
    ] {
        if is_empty {
            context.wrong(given, "is empty: the statement would mean nothing");
        }
    }
    Some(Statement {
        effect: keys.effect.value()?,
        actions: actions
            .value
            .iter()
            .fold(Actions::NONE, |all, one| all.and(*one)),
        resources: resources.value.clone(),
        condition: keys
            .condition
            .as_ref()
            .map(|given| condition(&given.value, context))
            .unwrap_or_default(),
    })
}

fn condition(keys: &ConditionKey, context: &Context<'_>) -> Condition {
    let empty = [
        keys.source_ip
            .as_ref()
            .map(|it| (it.value.is_empty(), &it.place)),
        keys.tag.as_ref().map(|it| (it.value.is_empty(), &it.place)),
        keys.time
            .as_ref()
            .map(|it| (it.value.is_empty(), &it.place)),
        keys.claim
            .as_ref()
            .map(|it| (it.value.is_empty(), &it.place)),
    ];
    for (is_empty, place) in empty.into_iter().flatten() {
        if is_empty {
            let why = "is empty: the statement would hold for everybody; write a value, or leave the key out";
            context.wrong(place, why);
        }
    }
    Condition {
        source_ip: keys.source_ip.value_or(Vec::new()),
        tag: keys.tag.value_or(Vec::new()),
        time: keys.time.value_or(Vec::new()),
        certificate: keys.certificate.value(),
        claim: keys.claim.value_or(BTreeMap::new()),
    }
}

fn attachment(
    keys: &Attach,
    known: &dyn Fn(&str) -> bool,
    context: &Context<'_>,
) -> Option<Attachment> {
    const WAYS: &[&[&str]] = &[
        &["user"],
        &["group"],
        &["robot"],
        &["claim"],
        &["anonymous"],
    ];
    let subject = match keys.keys.one_of(WAYS, context).ok()? {
        None => {
            missing(
                "user",
                "write whom it is for: user, group, robot, claim or anonymous",
                &keys.keys,
                context,
            );
            return None;
        }
        Some(("user", _)) => Subject::User(keys.user.value()?),
        Some(("group", _)) => Subject::Group(keys.group.value()?),
        Some(("robot", _)) => Subject::Robot(keys.robot.value()?),
        Some(("claim", _)) => {
            let (name, pattern) = keys.claim.value()?;
            Subject::Claim(name, pattern)
        }
        Some((_, place)) => {
            if !keys.anonymous.value()? {
                context.wrong(place, "must be true, or left out");
            }
            Subject::Anonymous
        }
    };
    let Some(policies) = &keys.policies else {
        missing(
            "policies",
            "write policies = [\"read-only\"]",
            &keys.keys,
            context,
        );
        return None;
    };
    for name in &policies.value {
        if !known(name) {
            let why = format!("there is no policy {}", Shown(name));
            context.wrong(&policies.place, why);
        }
    }
    Some(Attachment {
        subject,
        policies: policies.value.clone(),
    })
}

/// Reports a key that is not there; one that is there and makes no sense was reported before.
fn missing(name: &str, what_to_do: &str, keys: &super::table::Keys, context: &Context<'_>) {
    if keys.place_of(name).is_none() {
        context.wrong(
            &keys.place.under(name, keys.place.origin.clone()),
            format!("is missing; {what_to_do}"),
        );
    }
}
