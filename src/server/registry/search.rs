//! `docker search HOST/TERM`: what the list of repositories shows, as dockerd has asked for it since the first version of
//! the API (moby, `registry/search.go` and `registry/endpoint_v1.go`): `/v1/_ping`, then `/v1/search`.

use super::arrival::Caller;
use super::door::Visitor;
use super::handler::{Entered, Handler};
use super::reply::Reply;
use crate::oci::Page;
use crate::server::http::JSON;
use crate::server::http::access_log::Exchange;
use crate::server::http::context::{Request, Transport};
use crate::server::http::error::ApiError;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Uri, request};
use serde::Serialize;
use url::form_urlencoded;

const PING: &str = "/v1/_ping";
const SEARCH: &str = "/v1/search";

/// The list whose rules hold.
const CATALOG: &str = "/v2/_catalog";

/// Results of one answer: as many as dockerd asks for at most, and as many as it gets if it does not say.
const RESULTS_MAX: usize = 100;
const RESULTS_DEFAULT: usize = 25;

/// The longest text that is looked for: that of a name.
const TERM_BYTES_MAX: usize = 255;

/// Pages of the list that one search goes through, of a thousand repositories each: behind these nothing is found.
const PAGES_MAX: usize = 20;

const STANDALONE: HeaderName = HeaderName::from_static("x-docker-registry-standalone");

/// An answer (docker/docs, "Docker Registry v1", Search).
#[derive(Debug, Default, Serialize)]
struct Found {
    query: String,
    num_results: usize,
    num_pages: usize,
    page: usize,
    page_size: usize,
    results: Vec<Entry>,
}

/// A repository. Nobody describes one here, or gives it stars.
#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    description: &'static str,
    star_count: u64,
    is_official: bool,
    is_automated: bool,
}

/// The parameters of a search.
#[derive(Debug, PartialEq, Eq)]
struct Search {
    term: String,
    limit: usize,
    /// The first is 1.
    page: usize,
}

/// True if a path is one of a search.
pub(super) fn is_search(path: &str) -> bool {
    matches!(path, PING | SEARCH)
}

/// The head of the request for the list of repositories, in the place of a search: whoever may ask for the one may ask for the
/// other, and is shown the same.
///
/// # Errors
/// It is no GET.
fn as_list(head: &request::Parts) -> Result<request::Parts, ApiError> {
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return Err(ApiError::no_such_method("GET"));
    }
    let mut list = head.clone();
    let mut parts = std::mem::take(&mut list.uri).into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static(CATALOG));
    list.uri = Uri::from_parts(parts).unwrap_or_else(|_| Uri::from_static(CATALOG));
    Ok(list)
}

impl Handler {
    /// Answers a search.
    pub(super) async fn search(
        &self,
        head: &request::Parts,
        caller: &Caller<'_>,
        transport: Transport,
        exchange: &mut Exchange,
    ) -> Result<Reply, ApiError> {
        let list = as_list(head)?;
        let entered = self.enter(&list, caller, transport, exchange).await?;
        let Entered {
            request, visitor, ..
        } = entered;
        // At the name of an upstream this is that upstream, which is not asked.
        if request.stands_in_for.is_some() {
            return Err(ApiError::no_repository());
        }
        if head.uri.path() == PING {
            let mut reply = Reply::own(JSON, Bytes::from_static(b"{\"standalone\":true}"));
            // dockerd sends its login to such a one alone.
            let yes = HeaderValue::from_static("true");
            reply.headers.insert(STANDALONE, yes);
            return Ok(reply);
        }
        let search = Search::parse(head.uri.query().unwrap_or_default())?;
        let found = self.look_for(search, &request, visitor.as_ref(), caller);
        let found = found.await?;
        let body = serde_json::to_vec(&found).unwrap_or_default();
        Ok(Reply::own(JSON, Bytes::from(body)))
    }

    async fn look_for(
        &self,
        search: Search,
        request: &Request<'_>,
        visitor: Option<&Visitor<'_>>,
        caller: &Caller<'_>,
    ) -> Result<Found, ApiError> {
        let first = search.page.saturating_sub(1).saturating_mul(search.limit);
        let mut found = Found {
            page: search.page,
            page_size: search.limit,
            ..Found::default()
        };
        let mut page = Page::default();
        for _ in 0..PAGES_MAX {
            let (repositories, next) = self.listed(&page, request, visitor, caller).await?;
            page.last = repositories.last().cloned();
            for name in repositories {
                if !name.contains(&search.term) {
                    continue;
                }
                if found.num_results >= first && found.results.len() < search.limit {
                    found.results.push(Entry::of(name));
                }
                found.num_results += 1;
            }
            if next.is_none() {
                break;
            }
        }
        found.num_pages = found.num_results.div_ceil(search.limit);
        found.query = search.term;
        Ok(found)
    }
}

impl Entry {
    fn of(name: String) -> Self {
        Self {
            name,
            description: "",
            star_count: 0,
            is_official: false,
            is_automated: false,
        }
    }
}

impl Search {
    fn parse(query: &str) -> Result<Self, ApiError> {
        let mut search = Self {
            term: String::new(),
            limit: RESULTS_DEFAULT,
            page: 1,
        };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let number = || value.parse().ok().filter(|it: &usize| *it > 0);
            match &*key {
                // Names have no upper case.
                "q" => search.term = value.trim().to_lowercase(),
                "n" => search.limit = number().unwrap_or(RESULTS_DEFAULT).min(RESULTS_MAX),
                "page" => search.page = number().unwrap_or(1),
                _ => {}
            }
        }
        if search.term.len() > TERM_BYTES_MAX {
            return Err(ApiError::malformed("the term is longer than any name"));
        }
        Ok(search)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_are_bounded() {
        let parse = |query: &str| Search::parse(query).unwrap();
        let search = |term: &str, limit, page| Search {
            term: term.to_owned(),
            limit,
            page,
        };
        for (query, expected) in [
            ("", search("", 25, 1)),
            ("q=App&n=7", search("app", 7, 1)),
            ("q=team%2Fapp&n=1000&page=3", search("team/app", 100, 3)),
            ("n=0&page=x&other=1", search("", 25, 1)),
        ] {
            assert_eq!(parse(query), expected, "{query}");
        }
        assert!(Search::parse(&format!("q={}", "a".repeat(256))).is_err());
    }
}
