//! Platforms: `linux/amd64`, `linux/arm/v7` (image-spec image-index.md; containerd's platforms package).

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// An operating system and a processor that an image runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    os: String,
    architecture: String,
    /// `v8`; empty when there is none.
    variant: String,
}

/// A platform as an index writes it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawPlatform {
    os: String,
    architecture: String,
    variant: String,
}

/// The images of an index that are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of them.
    All,
    /// The best match for each of these.
    These(Vec<Platform>),
}

/// The text is not `os/architecture[/variant]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no platform: write os/architecture[/variant], as in linux/arm64, or all")]
pub struct PlatformError(String);

impl Platform {
    /// Linux on this machine's processor, by the names that Go has for them, which images use.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self::of("linux", std::env::consts::ARCH, "")
    }

    fn of(os: &str, architecture: &str, variant: &str) -> Self {
        let lower = |text: &str| text.to_ascii_lowercase();
        let (os, architecture, variant) = (lower(os), lower(architecture), lower(variant));
        // As containerd's `normalizeArch` has it.
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386" | "x86", _) => ("386", String::new()),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", String::new()),
            ("x86_64" | "x86-64", _) => ("amd64", variant),
            ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64", "v8".to_owned()),
            ("aarch64", _) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7".to_owned()),
            ("armel", _) => ("arm", "v6".to_owned()),
            ("arm", "5" | "6" | "8") => ("arm", format!("v{variant}")),
            ("loongarch64", _) => ("loong64", variant),
            ("powerpc64", _) if cfg!(target_endian = "little") => ("ppc64le", variant),
            (other, _) => (other, variant.clone()),
        };
        Self {
            os,
            architecture: architecture.to_owned(),
            variant,
        }
    }

    /// The fitness of an image for `offered`; `None` when it does not run here. Higher is better: the very
    /// variant, and then the nearest older one (`arm/v7` runs what was built for v6).
    fn fit(&self, offered: &Self) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        if self.variant == offered.variant {
            return Some(u32::MAX);
        }
        let (own, other) = (generation(&self.variant), generation(&offered.variant));
        own.zip(other)
            .and_then(|(own, other)| (other <= own).then_some(other))
    }
}

/// The number of a variant: none is the first.
fn generation(variant: &str) -> Option<u32> {
    match variant {
        "" => Some(1),
        variant => variant.strip_prefix('v')?.parse().ok(),
    }
}

impl RawPlatform {
    /// The platform; `None` for what is none: `BuildKit` gives its attestations `unknown/unknown`.
    pub(super) fn resolve(&self) -> Option<Platform> {
        let is_named = |text: &str| !text.is_empty() && text != "unknown";
        (is_named(&self.os) && is_named(&self.architecture))
            .then(|| Platform::of(&self.os, &self.architecture, &self.variant))
    }
}

impl Wanted {
    /// Parses the values of `--platform`; none is this machine's.
    ///
    /// # Errors
    /// [`PlatformError`].
    pub fn parse(values: &[String]) -> Result<Self, PlatformError> {
        if values.is_empty() {
            return Ok(Self::These(vec![Platform::of_this_machine()]));
        }
        let mut platforms = Vec::new();
        for value in values.iter().filter(|value| *value != "all") {
            let platform: Platform = value.parse()?;
            if !platforms.contains(&platform) {
                platforms.push(platform);
            }
        }
        if values.iter().any(|value| value == "all") {
            return Ok(Self::All);
        }
        Ok(Self::These(platforms))
    }

