//! Resources, and patterns of them.

use crate::oci::directory::{self, canonical, is_canonical};
use std::borrow::Cow;
use std::fmt;

/// The longest pattern in bytes: two of the longest names.
const PATTERN_BYTES_MAX: usize = 1024;

/// The most `*` in a pattern: each makes matching longer.
const STARS_MAX: usize = 8;

/// The first components of resources.
const KINDS: [&str; 3] = ["mirror", "repository", "admin"];

/// A resource: `mirror/<upstream>/<repository>`, `repository/<namespace>/<name>`, `admin` or `admin/<part>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resource<'a>(Cow<'a, str>);

/// A pattern of resources, in which `*` stands for any characters, slashes too.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(String);

impl<'a> Resource<'a> {
    /// A repository of an upstream.
    #[must_use]
    pub fn mirror(upstream: &str, repository: &str) -> Self {
        let known;
        let upstream = if is_canonical(upstream) {
            upstream
        } else {
            known = canonical(upstream);
            &known
        };
        let mut text = String::with_capacity(8 + upstream.len() + repository.len());
        text.extend(["mirror/", upstream, "/", repository]);
        Self(text.into())
    }

    /// A hosted repository.
    #[must_use]
    pub fn repository(path: &str) -> Self {
        Self(format!("repository/{path}").into())
    }

    /// The server itself.
    #[must_use]
    pub fn admin() -> Self {
        Self("admin".into())
    }

    /// The resource of this name, as somebody typed it.
    ///
    /// # Errors
    /// No resource has such a name: what is wrong with it.
    pub fn parse(name: &'a str) -> Result<Self, String> {
        check_kind(name)?;
        if name.contains('*') {
            return Err("must be one resource, without `*`".to_owned());
        }
        Ok(Self(understood(name)))
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its upstream, if it is a mirrored repository.
    #[must_use]
    pub fn upstream(&self) -> Option<&str> {
        let rest = self.0.strip_prefix("mirror/")?;
        rest.split('/').next()
    }
}

impl fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Pattern {
    /// Reads a pattern: one of ours, or one of Alibaba Cloud's RAM for Container Registry
    /// (`acs:cr:<region>:<account>:repository/<instance>/<namespace>/<name>`), whose region, account and instance mean
    /// nothing here.
    ///
    /// # Errors
    /// The fault.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(format!("is longer than {PATTERN_BYTES_MAX} bytes"));
        }
        let text = match text.strip_prefix("acs:") {
            Some(arn) => of_ram(arn)?,
            None => text.to_owned(),
        };
        if text.matches('*').count() > STARS_MAX {
            return Err(format!("has more than {STARS_MAX} `*`"));
        }
        if !text.starts_with('*') {
            let literal = text.split('*').next().unwrap_or_default();
            if literal == text || literal.contains('/') {
                check_kind(&text)?;
            } else if !KINDS.iter().any(|kind| kind.starts_with(literal)) {
                return Err(kinds());
            }
        }
        Ok(Self(understood(&text).into_owned()))
    }

    /// The pattern as it was understood.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// All characters before the first `*`.
    #[must_use]
    pub(super) fn literal(&self) -> &str {
        self.0.split('*').next().unwrap_or_default()
    }

    /// True if it means this resource.
    #[must_use]
    pub fn matches(&self, resource: &Resource<'_>) -> bool {
        glob(&self.0, resource.as_str())
    }
}

/// True if `pattern`, in which `*` stands for any characters, means all of `text`.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Behind the last star: where it stands, and how much of the text it has taken.
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(expected) if expected == byte => {
                p += 1;
                t += 1;
            }
            Some(_) | None => {
                let Some((at, taken)) = star else {
                    return false;
                };
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
        }
    }
    pattern.iter().skip(p).all(|rest| *rest == b'*')
}

/// The pattern that a resource name of RAM, without `acs:`, stands for.
fn of_ram(arn: &str) -> Result<String, String> {
    let parts: Vec<&str> = arn.splitn(4, ':').collect();
    let [service, _region, _account, path] = parts.as_slice() else {
        return Err("must be acs:cr:<region>:<account>:<resource>".to_owned());
    };
    if *service != "cr" && *service != "*" {
        return Err(format!(
            "is a resource of another service of Alibaba Cloud ({service:?}), not of Container Registry (`cr`)"
        ));
    }
    if matches!(*path, "*" | "repository/*") {
        return Ok("repository/*".to_owned());
    }
    let Some(rest) = path.strip_prefix("repository/") else {
        return Err(
            "must name a repository: acs:cr:*:*:repository/<instance>/<namespace>/<name>"
                .to_owned(),
        );
    };
    let name = match rest.split_once('/') {
        Some((first, name)) if first == "*" || first.starts_with("cri-") => name,
        // The Personal edition has no instances: the namespace comes first.
        Some((first, name)) if !first.contains('*') && !name.contains('/') => rest,
        Some((first, name)) if !first.contains('*') => name,
        Some(_) | None => "",
    };
    if name.is_empty() || name.ends_with('/') {
        return Err(
            "must name a repository: acs:cr:*:*:repository/<instance>/<namespace>/<name>, or without <instance>"
                .to_owned(),
        );
    }
    Ok(format!("repository/{name}"))
}

