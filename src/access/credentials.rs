//! Credentials as clients send them (RFC 9110 section 11.6.2, RFC 7617, RFC 6750).

use crate::net::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The longest value of `Authorization` that is looked at: a token of an identity provider with many groups has some
/// 8 KB.
const BYTES_MAX: usize = 32 * 1024;

/// What a client says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password, or a token in the place of one.
    Basic {
        /// The user name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token.
    Bearer(Secret),
}

impl Credentials {
    /// Reads a value of `Authorization`; `None` where it is none of a scheme that is taken here.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        if value.len() > BYTES_MAX {
            return None;
        }
        let (scheme, rest) = value.split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Bearer(Secret::new(rest.to_owned())));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = STANDARD.decode(rest).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (user, password) = text.split_once(':')?;
        Some(Self::Basic {
            user: user.to_owned(),
            password: Secret::new(password.to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_schemes_are_read_and_nothing_else() {
        let basic = |user: &str, password: &str| {
            Some(Credentials::Basic {
                user: user.to_owned(),
                password: Secret::new(password.to_owned()),
            })
        };
        let encode = |text: &str| format!("Basic {}", STANDARD.encode(text));
        assert_eq!(
            Credentials::parse(&encode("alice:a:b")),
            basic("alice", "a:b")
        );
        assert_eq!(Credentials::parse(&encode("alice:")), basic("alice", ""));
        assert_eq!(
            Credentials::parse("bearer x.y.z"),
            Some(Credentials::Bearer(Secret::new("x.y.z".to_owned())))
        );
        for value in [
            "",
            "Basic",
            "Basic !",
            &encode("alice"),
            "Digest x=y",
            "Bearer",
        ] {
            assert_eq!(Credentials::parse(value), None, "{value}");
        }
        let long = format!("Bearer {}", "x".repeat(BYTES_MAX));
        assert_eq!(Credentials::parse(&long), None);
    }
}
