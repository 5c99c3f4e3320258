//! Manifest formats that a client takes (dist-spec, "Pulling manifests": `Accept`).

use super::manifest::media;
use super::media_type;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Every format with its bit, in the order in which `Accept` names them. Indexes go first: a
/// server that has both an index and an image under a tag must give the index.
const FORMATS: [(u8, &str); 7] = [
    (0b00_0010, media::OCI_INDEX),
    (0b00_0001, media::DOCKER_LIST),
    (0b00_1000, media::OCI_MANIFEST),
    (0b00_0100, media::DOCKER_MANIFEST),
    (0b01_0000, media::OCI_ARTIFACT),
    (SCHEMA1, media::DOCKER_SCHEMA1_SIGNED),
    (SCHEMA1, media::DOCKER_SCHEMA1),
];
/// The bit of schema 1, in either spelling.
const SCHEMA1: u8 = 0b10_0000;

/// The manifest formats a client accepts, as a small set: the class under which a tag's answer is
/// cached. Clients that accept the same formats share one answer, however they spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AcceptClass(u8);

/// Types that a client accepts: the formats that are known here, and what else it names, which it may well know.
/// Upstream is asked for both.
///
/// The cache keeps answers by the class: an answer in a format that nobody asked for by name serves all, as it does at
/// a registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Accept {
    /// The formats.
    pub class: AcceptClass,
    /// Media ranges beside them: each once, in order, of a bounded number and length; `None` for none.
    others: Option<Arc<str>>,
}

/// The most ranges of a client's own that upstream is asked for beside the known ones: real clients have one or two.
const OTHERS_MAX: usize = 8;
/// The longest text of them.
const OTHERS_BYTES_MAX: usize = 1024;
/// The range for whatever there is.
const ANYTHING: &str = "*/*";

impl Accept {
    /// Types that a request for a tag accepts.
    #[must_use]
    pub fn from_headers<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        let values: Vec<&str> = values.collect();
        Self {
            class: AcceptClass::from_headers(values.iter().copied()),
            others: others(values.into_iter()),
        }
    }

    /// Types that a request for a digest accepts: every format, because the digest decides, and what else it names.
    #[must_use]
    pub fn of_digest<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        Self {
            class: AcceptClass::ALL,
            others: others(values),
        }
    }

    /// The same for a digest, where every format will do.
    #[must_use]
    pub fn in_any_format(&self) -> Self {
        Self {
            class: AcceptClass::ALL,
            others: self.others.clone(),
        }
    }

    /// Whatever there is.
    #[must_use]
    pub fn anything() -> Self {
        Self::of_digest(std::iter::once(ANYTHING))
    }

    /// The `Accept` header to ask upstream with.
    #[must_use]
    pub fn header(&self) -> String {
        let known = self.class.header();
        match &self.others {
            Some(others) => format!("{known}, {others}"),
            None => known,
        }
    }

    /// Memory for the texts, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.others.as_ref().map_or(0, |others| others.len())
    }
}

impl From<AcceptClass> for Accept {
    fn from(class: AcceptClass) -> Self {
        Self {
            class,
            others: None,
        }
    }
}

/// True if it is a type of what browsers show.
fn is_page(media_type: &str) -> bool {
    let media_type = media_type.to_ascii_lowercase();
    media_type.contains("html") || media_type.contains("xml")
}

/// The ranges that are no formats known here, for what a registry may have: not the pages that browsers ask for.
fn others<'a>(values: impl Iterator<Item = &'a str>) -> Option<Arc<str>> {
    let mut others = BTreeSet::new();
    let ranges = values.flat_map(|value| value.split(','));
    for range in ranges.filter(|range| bits_of(range) == 0 && !is_refused(range)) {
        let name = range.split(';').next().unwrap_or_default().trim();
        let is_type = || {
            let is_application = name
                .get(..12)
                .is_some_and(|kind| kind.eq_ignore_ascii_case("application/"));
            is_application && media_type::essence(name).is_some() && !is_page(name)
        };
        if name == ANYTHING || name.eq_ignore_ascii_case("application/*") || is_type() {
            others.insert(name.to_ascii_lowercase());
        }
        if others.len() == OTHERS_MAX {
            break;
        }
    }
    let mut text = String::new();
    // What is named goes before what is not; a star sorts before letters.
    for other in others.iter().rev() {
        if text.len() + other.len() + 2 > OTHERS_BYTES_MAX {
            continue;
        }
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(other);
    }
    (!text.is_empty()).then(|| text.into())
}

impl AcceptClass {
    /// Every format, schema 1 included as last choice: for requests by digest, where the digest decides.
    pub const ALL: Self = Self(0b11_1111);
    /// Every format but schema 1: what a client takes that does not say.
    pub const MODERN: Self = Self(Self::ALL.0 & !SCHEMA1);

