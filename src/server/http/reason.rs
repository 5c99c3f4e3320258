//! The reason of an upstream's failure, in words that a client may read: no address, URL, login or text of anybody
//! else's.

use crate::mirror::{FetchError, MirrorError};
use std::borrow::Cow;

/// Whose fault an error is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The client's, or this mirror's.
    Ours,
    /// That of the upstream that was asked, with the reason, if there is more to say than what happened.
    Upstream(Option<Cow<'static, str>>),
}

/// Whose fault it is that the mirror failed.
pub(crate) fn of(error: &MirrorError) -> Whose {
    match error {
        MirrorError::Upstream(error) | MirrorError::Timeout(error) => Whose::Upstream(why(error)),
        MirrorError::Unauthorized
        | MirrorError::Challenged(_)
        | MirrorError::Denied
        | MirrorError::RateLimited { .. }
        | MirrorError::WrongContent { .. }
        | MirrorError::ManifestInvalid(_) => Whose::Upstream(None),
        MirrorError::ManifestUnknown
        | MirrorError::NameUnknown
        | MirrorError::BlobUnknown
        | MirrorError::ImportGone(..)
        | MirrorError::Remembered(_)
        | MirrorError::Loop(_)
        | MirrorError::Busy(_)
        | MirrorError::Limited(_)
        | MirrorError::ShuttingDown
        | MirrorError::NotStored { .. }
        | MirrorError::Store(_) => Whose::Ours,
    }
}

fn why(error: &FetchError) -> Option<Cow<'static, str>> {
    let fixed = |text: &'static str| Some(Cow::Borrowed(text));
    match error {
        FetchError::Status(status) => Some(format!("it answered status {status}").into()),
        FetchError::Unavailable { .. } => fixed("it answered status 503"),
        FetchError::Timeout(what) => Some(format!("timed out waiting for {what}").into()),
        FetchError::Connect(why) => fixed(connect(why)),
        FetchError::Broken(_) => fixed("the connection broke"),
        FetchError::TooLarge { what, limit } => {
            Some(format!("{what} is larger than {limit} bytes").into())
        }
        FetchError::Protocol(why) => fixed(nonsense(why)),
        FetchError::Login(_) | FetchError::LoginRefused(_) => {
            fixed("this mirror's login for it cannot be had")
        }
        FetchError::Token(_) => fixed("its token server failed"),
        FetchError::Inside(_) => fixed("it leads to where nobody may follow"),
        FetchError::Ourselves(_) => fixed("its address is this mirror's own"),
        FetchError::NotFound { .. }
        | FetchError::Unauthorized
        | FetchError::Challenged(_)
        | FetchError::Denied
        | FetchError::RateLimited { .. }
        | FetchError::RangeNotSatisfiable
        | FetchError::Loop(_)
        | FetchError::Busy
        | FetchError::Limited => None,
    }
}

/// Finds the one of a few sentences that means the same as the operating system's or a library's.
fn first_of(why: &str, known: &[(&str, &'static str)], otherwise: &'static str) -> &'static str {
    let why = why.to_ascii_lowercase();
    let found = known.iter().find(|(words, _)| why.contains(words));
    found.map_or(otherwise, |(_, sentence)| sentence)
}

fn connect(why: &str) -> &'static str {
    let known = [
        ("proxy", "the proxy on the way to it failed"),
        ("refused", "connection refused"),
        ("certificate", "its certificate is not accepted"),
        ("tls", "the TLS handshake failed"),
        ("handshake", "the TLS handshake failed"),
        ("lookup", "its name cannot be resolved"),
        ("resolve", "its name cannot be resolved"),
        ("name or service", "its name cannot be resolved"),
        ("no address", "its name has no address"),
        ("unreachable", "no route to it"),
        ("no route", "no route to it"),
        ("timed out", "the connection timed out"),
        ("reset", "the connection broke"),
    ];
    first_of(why, &known, "no connection")
}

fn nonsense(why: &str) -> &'static str {
    let known = [
        ("redirect", "it redirects to where nobody may follow"),
        ("token realm", "it names a token server that is not asked"),
        ("web page", "it answered with a web page"),
    ];
    first_of(why, &known, "its answer makes no sense")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_somebody_else_wrote_is_told() {
        let secret =
            "10.1.2.3:3128 https://cdn.example/x?X-Amz-Signature=abc robot:hunter2 \u{1b}[31m";
        let text = |before: &str| format!("{before} {secret}");
        for (error, expected) in [
            (
                FetchError::Connect(text("Connection refused (os error 111)")),
                "connection refused",
            ),
            (
                FetchError::Connect(text("invalid peer certificate: Expired")),
                "its certificate is not accepted",
            ),
            (
                FetchError::Connect(text("failed to lookup address information")),
                "its name cannot be resolved",
            ),
            (FetchError::Connect(text("?")), "no connection"),
            (FetchError::Broken(text("x")), "the connection broke"),
            (
                FetchError::Protocol(text("bad redirect:")),
                "it redirects to where nobody may follow",
            ),
            (FetchError::Protocol(text("x")), "its answer makes no sense"),
            (
                FetchError::Login(text("x")),
                "this mirror's login for it cannot be had",
            ),
            (FetchError::Token(text("x")), "its token server failed"),
            (FetchError::Status(500), "it answered status 500"),
            (
                FetchError::Timeout("a head"),
                "timed out waiting for a head",
            ),
        ] {
            assert_eq!(
                of(&MirrorError::Upstream(error)),
                Whose::Upstream(Some(expected.into()))
            );
        }
        assert_eq!(of(&MirrorError::Store(text("x"))), Whose::Ours);
        assert_eq!(
            of(&MirrorError::ManifestInvalid(text("x"))),
            Whose::Upstream(None)
        );
    }
}
