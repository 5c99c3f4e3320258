//! Selection of images: by digests as `ls` prints them, by patterns, by upstream, by age.

use http::Method;

use super::arguments::Remove;
use super::screen::{Screen, clean};
use super::{each_hosted, each_image};
use crate::commands::target::{Target, TargetError};
use crate::mirror::inspect::{ImageEntry, Status};
use crate::mirror::{Pattern, Source};
use crate::oci::{ImageName, Repository, Tag, UpstreamName};

/// Images that one command removes: some hundred bytes each are kept of their names.
const SELECTED_MAX: usize = 100_000;

/// The fewest characters of a digest that name one: behind a name or its algorithm, and alone, where they could be an
/// image's name as well. `ls` prints twelve.
const DIGITS_MIN: usize = 6;
const DIGITS_ALONE_MIN: usize = 12;

/// Images that are named where several may be meant.
const CANDIDATES_MAX: usize = 10;

/// The images that `rm` is to remove.
#[derive(Debug, Default)]
pub(super) struct Selected {
    /// The images.
    pub(super) images: Vec<String>,
    /// Those that are pinned, and stay.
    pub(super) pinned: u64,
}

/// The beginning of a digest, where a text has one.
struct Short<'a> {
    name: Option<&'a str>,
    digits: &'a str,
    /// True if it can be an image's name as well.
    is_name_too: bool,
}

impl<'a> Short<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (Some(name), digest),
            None => (None, text),
        };
        let (algorithm, digits) = match digest.split_once(':') {
            Some((algorithm, digits)) => (Some(algorithm), digits),
            None => (None, digest),
        };
        if algorithm.is_some_and(|it| !matches!(it, "sha256" | "sha512")) {
            return None;
        }
        let is_alone = name.is_none() && algorithm.is_none();
        let least = if is_alone {
            DIGITS_ALONE_MIN
        } else {
            DIGITS_MIN
        };
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let fits = digits.len() >= least && digits.bytes().all(is_hex);
        fits.then_some(Self {
            name,
            digits,
            is_name_too: is_alone,
        })
    }
}

/// True if a text is a pattern rather than a name.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains('*')
}

/// True if a text can be looked up by its digest.
pub(super) fn is_short(text: &str) -> bool {
    Short::parse(text).is_some()
}

/// The image that a text names: as it is, or by the digest that begins so.
///
/// # Errors
/// [`TargetError::Refused`]: none, or several.
pub(super) async fn resolve(target: &Target, text: &str) -> Result<String, TargetError> {
    let Some(short) = Short::parse(text) else {
        return Ok(text.to_owned());
    };
    if ImageName::parse(text).is_ok() && short.name.is_some() {
        // A whole digest.
        return Ok(text.to_owned());
    }
    let mut found: Vec<String> = Vec::new();
    each_image(target, short.name.unwrap_or_default(), |image| {
        let digits = image
            .digest
            .split_once(':')
            .map_or("", |(_, digits)| digits);
        let name = format!("{}/{}@{}", image.upstream, image.repository, image.digest);
        if digits.starts_with(short.digits) && !found.contains(&name) {
            found.push(name);
        }
        found.len() <= CANDIDATES_MAX
    })
    .await?;
    each_hosted(target, short.name.unwrap_or_default(), |image| {
        let digits = image.digest.split_once(':');
        let digits = digits.map_or("", |(_, digits)| digits);
        let name = image.image.strip_suffix(&format!(":{}", image.tag));
        let name = format!("{}@{}", name.unwrap_or(&image.repository), image.digest);
        if digits.starts_with(short.digits) && !found.contains(&name) {
            found.push(name);
        }
        found.len() <= CANDIDATES_MAX
    })
    .await?;
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] if short.is_name_too => Ok(text.to_owned()),
        [] => Err(refused(
            404,
            format!(
                "no image with the digest {text} is in the cache; roadstead ls lists what there is"
            ),
        )),
        several => {
            let shown = several.iter().take(CANDIDATES_MAX).map(|name| clean(name));
            let shown: Vec<String> = shown.collect();
            let more = if several.len() > CANDIDATES_MAX {
                ", …"
            } else {
                ""
            };
            Err(refused(
                409,
                format!("{text} is ambiguous: {}{more}", shown.join(", ")),
            ))
        }
    }
}

