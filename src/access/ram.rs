//! Policies of Alibaba Cloud's RAM as they are written there: JSON (Alibaba Cloud, "Policy elements" and "Policy structure
//! and syntax" of Resource Access Management).
//!
//! Nothing is left out silently: a word that is not known is an error that names the statement and the key, for what a
//! condition restricts would otherwise be open. Only what cannot be about images means nothing: actions and resources of
//! other services, of instances and of charts.

use super::{Action, Actions, Condition, Effect, Pattern, Statement};
use crate::net::Network;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::cell::Cell;
use std::fmt;

/// The longest document in bytes: RAM itself takes 6,144 characters.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;

/// The version that documents have.
const VERSION: &str = "1";

/// Content, whichever it is.
const CONTENT: [&str; 2] = ["mirror/*", "repository/*"];

/// Reads a document. `upstreams`: the upstreams whose repositories it is about, besides hosted ones.
///
/// # Errors
/// One line that names the place, the statement and the fault.
pub fn parse(text: &str, upstreams: &[String]) -> Result<Vec<Statement>, String> {
    if text.len() > DOCUMENT_BYTES_MAX {
        return Err(format!("has more than {DOCUMENT_BYTES_MAX} bytes"));
    }
    let at = Place {
        statement: Cell::new(0),
        upstreams,
    };
    let mut json = serde_json::Deserializer::from_str(text);
    let read = Document(&at).deserialize(&mut json);
    let read = read.and_then(|statements| json.end().map(|()| statements));
    read.map_err(|error| {
        let whole = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let why = whole.strip_suffix(&place).unwrap_or(&whole);
        let statement = match at.statement.get() {
            0 => String::new(),
            number => format!("statement {number}: "),
        };
        format!(
            "line {}, column {}: {statement}{why}",
            error.line(),
            error.column()
        )
    })
}

/// The place that is read, and what resources stand for.
struct Place<'a> {
    /// The number of the statement, from 1; 0 outside of them.
    statement: Cell<usize>,
    upstreams: &'a [String],
}

/// Reads values by a function of their text, one or a list of them.
struct Words<F>(F);

/// A value, or several.
impl<'de, T, F: FnMut(&str) -> Result<T, String>> DeserializeSeed<'de> for Words<F> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Vec<T>, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de, T, F: FnMut(&str) -> Result<T, String>> Visitor<'de> for Words<F> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text or a list of texts")
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<Vec<T>, E> {
        Ok(vec![(self.0)(text).map_err(E::custom)?])
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut words = Vec::new();
        while let Some(word) = list.next_element_seed(Word(&mut self.0))? {
            words.push(word);
        }
        if words.is_empty() {
            return Err(A::Error::custom("is empty"));
        }
        Ok(words)
    }
}

/// One value by a function of its text.
struct Word<F>(F);

impl<'de, T, F: FnMut(&str) -> Result<T, String>> DeserializeSeed<'de> for Word<F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<T, D::Error> {
        json.deserialize_str(self)
    }
}

impl<T, F: FnMut(&str) -> Result<T, String>> Visitor<'_> for Word<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }
}

/// Any text.
#[expect(clippy::unnecessary_wraps, reason = "others of its kind can fail")]
fn text(word: &str) -> Result<String, String> {
    Ok(word.to_owned())
}

/// A value that is given once.
fn once<T, E: Error>(place: &mut Option<T>, name: &str, value: T) -> Result<(), E> {
    if place.replace(value).is_some() {
        return Err(E::custom(format!("{name} is given twice")));
    }
    Ok(())
}

/// Makes a type read a JSON object.
macro_rules! object {
    ($kind:ty => $value:ty, $expected:literal) => {
        impl<'de> DeserializeSeed<'de> for $kind {
            type Value = $value;

            fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<$value, D::Error> {
                json.deserialize_map(self)
            }
        }

        impl<'de> Visitor<'de> for $kind {
            type Value = $value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($expected)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<$value, A::Error> {
                self.read(map)
            }
        }
    };
}

/// A document.
struct Document<'a>(&'a Place<'a>);

