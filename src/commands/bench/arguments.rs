//! The command line of `bench`.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::{
    Job, Output, PARALLEL_DEFAULT, PARALLEL_MAX, PULLS_DEFAULT, PULLS_MAX, ROUNDS_MAX,
    ROUNDS_VS_DEFAULT, TIMEOUT_DEFAULT, TIMEOUT_MAX, Target,
};
use crate::commands::UsageError;
use crate::commands::warm::{Platform, Wanted};
use crate::oci::{ImageName, UpstreamName};
use crate::telemetry::Metrics;
use crate::upstream::{EndpointConfig, LoginConfig, Puller, Secret, Text};

/// The arguments of `bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The registry, as in `http://127.0.0.1:5000` or `https://registry-1.docker.io`
    #[arg(value_name = "URL")]
    pub url: Url,
    /// The image, as for `docker pull`: alpine is docker.io/library/alpine:latest
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Pulls at once
    #[arg(short = 'n', long, value_name = "N", default_value_t = PULLS_DEFAULT as u64,
          value_parser = clap::value_parser!(u64).range(1..=PULLS_MAX as u64))]
    pub pulls: u64,
    /// Another registry, measured in turn with the first
    #[arg(long, value_name = "URL2")]
    pub vs: Option<Url>,
    /// Measurements of each registry [default: 1; with --vs 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=ROUNDS_MAX as u64))]
    pub rounds: Option<u64>,
    /// Rounds before, which are not counted
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = clap::value_parser!(u64).range(0..=ROUNDS_MAX as u64))]
    pub warmup: u64,
    /// Blobs at once in each pull
    #[arg(long, value_name = "N", default_value_t = PARALLEL_DEFAULT as u64,
          value_parser = clap::value_parser!(u64).range(1..=PARALLEL_MAX as u64))]
    pub parallel: u64,
    /// The platform of a multi-platform image [default: linux on this machine's processor]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// The longest that one pull may take: 90s, 5m [default: 10m]
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<String>,
    /// The registry's name, sent as containerd sends it to a mirror (`?ns=`) [default: the one that IMAGE
    /// begins with, where that is not the URL's host]
    #[arg(long, value_name = "NAME")]
    pub ns: Option<String>,
    /// The user name for URL; URL2 is never given it
    #[arg(long, value_name = "NAME", requires = "password_file")]
    pub username: Option<String>,
    /// The file that the password is in
    #[arg(long, value_name = "FILE", requires = "username")]
    pub password_file: Option<PathBuf>,
    /// A `config.json` of Docker's, which may have a login for either registry
    #[arg(long, value_name = "FILE", conflicts_with = "username")]
    pub docker_config: Option<PathBuf>,
    /// Certificates (PEM) to check the registries' by, besides the system's
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Believe any certificate of the registries
    #[arg(long)]
    pub insecure: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Arguments {
    /// The job. Dials nothing; reads the certificates.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn job(&self) -> Result<Job, UsageError> {
        let image = ImageName::parse(&self.image);
        let image = image.map_err(|why| UsageError(format!("IMAGE {:?}: {why}", self.image)))?;
        let platform = match &self.platform {
            Some(text) => text.parse()?,
            None => Platform::of_this_machine(),
        };
        let timeout = self.timeout.as_deref().map_or(Ok(TIMEOUT_DEFAULT), time)?;
        if let Some(ns) = &self.ns {
            UpstreamName::parse(ns).map_err(|_| {
                UsageError(format!(
                    "--ns {ns:?}: not a registry's name, like docker.io or registry.internal:5000"
                ))
            })?;
        }
        let login = self.docker_config.clone().map(LoginConfig::DockerConfig);
        let own = self.login().or_else(|| login.clone());
        let mut targets = vec![self.target("URL", &self.url, own.as_ref(), &image, timeout)?];
        if let Some(vs) = &self.vs {
            targets.push(self.target("--vs", vs, login.as_ref(), &image, timeout)?);
        }
        let rounds = self.rounds.map_or_else(
            || {
                if self.vs.is_some() {
                    ROUNDS_VS_DEFAULT
                } else {
                    1
                }
            },
            bounded,
        );
        Ok(Job {
            image,
            wanted: Wanted::These(vec![platform]),
            targets,
            pulls: bounded(self.pulls),
            parallel: bounded(self.parallel),
            rounds,
            warmup: bounded(self.warmup),
            timeout,
            output: Output::of(self.json),
        })
    }

    fn login(&self) -> Option<LoginConfig> {
        let username = self.username.clone()?;
        let password = self.password_file.clone()?;
        Some(LoginConfig::Password {
            username: Text::Literal(Secret::new(username)),
            password: Text::File(password),
        })
    }

    fn target(
        &self,
        argument: &'static str,
        url: &Url,
        login: Option<&LoginConfig>,
        image: &ImageName,
        timeout: Duration,
    ) -> Result<Target, UsageError> {
        let mut endpoint = EndpointConfig::at(url.clone());
        endpoint.ca_file.clone_from(&self.ca_file);
        endpoint.insecure_skip_verify = self.insecure;
        let ns = self.ns.clone().or_else(|| ns(&self.image, image, url));
        // The counts of this one are read by nobody.
        let metrics = Metrics::new(std::iter::empty());
        let puller = Puller::new(endpoint, login, ns, timeout, metrics);
        Ok(Target {
            url: url.clone(),
            puller: puller.map_err(|why| UsageError(format!("{argument}: {why}")))?,
        })
    }
}

