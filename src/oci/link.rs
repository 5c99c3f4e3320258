//! `Link: <…>; rel="next"` of paged lists (RFC 8288; dist-spec, "Listing tags").

use super::{Page, route::PATH_ENCODED};
use percent_encoding::utf8_percent_encode;

/// The page that an upstream's `Link` header points at; `None` when there is no usable `rel="next"`.
///
/// Only the link's query matters: host and path are the upstream's, and are dropped. All its
/// parameters are kept, as some registries hold their cursor in one of their own (quay's `next_page`).
#[must_use]
pub fn next_page<'a>(values: impl Iterator<Item = &'a str>) -> Option<NextPage> {
    let target = values.flat_map(Links).find(Link::is_next)?.target;
    // A fragment is never sent to a server.
    let target = target.split('#').next().unwrap_or_default();
    let (_, query) = target.split_once('?')?;
    let query: Vec<_> = url::form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect();
    (!query.is_empty()).then_some(NextPage { query })
}

/// The query of a next link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextPage {
    /// All query parameters, in order, decoded.
    pub query: Vec<(String, String)>,
}

impl NextPage {
    /// A header value that points at `path` on this server: `</v2/…?n=…&last=…>; rel="next"`.
    /// `path` is not encoded yet, or holds nothing that needs it. It is always a valid header value.
    #[must_use]
    pub fn header(&self, path: &str) -> String {
        // A path that is encoded already must not be encoded again.
        let path = utf8_percent_encode(path, LINK_PATH_ENCODED);
        let query = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(&self.query)
            .finish();
        format!("<{path}?{query}>; rel=\"next\"")
    }
    /// The next page of a list served from here.
    #[must_use]
    pub fn of(page: &Page) -> Self {
        Self {
            query: page.query(),
        }
    }
}

/// Characters that are encoded in a link's path: as in [`Route::path`](super::Route::path), whose percent signs stay.
const LINK_PATH_ENCODED: &percent_encoding::AsciiSet = &PATH_ENCODED.remove(b'%');

/// One link of a header: `<target>; name=value; …`.
struct Link<'a> {
    target: &'a str,
    parameters: &'a str,
}

impl Link<'_> {
    /// True if its relation is `next`. The first `rel` counts (RFC 8288, section 3.3); it may name
    /// several relations, which compare without case.
    fn is_next(&self) -> bool {
        split_unquoted(self.parameters, ';')
            .filter_map(|parameter| parameter.split_once('='))
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("rel"))
            .is_some_and(|(_, value)| {
                value
                    .trim()
                    .trim_matches('"')
                    .split_ascii_whitespace()
                    .any(|relation| relation.eq_ignore_ascii_case("next"))
            })
    }
}

/// The links of one header value; ends at the first fault.
struct Links<'a>(&'a str);

impl<'a> Iterator for Links<'a> {
    type Item = Link<'a>;

    fn next(&mut self) -> Option<Link<'a>> {
        let rest = self.0.trim_start_matches([' ', '\t', ',']);
        // The target ends at the bracket, whatever commas or quotes it holds.
        let (target, rest) = rest.strip_prefix('<')?.split_once('>')?;
        let parameters = split_unquoted(rest, ',').next().unwrap_or_default();
        self.0 = rest.get(parameters.len()..).unwrap_or_default();
        Some(Link { target, parameters })
    }
}

/// Splits at a separator that does not stand in a quoted string.
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |character| {
        let literal = escaped;
        escaped = quoted && !literal && character == '\\';
        if character == '"' && !literal {
            quoted = !quoted;
        }
        character == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn next_links_are_found_however_they_are_written() {
        let page = [("n", "5"), ("last", "b")];
        for header in [
            r#"</v2/a/tags/list?n=5&last=b>; rel="next""#,
            r#"<https://registry.example/v2/a/tags/list?n=5&last=b>; rel="next""#,
            r"</v2/a/tags/list?n=5&last=b>;rel=next",
            r#"</v2/a/tags/list?n=5&last=b> ; REL="Next""#,
            r#"<?n=5&last=b>; rel="prefetch next""#,
            r#"</first?n=1>; rel="first", </x?n=5&last=b>; rel="next""#,
            r#"</first?n=1>; rel="first"; title="a, <b>; \" rel=next", </x?n=5&last=b>; rel="next""#,
            r#"</x?n=5&last=b#top>; title="x"; rel="next""#,
            r#"</a,b;c?n=5&last=b>; rel="next""#,
        ] {
            let next = next_page([header].into_iter()).unwrap();
            assert_eq!(next.query, pairs(&page), "{header}");
        }
        let next = next_page(["</x?n=1>; rel=last", "</x?last=c>; rel=next"].into_iter());
        assert_eq!(next.unwrap().query, pairs(&[("last", "c")]));
    }

    #[test]
    fn a_cursor_of_the_upstreams_own_is_kept() {
        let header = r#"</v2/a/tags/list?n=50&next_page=gAAA%3D%3D>; rel="next""#;
        assert_eq!(
            next_page([header].into_iter()).unwrap().query,
            pairs(&[("n", "50"), ("next_page", "gAAA==")])
        );
    }

    #[test]
    fn what_points_nowhere_is_no_next_page() {
        for header in [
            "",
            "garbage",
            "</v2/a?n=1>",
            r#"</v2/a?n=1>; rel="last""#,
            r#"</v2/a>; rel="next""#,
            r#"</v2/a?>; rel="next""#,
            r#"</v2/a?n=1; rel="next""#,
            r#"</v2/a?n=1>; rel="last"; rel="next""#,
            r#"</v2/a?n=1>; title="rel=next""#,
            r#"</v2/a?n=1>; rel="nextish""#,
        ] {
            assert_eq!(next_page([header].into_iter()), None, "{header:?}");
        }
        assert_eq!(next_page(std::iter::empty()), None);
    }

    #[test]
    fn a_link_points_at_this_server() {
        let page = Page {
            limit: Some(2),
            last: Some("v1+x&y".to_owned()),
            cursor: Vec::new(),
        };
        assert_eq!(
            NextPage::of(&page).header("/v2/ghcr.io/a/tags/list"),
            r#"</v2/ghcr.io/a/tags/list?n=2&last=v1%2Bx%26y>; rel="next""#
        );
        assert_eq!(
            NextPage::of(&page).header("/v2/%C3%A9>\r\n"),
            r#"</v2/%C3%A9%3E%0D%0A?n=2&last=v1%2Bx%26y>; rel="next""#
        );
    }

    proptest! {
        #[test]
        fn next_page_reads_what_header_prints(
            query in prop::collection::vec((".{1,8}", ".{0,20}"), 1..4),
            path in "/v2/\\PC{0,20}",
        ) {
            let next = NextPage { query };
            let header = next.header(&path);
            prop_assert!(http::HeaderValue::from_str(&header).is_ok());
            prop_assert_eq!(next_page([header.as_str()].into_iter()), Some(next));
        }

        #[test]
        fn no_header_makes_the_parser_panic(header in "[<>?n=1;, rel\"\\\\next]{0,60}|\\PC{0,40}") {
            let next = next_page([header.as_str()].into_iter());
            prop_assert!(next.is_none_or(|next| !next.query.is_empty() && header.to_lowercase().contains("next")));
        }
    }
}
