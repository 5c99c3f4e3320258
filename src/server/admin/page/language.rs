//! The language of a page: by a link, which a cookie remembers, or else as the browser asks.

use super::texts::{CHINESE, ENGLISH, Texts};
use http::{HeaderMap, HeaderValue, header, request};
use url::form_urlencoded;

/// The parameter of the link.
const PARAMETER: &str = "lang";
const COOKIE: &str = "roadstead_lang";

/// A language that there are texts in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Language {
    /// English.
    #[default]
    English,
    /// Simplified Chinese.
    Chinese,
}

impl Language {
    /// All of them.
    pub(super) const ALL: [Self; 2] = [Self::English, Self::Chinese];

    /// The language that a request wants.
    pub(super) fn of(head: &request::Parts) -> Self {
        Self::asked(head)
            .or_else(|| Self::remembered(&head.headers))
            .or_else(|| Self::accepted(&head.headers))
            .unwrap_or_default()
    }

    /// The language that the link of a request names.
    pub(super) fn asked(head: &request::Parts) -> Option<Self> {
        let query = head.uri.query().unwrap_or_default();
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs.find_map(|(name, value)| (name == PARAMETER).then(|| Self::named(&value))?)
    }

    /// The link to the same page in this language.
    pub(super) fn link(self, head: &request::Parts) -> String {
        let query = head.uri.query().unwrap_or_default();
        let pairs = form_urlencoded::parse(query.as_bytes());
        let mut others = form_urlencoded::Serializer::new(String::new());
        others.extend_pairs(pairs.filter(|(name, _)| name != PARAMETER));
        others.append_pair(PARAMETER, self.name());
        format!("{}?{}", head.uri.path(), others.finish())
    }

    /// The cookie that remembers it.
    pub(super) fn cookie(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::English => "roadstead_lang=en; Path=/; Max-Age=31536000; SameSite=Lax; HttpOnly",
            Self::Chinese => "roadstead_lang=zh; Path=/; Max-Age=31536000; SameSite=Lax; HttpOnly",
        })
    }

    /// As it stands in links and cookies.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Chinese => "zh",
        }
    }

    /// As HTML has it (BCP 47).
    pub(super) fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Chinese => "zh-Hans",
        }
    }

    /// Its own name for itself.
    pub(super) fn own_name(self) -> &'static str {
        match self {
            Self::English => "English",
            Self::Chinese => "中文",
        }
    }

    /// The other one.
    pub(super) fn other(self) -> Self {
        match self {
            Self::English => Self::Chinese,
            Self::Chinese => Self::English,
        }
    }

    /// Its texts.
    pub(super) fn texts(self) -> &'static Texts {
        match self {
            Self::English => &ENGLISH,
            Self::Chinese => &CHINESE,
        }
    }

    fn named(name: &str) -> Option<Self> {
        let primary = name.trim().split(['-', '_']).next().unwrap_or_default();
        Self::ALL
            .into_iter()
            .find(|it| it.name().eq_ignore_ascii_case(primary))
    }

    fn remembered(headers: &HeaderMap) -> Option<Self> {
        let cookies = headers.get_all(header::COOKIE).iter();
        let pairs = cookies.filter_map(|it| it.to_str().ok());
        let mut pairs = pairs.flat_map(|it| it.split(';'));
        pairs.find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            (name == COOKIE).then(|| Self::named(value))?
        })
    }

    /// The one with the highest weight (RFC 9110 section 12.5.4); the first of equals.
    fn accepted(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(header::ACCEPT_LANGUAGE)?.to_str().ok()?;
        let mut best: Option<(Self, f32)> = None;
        for range in text.split(',') {
            let (name, parameters) = range.split_once(';').unwrap_or((range, ""));
            let weight = parameters.trim().strip_prefix("q=");
            let weight = weight.map_or(Some(1.0), |it| it.trim().parse().ok());
            if let (Some(language), Some(weight)) = (Self::named(name), weight)
                && weight > best.map_or(0.0, |(_, weight)| weight)
            {
                best = Some((language, weight));
            }
        }
        best.map(|(language, _)| language)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(uri: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut builder = Request::get(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn links_go_before_cookies_and_those_before_browsers() {
        use Language::{Chinese, English};
        let accept = "accept-language";
        for (uri, headers, expected) in [
            ("/", &[][..], English),
            ("/", &[(accept, "zh-CN,zh;q=0.9,en;q=0.8")], Chinese),
            ("/", &[(accept, "de-DE, en;q=0.3, zh;q=0.7")], Chinese),
            ("/", &[(accept, "fr")], English),
            ("/", &[(accept, "zh;q=0, en;q=0.1")], English),
            ("/", &[(accept, "zh;q=x, *")], English),
            ("/", &[("cookie", "a=b; roadstead_lang=zh")], Chinese),
            (
                "/",
                &[("cookie", "roadstead_lang=en"), (accept, "zh")],
                English,
            ),
            ("/?lang=zh", &[("cookie", "roadstead_lang=en")], Chinese),
            ("/?lang=xx", &[("cookie", "roadstead_lang=zh")], Chinese),
        ] {
            assert_eq!(Language::of(&head(uri, headers)), expected, "{headers:?}");
        }
    }

    #[test]
    fn the_link_keeps_the_rest_of_the_question() {
        let page = head("/images?q=a%26b%22&lang=en&after=x", &[]);
        let link = Language::Chinese.link(&page);
        assert_eq!(link, "/images?q=a%26b%22&after=x&lang=zh");
    }
}
