//! Answers that send a client to the object store.

use super::door::Visitor;
use super::named::Named;
use super::reply::{CACHE_STATUS, EntityTag, Reply};
use crate::mirror::{Mirror, Source};
use crate::oci::Route;
use crate::oci::route::Action;
use crate::server::http::access_log::Exchange;
use crate::server::http::body::Content;
use crate::server::http::context::Request;
use crate::telemetry::Outcome;
use http::{StatusCode, header};

/// Sends a client to the object store for a blob that everybody may have. HEAD is answered here: a URL that is signed for
/// GET takes no other.
pub(super) async fn send(
    mirror: &Mirror,
    request: &Request<'_>,
    source: &Source,
    named: Named<'_>,
    visitor: Option<&Visitor<'_>>,
    exchange: &Exchange,
) -> Option<Reply> {
    let Route::Blob { digest, .. } = &request.route else {
        return None;
    };
    if request.action != Action::Read || exchange.of_node {
        return None;
    }
    if !visitor.is_none_or(|it| it.everybody_may(named.action, source)) {
        return None;
    }
    let visibility = mirror.visibility();
    if visibility.hides_something() {
        let seen = visibility.may_be_seen(source, named.sought.into(), false);
        Box::pin(seen).await.ok()?;
    }
    let client = exchange.client_id().address.ip()?;
    let url = Box::pin(mirror.elsewhere().url(source, digest, client)).await?;
    // Clients send their credentials on to the same host, and to those below it, whatever the port: and stores take no
    // second kind of proof.
    if is_near(url.host_str()?, request.host.unwrap_or_default()) {
        tracing::debug!(
            host = url.host_str(),
            "the object store has the host name that the client asked: it is not sent there"
        );
        return None;
    }
    let tag = EntityTag::new(digest);
    let status = StatusCode::TEMPORARY_REDIRECT;
    let mut reply = Reply::new(status, Content::Empty, Outcome::Bypass);
    reply.describe_blob(tag);
    reply.set(header::LOCATION, url.to_string());
    reply.set(header::CACHE_CONTROL, "no-store".to_owned());
    reply.set(
        CACHE_STATUS,
        format!("{}; detail=redirect", Outcome::Bypass.cache_status()),
    );
    Some(reply)
}

/// True if a host is the one that was asked, or below it.
fn is_near(host: &str, asked: &str) -> bool {
    let name = match asked.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => asked.split(':').next().unwrap_or_default(),
    };
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    host == name || host.strip_suffix(&name).is_some_and(|it| it.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::is_near;

    #[test]
    fn a_host_below_the_one_asked_is_near() {
        for (host, asked, near) in [
            ("mirror.corp", "mirror.corp:5000", true),
            ("s3.mirror.corp", "Mirror.Corp", true),
            ("127.0.0.1", "127.0.0.1:5000", true),
            ("[::1]", "[::1]:5000", true),
            ("s3.corp", "mirror.corp:5000", false),
            ("notmirror.corp", "mirror.corp", false),
            ("127.0.0.1", "localhost:5000", false),
        ] {
            assert_eq!(is_near(host, asked), near, "{host} {asked}");
        }
    }
}