object!(Document<'_> => Vec<Statement>, "an object with Version and Statement");

impl Document<'_> {
    fn read<'de, A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Statement>, A::Error> {
        let (mut version, mut statements) = (None, None);
        while let Some(key) = map.next_key_seed(Word(text))? {
            match key.as_str() {
                "Version" => {
                    let read = |text: &str| match text {
                        VERSION => Ok(()),
                        _ => Err(format!("Version: must be {VERSION:?}, not {text:?}")),
                    };
                    once(&mut version, "Version", map.next_value_seed(Word(read))?)?;
                }
                "Statement" => {
                    let read = map.next_value_seed(Statements(self.0))?;
                    once(&mut statements, "Statement", read)?;
                }
                _ => return Err(unknown(&key, "`Version` or `Statement`")),
            }
        }
        self.0.statement.set(0);
        if version.is_none() {
            return Err(A::Error::custom("Version is missing"));
        }
        statements.ok_or_else(|| A::Error::custom("Statement is missing"))
    }
}

/// The list of statements.
struct Statements<'a>(&'a Place<'a>);

impl<'de> DeserializeSeed<'de> for Statements<'_> {
    type Value = Vec<Statement>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Vec<Statement>, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Statements<'_> {
    type Value = Vec<Statement>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of statements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Statement>, A::Error> {
        let mut statements = Vec::new();
        self.0.statement.set(1);
        while let Some(statement) = list.next_element_seed(One(self.0))? {
            statements.push(statement);
            self.0.statement.set(self.0.statement.get() + 1);
        }
        self.0.statement.set(0);
        Ok(statements)
    }
}

/// A statement; without actions where it is about nothing that is here.
struct One<'a>(&'a Place<'a>);

object!(One<'_> => Statement, "a statement");

impl One<'_> {
    fn read<'de, A: MapAccess<'de>>(self, mut map: A) -> Result<Statement, A::Error> {
        let (mut effect, mut actions, mut resources, mut condition) = (None, None, None, None);
        while let Some(key) = map.next_key_seed(Word(text))? {
            match key.as_str() {
                "Effect" => once(
                    &mut effect,
                    "Effect",
                    map.next_value_seed(Word(self::effect))?,
                )?,
                "Action" => {
                    let words = map.next_value_seed(Words(self::actions))?;
                    let all = words.into_iter().fold(Actions::NONE, Actions::and);
                    once(&mut actions, "Action", all)?;
                }
                "Resource" => {
                    let read = |text: &str| self::resources(text, self.0.upstreams);
                    let words = map.next_value_seed(Words(read))?;
                    let all: Vec<Pattern> = words.into_iter().flatten().collect();
                    once(&mut resources, "Resource", all)?;
                }
                "Condition" => {
                    let read = map.next_value_seed(Conditions)?;
                    once(&mut condition, "Condition", read)?;
                }
                "NotAction" | "NotResource" => {
                    let why = format!(
                        "{key} is not taken here: it would also mean what nobody has thought of; write {} with what is meant",
                        key.trim_start_matches("Not")
                    );
                    return Err(A::Error::custom(why));
                }
                "Principal" | "NotPrincipal" => {
                    let why = format!(
                        "{key} is of a role's trust policy; write [[access.attach]] for whom a policy is"
                    );
                    return Err(A::Error::custom(why));
                }
                _ => {
                    let known = "one of `Effect`, `Action`, `Resource` and `Condition`";
                    return Err(unknown(&key, known));
                }
            }
        }
        let missing = |name: &str| A::Error::custom(format!("{name} is missing"));
        let mut statement = Statement {
            effect: effect.ok_or_else(|| missing("Effect"))?,
            actions: actions.ok_or_else(|| missing("Action"))?,
            resources: resources.ok_or_else(|| missing("Resource"))?,
            condition: condition.unwrap_or_default(),
        };
        if statement.resources.is_empty() {
            // About nothing that is here. It keeps its number.
            statement.actions = Actions::NONE;
            let nothing = Pattern::parse("repository/*").map_err(A::Error::custom)?;
            statement.resources.push(nothing);
        }
        Ok(statement)
    }
}

/// The conditions of a statement: keys by operators.
struct Conditions;

object!(Conditions => Condition, "an object of operators such as IpAddress");

