//! `…:pull`: a client pulls an image, and the pull is looked for in the mirror.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use http_body_util::{BodyExt as _, Collected, Limited};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::process::Command;

use super::surroundings::{Client, Image, Surroundings};
use crate::commands::doctor::admin::Admin;
use crate::commands::doctor::finding::{Finding, Status};
use crate::commands::plain::PlainClient;
use crate::oci::AcceptClass;

/// The longest pull: a probe's image is small, and an upstream may be slow.
const PULL_MAX: Duration = Duration::from_mins(2);
/// The longest wait for the mirror to know of a pull that is over, in looks.
const LOOKS: u32 = 8;
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// The longest wait for the mirror's answer about the image, which may come from upstream.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// The part of a mirror's error that is read.
const ERROR_BYTES_MAX: usize = 16 * 1024;

/// One pull.
#[derive(Clone, Copy)]
pub(super) struct Probe<'a> {
    pub(super) client: Client,
    pub(super) image: &'a Image,
    pub(super) surroundings: &'a Surroundings,
    pub(super) ca_file: Option<&'a PathBuf>,
    pub(super) admin: Result<&'a Admin, &'a String>,
}

/// The pulls that a mirror knows of.
#[derive(Debug, Deserialize)]
struct Pulls {
    pulls: Vec<Pull>,
}

/// A pull, as the mirror tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Pull {
    image: String,
    #[serde(default)]
    client: String,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    started_at: String,
    #[serde(default)]
    requests: u64,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    cache_bytes: u64,
}