/// The images that `rm` is to remove, beside those that it names.
///
/// # Errors
/// [`TargetError`].
pub(super) async fn select(
    target: &Target,
    arguments: &Remove,
    screen: Screen,
) -> Result<Selected, TargetError> {
    let patterns = arguments.images.iter().filter(|text| is_pattern(text));
    let patterns: Vec<Pattern> = patterns
        .map(|text| pattern(text).map_err(|why| refused(400, why)))
        .collect::<Result<_, _>>()?;
    let mut selected = Selected::default();
    let upstream = arguments.upstream.as_ref().map(UpstreamName::as_str);
    // Without a dot it would be read as an image's name.
    let wanted = upstream.filter(|name| name.contains('.'));
    let mut has_images = false;
    each_image(target, wanted.unwrap_or_default(), |image| {
        if upstream.is_some_and(|name| name != image.upstream) {
            return true;
        }
        has_images = true;
        let age = image.used_at.or(image.checked_at);
        let is_old = arguments
            .unused_for
            .is_none_or(|least| age.is_some_and(|age| screen.now.since(age.0) >= least));
        let is_meant = arguments.images.is_empty() || means(&patterns, image);
        match is_old && is_meant {
            true if image.pinned => selected.pinned += 1,
            true => selected.images.push(image.image.clone()),
            false => {}
        }
        selected.images.len() < SELECTED_MAX
    })
    .await?;
    if let Some(name) = upstream.filter(|_| !has_images) {
        is_configured(target, name).await?;
    }
    Ok(selected)
}

/// Refuses the name of an upstream that the server does not have. Without a server nobody knows which there are.
async fn is_configured(target: &Target, name: &str) -> Result<(), TargetError> {
    let status: Status = target.ask(Method::GET, "/api/v1/status", &[]).await?;
    let known: Vec<&str> = status.upstreams.iter().map(|it| &*it.name).collect();
    if !status.running || known.contains(&name) {
        return Ok(());
    }
    let known = clean(&known.join(", "));
    let why = format!("no upstream is called {name}; configured: {known}");
    Err(refused(404, why))
}

fn means(patterns: &[Pattern], image: &ImageEntry) -> bool {
    let source = UpstreamName::parse(&image.upstream)
        .ok()
        .zip(Repository::parse(&image.repository).ok());
    let Some((upstream, repository)) = source else {
        return false;
    };
    let source = Source {
        upstream,
        repository,
    };
    let tag = image.tag.as_deref().and_then(|tag| Tag::parse(tag).ok());
    patterns
        .iter()
        .any(|pattern| pattern.means(&source, tag.as_ref()))
}

/// A pattern as users write it: like an image, `nginx:*` is Docker Hub's.
///
/// # Errors
/// One line.
pub(super) fn pattern(text: &str) -> Result<Pattern, String> {
    let first = text.split_once('/').map(|(first, _)| first);
    let is_host = |it: &str| it == "localhost" || it.contains(['.', ':', '*']);
    let full = match first {
        Some(first) if is_host(first) => text.to_owned(),
        Some(_) => format!("docker.io/{text}"),
        None if text.starts_with("**") => text.to_owned(),
        None => format!("docker.io/library/{text}"),
    };
    Pattern::parse(&full).map_err(|error| format!("pattern {text:?}: {error}"))
}

fn refused(status: u16, message: String) -> TargetError {
    TargetError::Refused { status, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_of_digests_are_told_from_names() {
        for text in [
            "0123456789ab",
            "sha256:012345",
            "nginx@012345",
            "nginx@sha256:0123456",
            "ghcr.io/a/b@abcdef0",
        ] {
            assert!(is_short(text), "{text}");
        }
        for text in [
            "deadbeef",
            "nginx",
            "nginx:1.27",
            "nginx@xyz",
            "sha256:01234",
            "0123456789AB",
            "a:0123456789ab",
        ] {
            assert!(!is_short(text), "{text}");
        }
    }

    #[test]
    fn patterns_are_read_as_images_are() {
        let means = |text: &str, upstream: &str, repository: &str, tag: Option<&str>| {
            let source = Source {
                upstream: UpstreamName::parse(upstream).unwrap(),
                repository: Repository::parse(repository).unwrap(),
            };
            let tag = tag.map(|tag| Tag::parse(tag).unwrap());
            pattern(text).unwrap().means(&source, tag.as_ref())
        };
        assert!(means(
            "nginx:1.*",
            "docker.io",
            "library/nginx",
            Some("1.27")
        ));
        assert!(!means("nginx:1.*", "docker.io", "library/nginx", Some("2")));
        assert!(means("org/*:pr-*", "docker.io", "org/app", Some("pr-7")));
        assert!(!means("org/*:pr-*", "ghcr.io", "org/app", Some("pr-7")));
        assert!(means("ghcr.io/org/*", "ghcr.io", "org/app", None));
        assert!(means("**", "quay.io", "a/b/c", Some("1")));
        assert!(means("*/**:latest", "quay.io", "a/b/c", Some("latest")));
        assert!(pattern("a b/*").unwrap_err().contains("pattern \"a b/*\""));
    }
}