    /// Classifies the `Accept` headers of a request. None at all, or `*/*` alone, is every modern
    /// format. Bits: docker list, oci index, docker schema 2, oci image manifest,
    /// oci artifact manifest, docker schema 1 (either spelling). q=0 excludes.
    /// `*/*` or `application/*` beside named types adds nothing when a manifest type is named.
    ///
    /// A client that names no manifest format at all (`Accept: application/json`) is answered as one
    /// that does not say, as registries do; so no class is empty.
    #[must_use]
    pub fn from_headers<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        let (mut taken, mut refused) = (0, 0);
        for range in values.flat_map(|value| value.split(',')) {
            let bits = bits_of(range);
            if is_refused(range) {
                refused |= bits;
            } else {
                taken |= bits;
            }
        }
        match (taken & !refused, Self::MODERN.0 & !refused) {
            (0, 0) => Self::MODERN,
            (0, rest) => Self(rest),
            (named, _) => Self(named),
        }
    }

    /// The `Accept` header to ask upstream with: always the same text for a class.
    ///
    /// No weights, but for schema 1: distribution 2.8 ignores them and looks at which types are
    /// named, and a server that heeds them must not prefer the format that lost its digest.
    #[must_use]
    pub fn header(self) -> String {
        let named = FORMATS.iter().filter(|(bit, _)| self.0 & bit != 0);
        let ranges: Vec<String> = named
            .map(|(bit, media_type)| match *bit {
                // Alone, there is nothing to prefer to it.
                SCHEMA1 if self.0 != SCHEMA1 => format!("{media_type};q=0.1"),
                _ => (*media_type).to_owned(),
            })
            .collect();
        ranges.join(", ")
    }

    /// True if an answer of this media type may be given to this class (unknown types: yes).
    #[must_use]
    pub fn allows(self, media_type: &str) -> bool {
        match bits_of(media_type) {
            0 => true,
            bits => self.0 & bits != 0,
        }
    }

    /// A stable small number for the index.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }

    /// The class with these bits. No class is empty: none of them is [`Self::MODERN`].
    #[must_use]
    pub fn from_bits(bits: u8) -> Self {
        match bits & Self::ALL.0 {
            0 => Self::MODERN,
            bits => Self(bits),
        }
    }
}

/// The bit of a media type or media range, its parameters aside; 0 for what is no manifest format.
fn bits_of(range: &str) -> u8 {
    let media_type = range.split(';').next().unwrap_or_default().trim();
    let format = FORMATS
        .iter()
        .find(|(_, name)| media_type.eq_ignore_ascii_case(name));
    format.map_or(0, |(bit, _)| *bit)
}

