//! `WWW-Authenticate` (RFC 9110 section 11.6.1; distribution, docs/spec/auth/token.md).

/// The most challenges of one response that are looked at. Registries send one or two.
const CHALLENGES_MAX: usize = 16;

/// A challenge that roadstead can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// Fetch a token at `realm`.
    Bearer {
        /// The token server's URL, as written.
        realm: String,
        /// `service`, if given.
        service: Option<String>,
        /// `scope`, if given.
        scope: Option<String>,
        /// `error`, such as `insufficient_scope`.
        error: Option<String>,
    },
    /// Send the username and password.
    Basic,
}

impl Challenge {
    /// Size of its texts, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Basic => 0,
            Self::Bearer {
                realm,
                service,
                scope,
                error,
            } => {
                let others = [service, scope, error].into_iter().flatten();
                realm.len() + others.map(String::len).sum::<usize>()
            }
        }
    }
}

/// The challenges in the `WWW-Authenticate` headers of one response, those roadstead cannot answer left out.
///
/// All that RFC 9110 section 11 allows is understood: several challenges in a header, several headers, empty list
/// members, `token68`, spaces around `=`, quoted pairs, parameters in any order. So is what servers send besides:
/// values that should have been quoted. What is no challenge is skipped up to the next comma.
#[must_use]
pub fn parse<'a>(values: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    let mut found: Vec<Found<'a>> = Vec::new();
    for value in values {
        let mut rest = Cursor(value);
        while rest.skip_to_member() {
            let Some(name) = rest.token() else {
                rest.skip_member();
                continue;
            };
            if rest.equals_sign() {
                // A list of headers is one list (RFC 9110 section 5.3): it may go on in the next one.
                let value = rest.value();
                if let (Some(last), Some(value)) = (found.last_mut(), value) {
                    last.take(name, value);
                }
            } else if found.len() == CHALLENGES_MAX {
                return answerable(found);
            } else {
                rest.skip_token68();
                found.push(Found::of(name));
            }
        }
    }
    answerable(found)
}

fn answerable(found: Vec<Found<'_>>) -> Vec<Challenge> {
    found.into_iter().filter_map(Found::answerable).collect()
}

/// A challenge as it is read: the parameters that mean something here.
struct Found<'a> {
    scheme: &'a str,
    realm: Option<String>,
    service: Option<String>,
    scope: Option<String>,
    error: Option<String>,
}

impl<'a> Found<'a> {
    fn of(scheme: &'a str) -> Self {
        Self {
            scheme,
            realm: None,
            service: None,
            scope: None,
            error: None,
        }
    }

    /// The first of a name counts. An empty value says nothing: `scope=""` is sent for `/v2/` by some registries.
    fn take(&mut self, name: &str, value: String) {
        let known = [
            ("realm", &mut self.realm),
            ("service", &mut self.service),
            ("scope", &mut self.scope),
            ("error", &mut self.error),
        ];
        let slot = known
            .into_iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(known));
        if let Some((_, slot @ None)) = slot
            && !value.is_empty()
        {
            *slot = Some(value);
        }
    }

    /// A challenge of a known scheme; schemes and parameter names compare without case.
    fn answerable(self) -> Option<Challenge> {
        if self.scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !self.scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        Some(Challenge::Bearer {
            realm: self.realm?,
            service: self.service,
            scope: self.scope,
            error: self.error,
        })
    }
}