impl Probe<'_> {
    /// Pulls, and looks for the pull. `configuration`: the verdict on the client's files.
    pub(super) async fn run(self, configuration: &Finding) -> Finding {
        let name = self.client.name();
        let id = format!("{name}:pull");
        let Some(command) = self.command() else {
            return Finding::skipped(id, "no program of this node pulls with it (PATH)");
        };
        let before = self.pulls().await;
        if let Err(why) = run(&command).await {
            let advice = match self.answer().await {
                Err(why) => format!("the mirror {why}"),
                Ok(()) => "the mirror has the image: see the client's own log".to_owned(),
            };
            return Finding::fail(id, format!("`{}` failed: {why}", command.join(" ")), advice);
        }
        let before = match before {
            Ok(before) => before,
            Err(why) => {
                let summary = format!(
                    "pulled; that it came through the mirror could not be confirmed: {why}"
                );
                let advice = "let this node reach the mirror's admin listener, or name it with --admin; or look for the image in the mirror's log";
                return Finding::warn(id, summary, advice);
            }
        };
        if let Some(pull) = self.seen(&before).await {
            let from = match (pull.cache_bytes, pull.bytes) {
                (cached, bytes) if bytes > 0 && cached >= bytes => ", all from the cache",
                _ => "",
            };
            let summary = format!(
                "{} came through the mirror: {} requests of {} ({}){from}",
                pull.image, pull.requests, pull.client, pull.user_agent
            );
            return Finding::ok(id, summary);
        }
        let summary = format!(
            "{} went past the mirror: it was pulled, and the mirror saw nothing of it",
            self.image.text
        );
        Finding::fail(id, summary, self.reasons(configuration).await.join("\n"))
    }

    /// The program that pulls, with its arguments.
    fn command(&self) -> Option<Vec<String>> {
        let text = self.image.text.as_str();
        let full = if self.image.is_by_mirror {
            text.to_owned()
        } else {
            self.image.name.to_string()
        };
        let certs = crate::commands::client_config::cri::CERTS;
        let ways: &[&[&str]] = match self.client {
            Client::Docker => &[&["docker", "pull", "-q", text]],
            Client::Podman => &[&["podman", "pull", "-q", text]],
            Client::Containerd => &[
                &["crictl", "pull", text],
                &["nerdctl", "--namespace", "k8s.io", "pull", "-q", text],
                &[
                    "ctr",
                    "--namespace",
                    "k8s.io",
                    "images",
                    "pull",
                    "--hosts-dir",
                    certs,
                    &full,
                ],
            ],
        };
        let found = ways
            .iter()
            .find(|way| way.first().is_some_and(|it| is_on_path(it)));
        found.map(|way| way.iter().map(|it| (*it).to_owned()).collect())
    }

    /// The pulls of the image's repository that the mirror knows of.
    async fn pulls(&self) -> Result<Vec<Pull>, String> {
        let admin = self.admin.map_err(Clone::clone)?;
        let Pulls { mut pulls } = admin
            .json("/api/v1/pulls")
            .await
            .map_err(|why| format!("{}: {why}", admin.name))?;
        let name = &self.image.name;
        let repository = format!("{}/{}", name.upstream, name.repository);
        pulls.retain(|pull| {
            let rest = pull.image.strip_prefix(&repository);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']))
        });
        Ok(pulls)
    }

    /// The pull that was not there before.
    async fn seen(&self, before: &[Pull]) -> Option<Pull> {
        for look in 0..LOOKS {
            if look > 0 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            let pulls = self.pulls().await.unwrap_or_default();
            if let Some(new) = pulls.into_iter().find(|it| !before.contains(it)) {
                return Some(new);
            }
        }
        None
    }

    /// The likely reasons that a pull went past the mirror, the likeliest first.
    async fn reasons(&self, configuration: &Finding) -> Vec<String> {
        let mut reasons = Vec::new();
        if matches!(configuration.status, Status::Fail | Status::Warn) {
            reasons.push(format!("likely: {}", configuration.summary));
            reasons.extend(configuration.advice.clone());
        }
        if let Err(why) = self.answer().await {
            reasons.push(format!(
                "likely: the mirror {why}, and the client went on to the registry itself"
            ));
        }
        if reasons.is_empty() {
            let restart = match self.client {
                Client::Docker => {
                    "dockerd has not read its file again (docker info lists its mirrors)"
                }
                Client::Containerd => "containerd was not restarted after config.toml changed",
                Client::Podman => {
                    "a registries.conf of the user ($HOME/.config/containers) takes the place of the machine's"
                }
            };
            reasons.push(format!(
                "the client's files and the mirror look right. Perhaps {restart}"
            ));
            reasons.push("or the image was there already, and nothing had to be asked: remove it, and run doctor again".to_owned());
        }
        reasons
    }

    /// The mirror's answer for the image's manifest.
    ///
    /// # Errors
    /// Words that follow "the mirror".
    async fn answer(&self) -> Result<(), String> {
        let client = PlainClient::new(&self.surroundings.server, self.ca_file.cloned())?;
        let name = &self.image.name;
        let ns = utf8_percent_encode(name.upstream.as_str(), NON_ALPHANUMERIC);
        let target = format!(
            "/v2/{}/manifests/{}?ns={ns}",
            name.repository, name.reference
        );
        let accept = crate::oci::Accept::from(AcceptClass::ALL).header();
        let answer = client.get(&target, Some(&accept), ANSWER_MAX).await;
        let answer = answer.map_err(|error| format!("does not answer: {error}"))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let body = Limited::new(answer.into_body(), ERROR_BYTES_MAX).collect();
        let body = tokio::time::timeout(LOOK_EVERY, body).await;
        let body = body.ok().and_then(Result::ok).map(Collected::to_bytes);
        let said = body.and_then(|body| message(&body));
        let said = said.map_or(String::new(), |said| format!(" ({said})"));
        Err(format!("answers {status} for {name}{said}"))
    }
}

/// The message in a registry's error.
fn message(body: &[u8]) -> Option<String> {
    let error: serde_json::Value = serde_json::from_slice(body).ok()?;
    let message = error.get("errors")?.get(0)?.get("message")?.as_str()?;
    Some(message.to_owned())
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Runs a program to its end.
///
/// # Errors
/// The last line that it said.
async fn run(command: &[String]) -> Result<(), String> {
    let [program, arguments @ ..] = command else {
        return Err("no program".to_owned());
    };
    let mut child = Command::new(Path::new(program));
    child
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let ran = tokio::time::timeout(PULL_MAX, child.output()).await;
    let ran = ran.map_err(|_elapsed| format!("no end within {} s", PULL_MAX.as_secs()))?;
    let output = ran.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = said.lines().rev().find(|line| !line.trim().is_empty());
    Err(said.map_or_else(|| output.status.to_string(), |line| line.trim().to_owned()))
}