/// True if a range has the weight 0 (RFC 9110, section 12.4.2).
fn is_refused(range: &str) -> bool {
    range
        .split(';')
        .skip(1)
        .filter_map(|parameter| parameter.split_once('='))
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
        .any(|(_, weight)| {
            // `0`, `0.`, `0.0`, `0.00`, `0.000`
            let decimals = weight
                .trim()
                .strip_prefix('0')
                .map(|rest| rest.strip_prefix('.').unwrap_or(rest));
            decimals.is_some_and(|decimals| decimals.bytes().all(|b| b == b'0'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn class(values: &[&str]) -> u8 {
        AcceptClass::from_headers(values.iter().copied()).bits()
    }

    const MODERN: u8 = 0b01_1111;

    #[test]
    fn who_does_not_say_takes_every_modern_format() {
        for values in [
            &[][..],
            &[""],
            &["*/*"],
            &["application/*"],
            &["application/json"],
            &["text/html, */*;q=0.8"],
            &["*/*;q=0"],
        ] {
            assert_eq!(class(values), MODERN, "{values:?}");
        }
    }

    #[test]
    fn named_formats_are_the_class() {
        for (media_type, bits) in [
            (media::DOCKER_LIST, 0b00_0001),
            (media::OCI_INDEX, 0b00_0010),
            (media::DOCKER_MANIFEST, 0b00_0100),
            (media::OCI_MANIFEST, 0b00_1000),
            (media::OCI_ARTIFACT, 0b01_0000),
            (media::DOCKER_SCHEMA1, 0b10_0000),
            (media::DOCKER_SCHEMA1_SIGNED, 0b10_0000),
        ] {
            assert_eq!(class(&[media_type]), bits, "{media_type}");
            assert_eq!(class(&[&format!("{media_type}, */*;q=0.1")]), bits);
            assert_eq!(class(&[&media_type.to_uppercase(), "application/*"]), bits);
            assert_eq!(class(&[&format!(" {media_type} ; q=0.5;x=\"y\"")]), bits);
        }
    }

    #[test]
    fn clients_that_take_the_same_share_a_class() {
        let containerd = ["application/vnd.docker.distribution.manifest.v2+json, \
             application/vnd.docker.distribution.manifest.list.v2+json, \
             application/vnd.oci.image.manifest.v1+json, \
             application/vnd.oci.image.index.v1+json, */*"];
        // One header for each type, in another order, as skopeo and podman send them.
        let podman = [
            media::OCI_MANIFEST,
            media::DOCKER_MANIFEST,
            media::OCI_INDEX,
            media::DOCKER_LIST,
        ];
        assert_eq!(class(&containerd), 0b00_1111);
        assert_eq!(class(&podman), class(&containerd));
    }

    #[test]
    fn a_weight_of_nought_excludes() {
        for zero in ["0", "0.", "0.0", "0.000", " 0 "] {
            let refused = format!("{};q={zero}", media::OCI_INDEX);
            assert_eq!(class(&[&refused]), MODERN & !0b10, "{zero}");
            assert_eq!(class(&[media::OCI_MANIFEST, &refused]), 0b00_1000);
            assert_eq!(class(&[media::OCI_INDEX, &refused]), MODERN & !0b10);
        }
        for more in ["0.1", "0.001", "1", "1.0", "x", "", "00.1"] {
            let taken = format!("{};q={more}", media::OCI_INDEX);
            assert_eq!(class(&[&taken]), 0b10, "{more}");
        }
    }

    #[test]
    fn what_only_the_client_knows_is_asked_for_beside() {
        let oras = "application/vnd.cncf.oras.artifact.manifest.v1+json";
        let others = |values: &[&str]| {
            let accept = Accept::from_headers(values.iter().copied());
            let class = AcceptClass::from_headers(values.iter().copied());
            assert_eq!(accept.class, class, "{values:?}");
            let header = accept.header();
            let rest = header.strip_prefix(&class.header()).unwrap().to_owned();
            assert!(http::HeaderValue::from_str(&header).is_ok());
            rest.trim_start_matches(", ").to_owned()
        };
        for (values, expected) in [
            (&[][..], ""),
            (&[media::OCI_INDEX, media::DOCKER_SCHEMA1], ""),
            (&[oras], oras),
            (&["*/*"], "*/*"),
            (&[media::OCI_INDEX, "*/*;q=0.5"], "*/*"),
            (&["*/*;q=0, application/vnd.x;q=0"], ""),
            (
                &[
                    "application/vnd.b , APPLICATION/vnd.A;q=1,*/*",
                    "application/vnd.a",
                ],
                "application/vnd.b, application/vnd.a, */*",
            ),
            (
                &["text/html, application/xhtml+xml, application/xml;q=0.9, image/webp"],
                "",
            ),
            (
                &[
                    "application/a b",
                    "application/\u{1}",
                    "application/",
                    ",;,",
                    "application/a/b",
                ],
                "",
            ),
        ] {
            assert_eq!(others(values), expected, "{values:?}");
        }
        let many: Vec<String> = (0..1000)
            .map(|n| format!("application/vnd.{n}{}", "x".repeat(100)))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(others(&many).len() <= OTHERS_BYTES_MAX);
        let digest = Accept::of_digest([oras].into_iter());
        assert_eq!(digest.class, AcceptClass::ALL);
        assert!(digest.header().ends_with(oras));
        assert_eq!(
            Accept::from(AcceptClass::ALL).header(),
            AcceptClass::ALL.header()
        );
    }

    #[test]
    fn the_header_names_indexes_first_and_schema_1_last() {
        assert_eq!(
            AcceptClass::ALL.header(),
            "application/vnd.oci.image.index.v1+json, \
             application/vnd.docker.distribution.manifest.list.v2+json, \
             application/vnd.oci.image.manifest.v1+json, \
             application/vnd.docker.distribution.manifest.v2+json, \
             application/vnd.oci.artifact.manifest.v1+json, \
             application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.1, \
             application/vnd.docker.distribution.manifest.v1+json;q=0.1"
        );
        assert_eq!(
            AcceptClass::from_bits(SCHEMA1).header(),
            "application/vnd.docker.distribution.manifest.v1+prettyjws, \
             application/vnd.docker.distribution.manifest.v1+json"
        );
        assert!(!AcceptClass::MODERN.header().contains("v1+prettyjws"));
    }

    #[test]
    fn a_class_allows_its_formats_and_what_nobody_knows() {
        let images = AcceptClass::from_headers([media::OCI_MANIFEST].into_iter());
        assert!(images.allows(media::OCI_MANIFEST));
        assert!(images.allows("application/vnd.oci.image.manifest.v1+json; charset=utf-8"));
        assert!(!images.allows(media::OCI_INDEX));
        assert!(!images.allows(media::DOCKER_SCHEMA1));
        assert!(images.allows("application/vnd.example+json"));
        assert!(!AcceptClass::MODERN.allows(media::DOCKER_SCHEMA1_SIGNED));
        assert!(AcceptClass::ALL.allows(media::DOCKER_SCHEMA1_SIGNED));
    }

    proptest! {
        #[test]
        fn asking_upstream_with_a_class_asks_for_the_class(bits in any::<u8>()) {
            let class = AcceptClass::from_bits(bits);
            let header = class.header();
            prop_assert!(!header.is_empty());
            prop_assert_eq!(AcceptClass::from_headers([header.as_str()].into_iter()), class);
            prop_assert_eq!(AcceptClass::from_bits(class.bits()), class);
            for (_, media_type) in FORMATS {
                prop_assert_eq!(class.allows(media_type), header.contains(media_type));
            }
        }
    }
}