impl Conditions {
    #[expect(
        clippy::unused_self,
        reason = "`object!` calls it as it calls the others"
    )]
    fn read<'de, A: MapAccess<'de>>(self, mut map: A) -> Result<Condition, A::Error> {
        let mut networks = None;
        while let Some(operator) = map.next_key_seed(Word(text))? {
            if !operator.eq_ignore_ascii_case("IpAddress") {
                let why = format!(
                    "Condition: operator {operator:?} is not known here, only `IpAddress` is"
                );
                return Err(A::Error::custom(why));
            }
            let read = map.next_value_seed(Sources)?;
            once(&mut networks, "Condition.IpAddress", read)?;
        }
        Ok(Condition {
            source_ip: networks.unwrap_or_default(),
            ..Condition::default()
        })
    }
}

/// The keys of `IpAddress`.
struct Sources;

object!(Sources => Vec<Network>, "an object with acs:SourceIp");

impl Sources {
    #[expect(
        clippy::unused_self,
        reason = "`object!` calls it as it calls the others"
    )]
    fn read<'de, A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Network>, A::Error> {
        let mut networks = None;
        while let Some(key) = map.next_key_seed(Word(text))? {
            if !key.eq_ignore_ascii_case("acs:SourceIp") {
                let why = format!(
                    "Condition.IpAddress: key {key:?} is not known here, only `acs:SourceIp` is"
                );
                return Err(A::Error::custom(why));
            }
            let read = |text: &str| {
                let network = text.parse::<Network>();
                network.map_err(|why| format!("Condition.IpAddress.acs:SourceIp: {text:?} {why}"))
            };
            let read = map.next_value_seed(Words(read))?;
            once(&mut networks, "Condition.IpAddress.acs:SourceIp", read)?;
        }
        // Without any it would hold for everybody.
        networks.ok_or_else(|| A::Error::custom("Condition.IpAddress: acs:SourceIp is missing"))
    }
}

fn effect(word: &str) -> Result<Effect, String> {
    match word.to_ascii_lowercase().as_str() {
        "allow" => Ok(Effect::Allow),
        "deny" => Ok(Effect::Deny),
        _ => Err(format!("Effect: must be `Allow` or `Deny`, not {word:?}")),
    }
}

/// The actions of a word; none for those of other services.
fn actions(word: &str) -> Result<Actions, String> {
    let wrong = |why: &str| format!("Action {word:?}: {why}");
    match word.split_once(':') {
        None if word == "*" => Ok(Action::ALL.into_iter().collect()),
        Some(("cr", _)) => Actions::parse(word).map_err(|why| wrong(&why)),
        Some((service, name)) if is_service(service) && !name.is_empty() => Ok(Actions::NONE),
        Some(_) | None => Err(wrong("must be `cr:` and a name, or `*`")),
    }
}

/// The patterns of a word; none for instances, charts and other services.
fn resources(word: &str, upstreams: &[String]) -> Result<Vec<Pattern>, String> {
    let wrong = |why: &str| format!("Resource {word:?}: {why}");
    if word.contains('?') || word.contains('$') {
        return Err(wrong("`*` alone stands for other characters here"));
    }
    let pattern = |text: &str| Pattern::parse(text).map_err(|why| wrong(&why));
    if word == "*" {
        return match upstreams {
            [] => CONTENT.into_iter().map(pattern).collect(),
            _ => everywhere("repository/*", upstreams, pattern),
        };
    }
    let parts: Vec<&str> = word.splitn(5, ':').collect();
    let ["acs", service, _region, _account, path] = parts.as_slice() else {
        return Err(wrong("must be `*` or acs:cr:<region>:<account>:<resource>"));
    };
    match *service {
        "cr" | "*" => {}
        service if is_service(service) => return Ok(Vec::new()),
        _ => return Err(wrong("names no service")),
    }
    if path.starts_with("instance/") || path.starts_with("chart/") {
        return Ok(Vec::new());
    }
    if *path == "*" && upstreams.is_empty() {
        return CONTENT.into_iter().map(pattern).collect();
    }
    let hosted = pattern(word)?;
    everywhere(hosted.as_str(), upstreams, pattern)
}

/// A pattern of hosted repositories, and the same of upstreams.
fn everywhere(
    hosted: &str,
    upstreams: &[String],
    pattern: impl Fn(&str) -> Result<Pattern, String>,
) -> Result<Vec<Pattern>, String> {
    let mut patterns = vec![pattern(hosted)?];
    if let Some(name) = hosted.strip_prefix("repository/") {
        for upstream in upstreams {
            patterns.push(pattern(&format!("mirror/{upstream}/{name}"))?);
        }
    }
    Ok(patterns)
}

