//! `Link: <…>; rel="next"` of paged lists (RFC 8288; dist-spec, "Listing tags").

use super::Page;

/// The page that an upstream's `Link` header points at; `None` when there is no usable `rel="next"`.
/// Only the query's `n` and `last` (or any other parameter holding the cursor: `next_page`, as quay
/// does, is kept in `last` never – unknown parameters are returned in `extra`) matter: the host and
/// path are upstream's.
#[must_use]
pub fn next_page<'a>(values: impl Iterator<Item = &'a str>) -> Option<NextPage> {
    todo!()
}

/// The query of a next link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextPage {
    /// All query parameters, in order, decoded.
    pub query: Vec<(String, String)>,
}

impl NextPage {
    /// A header value that points at `path` on this server: `</v2/…?n=…&last=…>; rel="next"`.
    #[must_use]
    pub fn header(&self, path: &str) -> String {
        todo!()
    }
    /// The next page of a list served from here.
    #[must_use]
    pub fn of(page: &Page) -> Self {
        todo!()
    }
}