/// The name or pattern, with the upstream and the repository that a request by these names is for: a rule about
/// `mirror/registry-1.docker.io/nginx` is one about Docker Hub's `library/nginx`.
fn understood(text: &str) -> Cow<'_, str> {
    let Some((upstream, repository)) = text
        .strip_prefix("mirror/")
        .and_then(|rest| rest.split_once('/'))
        .filter(|(upstream, _)| !upstream.contains('*'))
    else {
        return text.into();
    };
    let upstream = canonical(upstream);
    let repository = if repository.contains('*') {
        repository.into()
    } else {
        directory::understood(&upstream, repository)
    };
    format!("mirror/{upstream}/{repository}").into()
}

/// Refuses what cannot be a resource's name.
fn check_kind(name: &str) -> Result<(), String> {
    let (kind, rest) = name.split_once('/').unwrap_or((name, ""));
    if name == "admin" || (kind == "admin" && !rest.is_empty()) {
        return Ok(());
    }
    match KINDS.iter().find(|known| **known == kind) {
        Some(_) if rest.is_empty() => Err(format!(
            "needs a name behind `{kind}/`: `{kind}/*` means all of them"
        )),
        Some(_) => Ok(()),
        None => Err(kinds()),
    }
}

fn kinds() -> String {
    "must begin with `mirror/<upstream>/`, `repository/<namespace>/` or `admin`, or be `*`"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_crosses_slashes() {
        let table = [
            ("*", "mirror/docker.io/library/alpine", true),
            (
                "mirror/docker.io/library/*",
                "mirror/docker.io/library/alpine",
                true,
            ),
            (
                "mirror/docker.io/*",
                "mirror/docker.io/library/alpine",
                true,
            ),
            (
                "mirror/docker.io/library/*",
                "mirror/docker.io/libraryx/alpine",
                false,
            ),
            (
                "mirror/docker.io/library",
                "mirror/docker.io/library/alpine",
                false,
            ),
            ("mirror/*/alpine", "mirror/docker.io/library/alpine", true),
            ("mirror/*/alpine", "mirror/docker.io/library/alpine2", false),
            ("mirror/ghcr.io/*/app*", "mirror/ghcr.io/a/b/app-1", true),
            ("admin", "admin", true),
            ("admin*", "admin/users", true),
            ("admin", "admin/users", false),
        ];
        for (pattern, name, expected) in table {
            let pattern = Pattern::parse(pattern).expect(pattern);
            let resource = Resource::parse(name).expect(name);
            assert_eq!(pattern.matches(&resource), expected, "{pattern:?} {name}");
        }
    }

    #[test]
    fn other_names_of_an_upstream_mean_the_same() {
        let table = [
            ("mirror/docker.io/pub", "mirror/docker.io/library/pub"),
            (
                "mirror/registry-1.docker.io/pub",
                "mirror/docker.io/library/pub",
            ),
            ("mirror/index.docker.io/acme/*", "mirror/docker.io/acme/*"),
            ("mirror/Docker.IO:443/team-a/*", "mirror/docker.io/team-a/*"),
            ("mirror/ghcr.io:443/app", "mirror/ghcr.io/app"),
            ("mirror/localhost:5000/app", "mirror/localhost:5000/app"),
            ("mirror/docker.io/n*", "mirror/docker.io/n*"),
            ("mirror/*/app", "mirror/*/app"),
            ("mirror/*", "mirror/*"),
            ("repository/team/app", "repository/team/app"),
        ];
        for (text, expected) in table {
            assert_eq!(Pattern::parse(text).expect(text).as_str(), expected);
            if !text.contains('*') {
                assert_eq!(Resource::parse(text).expect(text).as_str(), expected);
            }
        }
        let asked = Resource::mirror("registry-1.docker.io", "library/pub");
        assert!(
            Pattern::parse("mirror/docker.io/pub")
                .unwrap()
                .matches(&asked)
        );
    }

    #[test]
    fn names_of_ram_lose_what_means_nothing_here() {
        let table = [
            ("acs:cr:*:*:repository/*/team/*", "repository/team/*"),
            (
                "acs:cr:cn-hangzhou:1:repository/cri-1/team/app",
                "repository/team/app",
            ),
            ("acs:cr:*:*:repository/*", "repository/*"),
            ("acs:cr:*:*:repository/team/*", "repository/team/*"),
            ("acs:cr:*:*:repository/team/app", "repository/team/app"),
            ("acs:cr:*:*:repository/cri-1/*", "repository/*"),
            ("acs:cr:*:*:*", "repository/*"),
        ];
        for (text, expected) in table {
            assert_eq!(Pattern::parse(text).expect(text).as_str(), expected);
        }
        for text in [
            "acs:oss:*:*:bucket/x",
            "acs:cr:*",
            "acs:cr:*:*:chart/x",
            "acs:cr:*:*:instance/*",
            "acs:cr:*:*:repository/team",
            "acs:cr:*:*:repository/c*/team",
            "acs:cr:*:*:repository/cri-1/",
        ] {
            Pattern::parse(text).expect_err(text);
        }
    }

    #[test]
    fn what_can_mean_nothing_is_refused() {
        for text in [
            "",
            "docker.io/library/*",
            "mirror",
            "mirror/",
            "mirrors/*",
            "x*",
        ] {
            let why = Pattern::parse(text).expect_err(text);
            assert!(why.contains("mirror"), "{text}: {why}");
        }
        let long = format!("mirror/{}", "a".repeat(PATTERN_BYTES_MAX));
        Pattern::parse(&long).expect_err("too long");
        Pattern::parse("mirror/*a*a*a*a*a*a*a*a*").expect_err("too many stars");
    }
}