/// The name that a mirror is told, as containerd does it: the registry's that the image is of, where somebody
/// else is asked. One that the user has not written is not told: dockerd tells its mirrors nothing either.
fn ns(text: &str, image: &ImageName, url: &Url) -> Option<String> {
    let registry = image.upstream.as_str();
    let (first, _) = text.split_once('/')?;
    let is_hub = registry == DOCKER_HUB;
    let written = first.eq_ignore_ascii_case(registry)
        || is_hub && first.eq_ignore_ascii_case(DOCKER_HUB_LEGACY);
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    let own = registry == host
        || registry == format!("{host}:{port}")
        || is_hub && host.ends_with(DOCKER_HUB_HOSTS);
    (written && !own).then(|| registry.to_owned())
}

fn time(text: &str) -> Result<Duration, UsageError> {
    let time = humantime::parse_duration(text).ok();
    let fits = |time: &Duration| (Duration::from_secs(1)..=TIMEOUT_MAX).contains(time);
    time.filter(fits).ok_or_else(|| {
        UsageError(format!(
            "--timeout {text:?}: write a time from 1s to 24h, like 90s or 5m"
        ))
    })
}

fn bounded(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

const DOCKER_HUB: &str = "docker.io";
/// The name that it had once, and that is still written.
const DOCKER_HUB_LEGACY: &str = "index.docker.io";
/// `registry-1.docker.io` is where it is.
const DOCKER_HUB_HOSTS: &str = ".docker.io";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn job(line: &str) -> Result<Job, UsageError> {
        let words = std::iter::once("bench").chain(line.split(' '));
        Line::try_parse_from(words).unwrap().arguments.job()
    }

    #[test]
    fn one_round_is_enough_for_one_registry_and_three_for_two() {
        let one = job("http://a alpine -n 50").unwrap();
        assert_eq!(
            (one.pulls, one.parallel, one.rounds, one.warmup),
            (50, 3, 1, 0)
        );
        assert_eq!((one.targets.len(), one.timeout), (1, TIMEOUT_DEFAULT));
        let two = job("http://a alpine --vs http://b").unwrap();
        assert_eq!((two.targets.len(), two.rounds), (2, 3));
        assert_eq!(
            job("http://a alpine --vs http://b --rounds 5")
                .unwrap()
                .rounds,
            5
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |line: &str| job(line).unwrap_err().to_string();
        for (line, argument) in [
            ("http://a Alpine", "IMAGE \"Alpine\": "),
            ("localhost:5000 alpine", "URL: "),
            ("http://u:secret@a alpine", "URL: "),
            ("http://a?b alpine", "URL: "),
            ("http://a alpine --vs ftp://b", "--vs: "),
            ("http://a alpine --ca-file /none", "URL: ca_file /none"),
            ("http://a alpine --platform linux", "--platform: "),
            ("http://a alpine --timeout soon", "--timeout \"soon\": "),
            ("http://a alpine --timeout 25h", "--timeout \"25h\": "),
            ("http://a alpine --ns a/b", "--ns \"a/b\": "),
        ] {
            let told = wrong(line);
            assert!(told.starts_with(argument), "{line}: {told}");
            assert!(!told.contains("secret"), "{told}");
        }
        let refused = |line: &str| {
            let words = std::iter::once("bench").chain(line.split(' '));
            Line::try_parse_from(words).unwrap_err().to_string()
        };
        assert!(refused("http://a alpine -n 0").contains("--pulls"));
        assert!(refused("http://a alpine -n 1001").contains("--pulls"));
        assert!(refused("http://a alpine --parallel 33").contains("--parallel"));
        assert!(refused("http://a alpine --username u").contains("--password-file"));
    }

    #[test]
    fn a_mirror_is_told_the_registry_that_the_user_wrote() {
        let told = |image: &str, url: &str| {
            ns(
                image,
                &ImageName::parse(image).unwrap(),
                &url.parse().unwrap(),
            )
        };
        let mirror = "http://127.0.0.1:5000";
        for (image, name) in [
            ("alpine", None),
            ("grafana/grafana", None),
            ("docker.io/alpine", Some("docker.io")),
            ("index.docker.io/alpine", Some("docker.io")),
            ("ghcr.io/org/app:1", Some("ghcr.io")),
            ("127.0.0.1:5000/app", None),
        ] {
            assert_eq!(told(image, mirror).as_deref(), name, "{image}");
        }
        assert_eq!(told("ghcr.io/org/app", "https://ghcr.io"), None);
        assert_eq!(
            told("docker.io/alpine", "https://registry-1.docker.io"),
            None
        );
        assert_eq!(told("ghcr.io:443/a", "https://ghcr.io"), None);
    }
}