/// True if a service of Alibaba Cloud may have this name.
fn is_service(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn unknown<E: Error>(key: &str, known: &str) -> E {
    E::custom(format!("key {key:?} is not known, expected {known}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The system policies, as Alibaba Cloud's documentation has them.
    const READ_ONLY: &str = r#"{
  "Statement": [
    { "Action": ["cr:Get*", "cr:List*", "cr:Pull*"], "Effect": "Allow", "Resource": "*" }
  ],
  "Version": "1"
}"#;
    const READ_ONLY_BEFORE: &str = r#"{ "Statement": [ { "Action": [ "cr:Get*", "cr:List*", "cr:PullRepository" ], "Effect": "Allow", "Resource": "*" } ], "Version": "1" }"#;
    const FULL: &str = r#"{ "Statement": [ { "Action": "cr:*", "Effect": "Allow", "Resource": "*" } ], "Version": "1" }"#;

    /// A statement in one line.
    fn shown(statements: &[Statement]) -> Vec<String> {
        let shown = |it: &Statement| {
            let actions: Vec<_> = it.actions.iter().map(Action::name).collect();
            let resources: Vec<_> = it.resources.iter().map(Pattern::as_str).collect();
            let effect = it.effect.name();
            format!("{effect} {} on {}", actions.join(" "), resources.join(" "))
        };
        statements.iter().map(shown).collect()
    }

    #[test]
    fn system_policies_mean_what_their_names_say() {
        for text in [READ_ONLY, READ_ONLY_BEFORE] {
            let read = parse(text, &[]).unwrap();
            assert_eq!(shown(&read), ["allow pull list on mirror/* repository/*"]);
        }
        let all = parse(FULL, &[]).unwrap();
        let expected = "allow pull push delete list admin on mirror/* repository/*";
        assert_eq!(shown(&all), [expected]);
        let acr = parse(FULL, &["acr.example".to_owned()]).unwrap();
        let expected = "allow pull push delete list admin on repository/* mirror/acr.example/*";
        assert_eq!(shown(&acr), [expected]);
    }

    #[test]
    fn a_policy_of_a_team_is_read_with_its_networks() {
        let text = r#"{ "Version": "1", "Statement": [
            { "Effect": "allow", "Action": "cr:PullRepository", "Resource": "acs:cr:*:*:repository/*/team/*",
              "Condition": { "IpAddress": { "acs:SourceIp": ["10.0.0.0/8", "192.168.1.1"] } } },
            { "Effect": "Deny", "Action": ["cr:DeleteRepository", "oss:GetObject"],
              "Resource": ["acs:cr:cn-hangzhou:1:repository/cri-1/team/app", "acs:oss:*:*:bucket/x"] },
            { "Effect": "Allow", "Action": ["ecs:*"], "Resource": "*" },
            { "Effect": "Allow", "Action": ["cr:ListInstance*"], "Resource": "acs:cr:*:*:instance/*" }
        ] }"#;
        let read = parse(text, &["acr.example".to_owned()]).unwrap();
        let expected = [
            "allow pull on repository/team/* mirror/acr.example/team/*",
            "deny delete on repository/team/app mirror/acr.example/team/app",
            "allow  on repository/* mirror/acr.example/*",
            "allow  on repository/*",
        ];
        assert_eq!(shown(&read), expected);
        let networks: Vec<String> = read[0]
            .condition
            .source_ip
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(networks.len(), 2, "{networks:?}");
    }

    #[test]
    fn what_is_not_known_is_an_error_with_its_place() {
        let statement = |rest: &str| {
            format!(
                "{{ \"Version\": \"1\",\n\"Statement\": [\n{{ \"Effect\": \"Allow\", \"Action\": \"cr:Pull*\", \"Resource\": \"*\" }},\n{{ {rest} }}\n] }}"
            )
        };
        let whole = r#""Effect": "Allow", "Action": "cr:Pull*", "Resource": "*""#;
        let table = [
            (format!(r#"{whole}, "Condition": {{ "StringEquals": {{ "acs:SourceIp": "10.0.0.1" }} }}"#), r#"operator "StringEquals""#),
            (format!(r#"{whole}, "Condition": {{ "NotIpAddress": {{ "acs:SourceIp": "10.0.0.1" }} }}"#), r#"operator "NotIpAddress""#),
            (format!(r#"{whole}, "Condition": {{ "IpAddress": {{ "acs:VpcSourceIp": "10.0.0.1" }} }}"#), r#"key "acs:VpcSourceIp""#),
            (format!(r#"{whole}, "Condition": {{ "IpAddress": {{ "acs:SourceIp": "ten" }} }}"#), r#"acs:SourceIp: "ten""#),
            (format!(r#"{whole}, "Condition": {{ "IpAddress": {{ "acs:SourceIp": [] }} }}"#), "is empty"),
            (format!(r#"{whole}, "Condition": {{ "IpAddress": {{ }} }}"#), "acs:SourceIp is missing"),
            (format!(r#"{whole}, "Condition": {{ "IpAddress": {{ "acs:SourceIp": "10.0.0.1", "acs:SourceIp": "10.0.0.2" }} }}"#), "given twice"),
            (format!("{whole}, {whole}"), "Effect is given twice"),
            (format!(r#"{whole}, "Sid": "x""#), r#"key "Sid" is not known"#),
            (format!(r#"{whole}, "Principal": "*""#), "Principal is of a role"),
            (r#""Effect": "Allow", "NotAction": "cr:Pull*", "Resource": "*""#.to_owned(), "NotAction is not taken"),
            (r#""Effect": "Allow", "Action": "cr:Pull*", "NotResource": "*""#.to_owned(), "NotResource is not taken"),
            (r#""Effect": "Permit", "Action": "cr:Pull*", "Resource": "*""#.to_owned(), "Effect: must be"),
            (r#""Action": "cr:Pull*", "Resource": "*""#.to_owned(), "Effect is missing"),
            (r#""Effect": "Allow", "Resource": "*""#.to_owned(), "Action is missing"),
            (r#""Effect": "Allow", "Action": "cr:Pull*""#.to_owned(), "Resource is missing"),
            (r#""Effect": "Allow", "Action": "cr:Fly", "Resource": "*""#.to_owned(), r#"Action "cr:Fly""#),
            (r#""Effect": "Allow", "Action": "pull", "Resource": "*""#.to_owned(), r#"Action "pull""#),
            (r#""Effect": "Allow", "Action": "cr:*Repository", "Resource": "*""#.to_owned(), r#"Action "cr:*Repository""#),
            (r#""Effect": "Allow", "Action": 1, "Resource": "*""#.to_owned(), "expected text or a list of texts"),
            (r#""Effect": "Allow", "Action": [], "Resource": "*""#.to_owned(), "is empty"),
            (r#""Effect": "Allow", "Action": "cr:Pull*", "Resource": "acs:cr:*:*:repository/*/a?/*""#.to_owned(), "`*` alone"),
            (r#""Effect": "Allow", "Action": "cr:Pull*", "Resource": "mirror/*""#.to_owned(), "must be `*` or acs:cr:"),
        ];
        for (rest, expected) in table {
            let why = parse(&statement(&rest), &[]).expect_err(&rest);
            assert!(why.contains(expected), "{rest}: {why}");
            assert!(why.starts_with("line 4, column "), "{rest}: {why}");
            assert!(why.contains(": statement 2: "), "{rest}: {why}");
        }
        for (text, expected) in [
            ("{", "line 1"),
            ("[]", "expected an object with Version and Statement"),
            (r#"{ "Version": "2" }"#, "must be \"1\", not \"2\""),
            (r#"{ "Version": "1" }"#, "Statement is missing"),
            (r#"{ "Statement": [] }"#, "Version is missing"),
            (r#"{ "Version": "1", "Statement": [] } x"#, "trailing"),
            (
                r#"{ "Version": "1", "Statements": [] }"#,
                "key \"Statements\"",
            ),
        ] {
            let why = parse(text, &[]).expect_err(text);
            assert!(
                why.contains(expected) && !why.contains("statement 0"),
                "{text}: {why}"
            );
        }
        let long = " ".repeat(DOCUMENT_BYTES_MAX + 1);
        assert!(parse(&long, &[]).unwrap_err().contains("more than"));
    }
}
