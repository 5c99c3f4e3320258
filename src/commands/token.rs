//! The token of an operator, for servers that ask who he is.

use http::HeaderValue;
use url::{Host, Url};

use super::output::complain;

/// The variable with the token.
const TOKEN_VARIABLE: &str = "ROADSTEAD_TOKEN";

/// The value of `Authorization` for a server, if the environment has a token. It is said where that can be read on the
/// way there.
///
/// # Errors
/// One line: the token is none.
pub(super) fn authorization(base: &Url) -> Result<Option<HeaderValue>, String> {
    let token = token()?;
    if token.is_some() && base.scheme() == "http" && !is_near(base) {
        let to = base.authority();
        complain(&format!(
            "the token of {TOKEN_VARIABLE} goes to {to} unencrypted, where others on the network can read it"
        ));
    }
    Ok(token)
}

/// The value of `Authorization`, if the environment has a token.
fn token() -> Result<Option<HeaderValue>, String> {
    let Some(token) = std::env::var_os(TOKEN_VARIABLE).filter(|token| !token.is_empty()) else {
        return Ok(None);
    };
    // The value is not repeated: it is a secret.
    let wrong = || format!("{TOKEN_VARIABLE} is no token");
    let token = token.to_str().ok_or_else(wrong)?.trim();
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// True if a URL leads to this machine.
fn is_near(base: &Url) -> bool {
    match base.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    }
}
