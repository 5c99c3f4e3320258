//! Credentials as clients send them (RFC 9110 section 11.6.2, RFC 7617, RFC 6750).

use super::people::People;
use crate::net::Secret;
use crate::telemetry::AuthMethod;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The longest value of `Authorization` that is looked at: a token of an identity provider with many groups has some
/// 8 KB.
const BYTES_MAX: usize = 32 * 1024;

/// So much of a name is recorded: more than a user's may have.
const NAME_BYTES_RECORDED: usize = 256;

/// A client's word on who it is.
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
    /// The kind that they seem to be, and the user name that comes with them: for records, before anything is checked.
    #[must_use]
    pub fn claim(&self) -> (AuthMethod, Option<&str>) {
        match self {
            Self::Basic { user, password } => claim(user, password),
            Self::Bearer(_) => (AuthMethod::Token, None),
        }
    }

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

/// The kind that a password seems to be, and the name as far as it is recorded.
pub(super) fn claim<'n>(user: &'n str, password: &Secret) -> (AuthMethod, Option<&'n str>) {
    let method = if People::is_token(password.expose()) {
        AuthMethod::Token
    } else {
        AuthMethod::Password
    };
    let shortened = user.get(..user.floor_char_boundary(NAME_BYTES_RECORDED));
    (method, shortened)
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