    /// The offered platforms to take, by their positions, and the wanted ones that none of them fits.
    pub(super) fn choose(&self, offered: &[Option<Platform>]) -> (Vec<usize>, Vec<Platform>) {
        let Self::These(wanted) = self else {
            return ((0..offered.len()).collect(), Vec::new());
        };
        let mut taken = Vec::new();
        let mut unmet = Vec::new();
        for platform in wanted {
            let fits = offered
                .iter()
                .enumerate()
                .filter_map(|(at, other)| Some((platform.fit(other.as_ref()?)?, at)));
            // The first of equals: that is the one that clients take.
            match fits.max_by_key(|(fit, at)| (*fit, usize::MAX - at)) {
                Some((_, at)) => taken.push(at),
                None => unmet.push(platform.clone()),
            }
        }
        // Clients look into entries that do not say their platform, as into an artifact's.
        let silent = offered.iter().enumerate().filter(|(_, it)| it.is_none());
        taken.extend(silent.map(|(at, _)| at));
        taken.sort_unstable();
        taken.dedup();
        (taken, unmet)
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let is_word = |part: &&str| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
            !part.is_empty() && part.bytes().all(fits)
        };
        match parts.as_slice() {
            parts if !parts.iter().all(is_word) => Err(PlatformError(text.to_owned())),
            [os, architecture] => Ok(Self::of(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::of(os, architecture, variant)),
            _ => Err(PlatformError(text.to_owned())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match (self.architecture.as_str(), self.variant.as_str()) {
            (_, "") | ("arm64", "v8") => Ok(()),
            (_, variant) => write!(f, "/{variant}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    fn choose(wanted: &[&str], offered: &[&str]) -> (Vec<usize>, Vec<String>) {
        let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        let offered: Vec<Option<Platform>> = offered.iter().map(|text| text.parse().ok()).collect();
        let (taken, unmet) = Wanted::parse(&wanted).unwrap().choose(&offered);
        (taken, unmet.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn other_spellings_are_the_same_platform() {
        for (text, shown) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("windows/amd64", "windows/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
        ] {
            assert_eq!(platform(text).to_string(), shown);
        }
        for bad in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "a/b/c/d",
            "linux amd64",
            "l/a,b",
        ] {
            assert_eq!(bad.parse::<Platform>(), Err(PlatformError(bad.to_owned())));
        }
    }

    #[test]
    fn the_best_variant_is_taken() {
        let arms = [
            "linux/arm/v5",
            "linux/arm/v7",
            "linux/arm/v6",
            "linux/arm64",
        ];
        assert_eq!(choose(&["linux/arm"], &arms), (vec![1], vec![]));
        assert_eq!(choose(&["linux/arm/v6"], &arms), (vec![2], vec![]));
        assert_eq!(choose(&["linux/arm64"], &arms), (vec![3], vec![]));
        assert_eq!(
            choose(&["linux/arm/v6"], &arms[1..2]),
            (vec![], vec!["linux/arm/v6".to_owned()])
        );
        let plain = ["linux/amd64", "linux/amd64/v3"];
        assert_eq!(choose(&["linux/amd64"], &plain), (vec![0], vec![]));
        assert_eq!(choose(&["linux/amd64/v4"], &plain), (vec![1], vec![]));
    }

    #[test]
    fn all_means_all_and_what_is_not_there_is_named() {
        let offered = ["linux/amd64", "linux/arm64", "windows/amd64"];
        assert_eq!(choose(&["all"], &offered), (vec![0, 1, 2], vec![]));
        assert_eq!(
            choose(&["linux/arm64", "linux/s390x", "linux/arm64/v8"], &offered),
            (vec![1], vec!["linux/s390x".to_owned()])
        );
        // An entry that does not say is taken along.
        assert_eq!(
            choose(&["linux/amd64"], &["linux/amd64", "?"]),
            (vec![0, 1], vec![])
        );
    }

    /// It was passed over.
    #[test]
    fn nonsense_beside_all_is_refused() {
        let parse = |values: &[&str]| {
            let values: Vec<String> = values.iter().map(ToString::to_string).collect();
            Wanted::parse(&values)
        };
        assert_eq!(parse(&["all", "linux/arm64"]), Ok(Wanted::All));
        assert!(parse(&["all", "linux"]).is_err());
        assert!(parse(&["", "all"]).is_err());
    }

    #[test]
    fn without_a_wish_it_is_this_machine() {
        let wanted = Wanted::parse(&[]).unwrap();
        assert_eq!(wanted, Wanted::These(vec![Platform::of_this_machine()]));
        if cfg!(target_arch = "x86_64") {
            assert_eq!(Platform::of_this_machine().to_string(), "linux/amd64");
        }
    }
}
