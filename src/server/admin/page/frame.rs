//! The parts that all pages have: head, navigation, language, errors; and the headers that keep them to themselves.

use super::assets::{self, AssetPaths};
use super::language::Language;
use super::texts::Texts;
use crate::format::VERSION;
use askama::Template;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, request};
use http_body_util::Full;

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// The policy of all pages: nothing from elsewhere, nothing inline, in nobody's frame.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
);

/// Headers that go with each answer.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

/// A page of the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tab {
    Overview,
    Images,
    Hosted,
    Clients,
    Configuration,
    /// An error.
    Nowhere,
}

/// The frame of a page.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) t: &'static Texts,
    pub(super) language: Language,
    /// The path of the navigation's entry that is current.
    current: &'static str,
    pub(super) title: &'static str,
    /// The link to the other language.
    pub(super) other: String,
    pub(super) assets: AssetPaths,
    pub(super) version: &'static str,
}

/// An entry of the navigation.
pub(super) struct Entry {
    pub(super) path: &'static str,
    pub(super) title: &'static str,
    pub(super) is_current: bool,
}

impl Frame {
    /// The frame for a request.
    pub(super) fn new(head: &request::Parts, tab: Tab) -> Self {
        let language = Language::of(head);
        let t = language.texts();
        let (current, title) = match tab {
            Tab::Overview => ("/", t.overview),
            Tab::Images => ("/images", t.images),
            Tab::Hosted => ("/hosted", t.hosted),
            Tab::Clients => ("/clients", t.clients),
            Tab::Configuration => ("/configuration", t.configuration),
            Tab::Nowhere => ("", t.error),
        };
        Self {
            t,
            language,
            current,
            title,
            other: language.other().link(head),
            assets: assets::paths(),
            version: VERSION,
        }
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        let t = self.t;
        let all = [
            ("/", t.overview),
            ("/images", t.images),
            ("/hosted", t.hosted),
            ("/clients", t.clients),
            ("/configuration", t.configuration),
        ];
        let entry = |(path, title)| Entry {
            path,
            title,
            is_current: path == self.current,
        };
        all.map(entry).into()
    }
}

/// The answer of a page.
pub(super) fn html(status: StatusCode, page: &impl Template) -> Response<Full<Bytes>> {
    // Writing to a string does not fail.
    let text = page.render().unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HTML);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let vary = HeaderValue::from_static("Accept-Language, Cookie");
    headers.insert(header::VARY, vary);
    response
}

/// Adds the headers that go with each answer.
pub(super) fn secure(headers: &mut HeaderMap) {
    for (name, value) in HEADERS {
        headers.insert(name, value);
    }
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    frame: Frame,
    status: u16,
    message: &'a str,
}

/// A page that says what is wrong.
pub(super) fn error(
    head: &request::Parts,
    status: StatusCode,
    message: &str,
) -> Response<Full<Bytes>> {
    let page = ErrorPage {
        frame: Frame::new(head, Tab::Nowhere),
        status: status.as_u16(),
        message,
    };
    html(status, &page)
}
