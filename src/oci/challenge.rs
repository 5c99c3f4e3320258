//! `WWW-Authenticate` (RFC 9110 section 11.6.1; distribution, docs/spec/auth/token.md). Uses the crate `http-auth`.

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
/// left out.
#[must_use]
pub fn parse<'a>(values: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    todo!()
}
