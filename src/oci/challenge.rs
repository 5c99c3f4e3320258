//! `WWW-Authenticate` (RFC 9110 section 11.6.1; distribution, docs/spec/auth/token.md). Uses the crate `http-auth`.

use http_auth::{ChallengeRef, parser::ChallengeParser};

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

/// The challenges in the `WWW-Authenticate` headers of one response, those roadstead cannot answer
/// left out. Of a value with a fault in it, the challenges that end before the fault are taken.
#[must_use]
pub fn parse<'a>(values: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    values
        .flat_map(|value| ChallengeParser::new(value).map_while(Result::ok))
        .take(CHALLENGES_MAX)
        .filter_map(|challenge| answerable(&challenge))
        .collect()
}

/// A challenge of a known scheme; schemes and parameter names compare without case.
fn answerable(challenge: &ChallengeRef<'_>) -> Option<Challenge> {
    if challenge.scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !challenge.scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    // An empty value says nothing: `scope=""` is sent for `/v2/` by some registries.
    let parameter = |name: &str| {
        let (_, value) = challenge
            .params
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value.to_unescaped()).filter(|value| !value.is_empty())
    };
    Some(Challenge::Bearer {
        realm: parameter("realm")?,
        service: parameter("service"),
        scope: parameter("scope"),
        error: parameter("error"),
    })
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
    fn what_cannot_be_answered_is_left_out() {
        for value in [
            "",
            "Bearer",
            r#"Bearer service="x""#,
            r#"Bearer realm="""#,
            "Negotiate",
            "Bearer realm=https://a/t",
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

        #[test]
        fn no_header_makes_the_parser_panic(value in "(Bearer|Basic)?[ a-z=\",\\\\]{0,40}|\\PC{0,40}") {
            prop_assert!(one(&value).len() <= CHALLENGES_MAX);
        }
    }
}