/// The part that is left of a header's value.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    /// Past spaces and commas; whether there is anything.
    fn skip_to_member(&mut self) -> bool {
        self.0 = self.0.trim_start_matches([' ', '\t', ',']);
        !self.0.is_empty()
    }

    /// A token, if there is one.
    fn token(&mut self) -> Option<&'a str> {
        let token = self.take_while(is_token_char);
        (!token.is_empty()).then_some(token)
    }

    /// An equals sign and the spaces around it, if there is one: what was before it is a parameter's name.
    fn equals_sign(&mut self) -> bool {
        let Some(rest) = self.0.trim_start_matches([' ', '\t']).strip_prefix('=') else {
            return false;
        };
        self.0 = rest.trim_start_matches([' ', '\t']);
        true
    }

    /// The value of a parameter; `None`: its quote has no end.
    fn value(&mut self) -> Option<String> {
        let Some(quoted) = self.0.strip_prefix('"') else {
            return Some(
                self.take_while(|c| !matches!(c, ',' | ' ' | '\t'))
                    .to_owned(),
            );
        };
        let mut text = String::new();
        let mut characters = quoted.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.0 = quoted.get(at + 1..).unwrap_or_default();
                    return Some(text);
                }
                '\\' => text.extend(characters.next().map(|(_, escaped)| escaped)),
                _ => text.push(character),
            }
        }
        self.0 = "";
        None
    }

    /// Past the `token68` of a scheme, if that is what comes next.
    fn skip_token68(&mut self) {
        let mut ahead = Cursor(self.0.trim_start_matches([' ', '\t']));
        let text = ahead.take_while(|c| c.is_ascii_alphanumeric() || "-._~+/".contains(c));
        if text.is_empty() {
            return;
        }
        ahead.take_while(|c| c == '=');
        ahead.0 = ahead.0.trim_start_matches([' ', '\t']);
        if ahead.0.is_empty() || ahead.0.starts_with(',') {
            *self = ahead;
        }
    }

    /// Past what cannot be read, up to the next comma that is not quoted.
    fn skip_member(&mut self) {
        let mut quoted = false;
        let end = self.0.char_indices().skip(1).find(|(_, character)| {
            quoted ^= *character == '"';
            *character == ',' && !quoted
        });
        self.0 = end.and_then(|(at, _)| self.0.get(at..)).unwrap_or_default();
    }

    fn take_while(&mut self, accepted: impl Fn(char) -> bool) -> &'a str {
        let end = self.0.find(|c| !accepted(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }
}

/// RFC 9110 section 5.6.2.
fn is_token_char(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(value: &str) -> Vec<Challenge> {
        parse([value].into_iter())
    }

    fn bearer(realm: &str, rest: [Option<&str>; 3]) -> Challenge {
        let [service, scope, error] = rest.map(|text| text.map(str::to_owned));
        Challenge::Bearer {
            realm: realm.to_owned(),
            service,
            scope,
            error,
        }
    }

    #[test]
    fn the_challenges_of_known_registries_are_read() {
        // Docker Hub
        assert_eq!(
            one(
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull""#
            ),
            [bearer(
                "https://auth.docker.io/token",
                [
                    Some("registry.docker.io"),
                    Some("repository:library/nginx:pull"),
                    None
                ]
            )]
        );
        // A scope of several actions, and an error
        assert_eq!(
            one(
                r#"bearer Realm="https://a/t", scope="repository:a:pull,push", error="insufficient_scope""#
            ),
            [bearer(
                "https://a/t",
                [
                    None,
                    Some("repository:a:pull,push"),
                    Some("insufficient_scope")
                ]
            )]
        );
        // ECR, distribution with htpasswd
        assert_eq!(one(r#"Basic realm="Registry Realm""#), [Challenge::Basic]);
        assert_eq!(one("BASIC"), [Challenge::Basic]);
    }

    #[test]
    fn several_challenges_come_in_one_header_or_in_many() {
        let both = [bearer("https://a/t", [None; 3]), Challenge::Basic];
        assert_eq!(one(r#"Bearer realm="https://a/t", Basic realm="x""#), both);
        let values = [r#"Bearer realm="https://a/t""#, r#"Basic realm="x""#];
        assert_eq!(parse(values.into_iter()), both);
        let values = [r#"Negotiate, Digest realm="x""#, values[0], values[1]];
        assert_eq!(parse(values.into_iter()), both);
    }

    #[test]
    fn quoted_pairs_are_unescaped() {
        assert_eq!(
            one(r#"Bearer realm="https://a/\"t\"",service="""#),
            [bearer("https://a/\"t\"", [None; 3])]
        );
    }

    #[test]
    fn whatever_is_legal_is_understood_and_some_more() {
        let plain = || bearer("https://a/t", [Some("s"), None, None]);
        for value in [
            r#"Bearer realm="https://a/t",service="s""#,
            r#"bEaReR SERVICE = "s" , REALM	=	"https://a/t""#,
            r#", ,Bearer  service=s,,realm="https://a/t", ,"#,
            r#"Bearer hint="x y, z=\"q\"" , realm="https://a/t",service="s""#,
            r#"Bearer max_age=5, realm="https:\/\/a\/t", service="\s", nonce=ab=="#,
            "Bearer realm=https://a/t, service=s",
            "Bearer service=s realm=https://a/t",
            r#"Bearer realm="https://a/t",realm="https://b/t",service="s",service="o""#,
            r#"Negotiate YII+/abc==, Bearer realm="https://a/t",service="s""#,
            r#"Negotiate abc , Bearer realm="https://a/t",service="s""#,
            r#"Digest qop="auth, auth-int", nonce="x\"", Bearer realm="https://a/t",service="s""#,
            r#"@@ "no, challenge", Bearer realm="https://a/t",service="s""#,
        ] {
            assert_eq!(one(value), [plain()], "{value}");
        }
        // Basic first, and parameters that go on in the next header.
        let values = [
            r#"Basic realm="Registry, \"v2\"", charset="UTF-8", Bearer realm="https://a/t""#,
            r#"service="s""#,
        ];
        let both = [Challenge::Basic, plain()];
        assert_eq!(parse(values.into_iter()), both);
        assert_eq!(
            one(r#"Basic dGVzdA==,bearer service="s",realm="https://a/t""#),
            both
        );
    }

    #[test]
    fn what_cannot_be_answered_is_left_out() {
        for value in [
            "",
            "Bearer",
            r#"Bearer service="x""#,
            r#"Bearer realm="""#,
            "Negotiate",
            "Bearer realm=",
            r#"Bearer realm="https://a/t"#,
            "\"",
        ] {
            assert_eq!(one(value), [], "{value:?}");
        }
        assert_eq!(
            one("Basic realm=\"x\", Negotiate, =broken"),
            [Challenge::Basic]
        );
    }

    #[test]
    fn their_number_is_bounded() {
        let many = "Basic realm=x, ".repeat(1000);
        assert_eq!(one(&many).len(), CHALLENGES_MAX);
    }

    proptest! {
        #[test]
        fn a_printed_challenge_is_read(realm in "https://[a-z.]{1,20}/[a-z]{0,5}", scope in "[a-z:/,* ]{1,40}") {
            let value = format!("Bearer realm=\"{realm}\",scope=\"{scope}\"");
            prop_assert_eq!(one(&value), [bearer(&realm, [None, Some(&scope), None])]);
        }

        /// Any scheme, parameters in any order, spacing and quoting as they like.
        #[test]
        fn challenges_are_read_however_they_are_written(
            before in "(Negotiate( [A-Za-z0-9+/]{1,9}={0,2})?|Digest a=\"[a-z, =]{0,9}\")?",
            commas in "[ ,]{0,4}", space in "[ \t]{0,2}", quoted: bool, swapped: bool,
            service in "[a-z0-9.-]{1,9}",
        ) {
            let mut parameters = [
                format!("realm{space}={space}\"https://a/t\""),
                format!("service{space}={space}{}", if quoted { format!("\"{service}\"") } else { service.clone() }),
            ];
            if swapped { parameters.reverse(); }
            let between = if before.is_empty() { "" } else { "," };
            let value = format!("{commas}{before}{between}{commas}Bearer {}", parameters.join(&format!(",{commas}")));
            prop_assert_eq!(one(&value), [bearer("https://a/t", [Some(&service), None, None])], "{}", value);
        }

        #[test]
        fn no_header_makes_the_parser_panic(value in "(Bearer|Basic)?[ a-z=\",\\\\]{0,40}|\\PC{0,40}") {
            prop_assert!(one(&value).len() <= CHALLENGES_MAX);
        }
    }
}
