//! `doctor --from-client`: do the clients of this node go through the mirror?
//!
//! First what their files say, then what the mirror answers from here. With `--image` each client pulls it, and the pull is
//! looked for in the mirror.

mod containerd;
mod docker;
mod files;
mod podman;
mod pull;
mod surroundings;
mod verdict;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use http::StatusCode;
use url::Url;

use super::admin::Admin;
use super::finding::{Finding, Status};
use crate::commands::client::tls_advice;
use crate::commands::client_config::mirror::{HUB, Mirror};
use crate::commands::plain::PlainClient;
use crate::commands::target::{AdminFlags, AdminServer, named_server, server_url};
use crate::mirror::inspect;
use crate::upstream::FetchError;
use files::Node;
use surroundings::{Client, Image, Surroundings};
use verdict::Verdict;

/// The longest wait for the mirror's answer at `/v2/`, which comes from memory.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The admin listener's port, where no flag names it.
const ADMIN_PORT: u16 = 5001;

/// The flags of `--from-client`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "From a client")]
pub(super) struct NodeArguments {
    /// The mirror's address as this node reaches it [env: `ROADSTEAD_SERVER`]
    #[arg(long, value_name = "URL|HOST:PORT", value_parser = server_url, requires = "from_client")]
    server: Option<Url>,
    /// The client to check
    #[arg(long, value_enum, default_value_t = Choice::All)]
    client: Choice,
    /// Pull this image with each client, and look for the pull in the mirror
    #[arg(long, value_name = "IMAGE", requires = "from_client")]
    image: Option<String>,
    /// Certificates (PEM) to check the mirror's by, besides the system's
    #[arg(long, value_name = "FILE", requires = "from_client")]
    ca_file: Option<PathBuf>,
    /// The directory that the node's files are below
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/",
        hide_default_value = true
    )]
    root: PathBuf,
}

/// The clients that are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// dockerd
    Docker,
    /// containerd, as Kubernetes uses it
    Containerd,
    /// Podman, Buildah, Skopeo
    Podman,
    /// All that are on this node
    All,
}

/// All that is to be done.
#[derive(Debug)]
pub(super) struct Job {
    surroundings: Surroundings,
    clients: Vec<Client>,
    image: Option<Image>,
    ca_file: Option<PathBuf>,
    admin: AdminServer,
}

impl NodeArguments {
    /// The job.
    ///
    /// # Errors
    /// One line.
    pub(super) fn job(&self, flags: &AdminFlags) -> Result<Job, String> {
        let server = named_server(self.server.as_ref(), None)?;
        let server = server.ok_or("--from-client needs the mirror's address: --server URL")?;
        let mirror = Mirror::named(server.clone())?;
        let image = self.image.as_deref();
        let image = image.map(|text| Image::of(text, &mirror)).transpose()?;
        let clients = match self.client {
            Choice::Docker => vec![Client::Docker],
            Choice::Containerd => vec![Client::Containerd],
            Choice::Podman => vec![Client::Podman],
            Choice::All => vec![Client::Docker, Client::Containerd, Client::Podman],
        };
        let admin = match flags.named()? {
            Some(admin) => admin,
            None => beside(&server)?,
        };
        let registry = image.as_ref().map(|it| it.name.upstream.to_string());
        Ok(Job {
            surroundings: Surroundings {
                node: Node::open(&self.root)?,
                server,
                mirror,
                registries: registry.into_iter().collect(),
                is_trusted: true,
            },
            clients,
            image,
            ca_file: self.ca_file.clone(),
            admin,
        })
    }
}

/// The admin listener at the mirror's host.
fn beside(server: &Url) -> Result<AdminServer, String> {
    let host = server.host_str().unwrap_or_default();
    format!("http://{host}:{ADMIN_PORT}").parse()
}

/// All checks of a node.
pub(super) async fn check(mut job: Job) -> Vec<Finding> {
    let admin = Admin::new(&job.admin);
    let told: Result<inspect::Status, String> = match &admin {
        Ok(admin) => admin.json("/api/v1/status").await,
        Err(why) => Err(why.clone()),
    };
    let (server, is_trusted) = server(&job).await;
    job.surroundings.is_trusted = is_trusted;
    let registries = &mut job.surroundings.registries;
    if registries.is_empty() {
        let told = told.iter().flat_map(|told| &told.upstreams);
        registries.extend(told.map(|it| it.name.clone()));
    }
    if registries.is_empty() {
        registries.push(HUB.to_owned());
    }
    let surroundings = &job.surroundings;
    let answers = server.status != Status::Fail;
    let mut findings = vec![server];
    for client in &job.clients {
        let name = client.name();
        let id = format!("{name}:configuration");
        let Some(verdict) = looked_at(*client, surroundings, job.image.as_ref()) else {
            findings.push(Finding::skipped(id, format!("no {name} on this node")));
            continue;
        };
        let configuration = verdict.finding(&id);
        let pull = match &job.image {
            Some(image) if answers => {
                let probe = pull::Probe {
                    client: *client,
                    image,
                    surroundings,
                    ca_file: job.ca_file.as_ref(),
                    admin: admin.as_ref(),
                };
                Some(Box::pin(probe.run(&configuration)).await)
            }
            Some(_) => Some(Finding::skipped(
                format!("{name}:pull"),
                "the mirror does not answer",
            )),
            None => None,
        };
        findings.push(configuration);
        findings.extend(pull);
    }
    findings
}

/// The verdict on a client's files; `None`: it is not on this node.
fn looked_at(
    client: Client,
    surroundings: &Surroundings,
    image: Option<&Image>,
) -> Option<Verdict> {
    match client {
        Client::Docker => docker::look(surroundings, image),
        Client::Containerd => containerd::look(surroundings, image),
        Client::Podman => podman::look(surroundings, image),
    }
}

/// The mirror's answer from here; and whether this machine believes its certificate.
async fn server(job: &Job) -> (Finding, bool) {
    let url = &job.surroundings.server;
    let mut asked = ask(url, None).await;
    let is_trusted = !asked.as_ref().is_err_and(is_unknown);
    if !is_trusted && job.ca_file.is_some() {
        asked = ask(url, job.ca_file.clone()).await;
    }
    let id = "server";
    let finding = match asked {
        Ok((status, true)) if status == StatusCode::OK => {
            Finding::ok(id, format!("{url} answers at /v2/"))
        }
        Ok((status, true)) if status == StatusCode::UNAUTHORIZED => {
            Finding::ok(id, format!("{url} answers at /v2/, and asks who pulls"))
        }
        Ok((status, true)) => Finding::fail(
            id,
            format!("{url} answers {status} at /v2/"),
            "look into the mirror's log: access.allow may leave this node out",
        ),
        Ok((status, false)) => Finding::fail(
            id,
            format!("{url} answers {status} at /v2/, and is no registry"),
            "another program has the address: name the mirror's client listener with --server",
        ),
        Err(error) if is_unknown(&error) && job.ca_file.is_none() => Finding::warn(
            id,
            format!("{url}: this machine does not know who signed its certificate"),
            "each client needs the certificate of that authority (checked below); --ca-file names it for this check",
        ),
        Err(error) => {
            let advice = tls_advice(&error.to_string(), "--ca-file", "--server");
            let advice = advice.trim_start_matches("; ").to_owned();
            let advice = if advice.is_empty() {
                "does the mirror run, does server.listen have an address that this node reaches (127.0.0.1 is none), does a firewall let it through?".to_owned()
            } else {
                advice
            };
            Finding::fail(id, format!("{url}: {error}"), advice)
        }
    };
    (finding, is_trusted)
}

fn is_unknown(error: &FetchError) -> bool {
    let text = error.to_string();
    text.contains("UnknownIssuer") || text.contains("CaUsedAsEndEntity")
}

/// The status at `/v2/`, and whether a registry gave it.
async fn ask(url: &Url, ca_file: Option<PathBuf>) -> Result<(StatusCode, bool), FetchError> {
    let client = PlainClient::new(url, ca_file).map_err(FetchError::Connect)?;
    let response = client.get("/v2/", None, ANSWER_MAX).await?;
    let is_registry = response
        .headers()
        .contains_key("docker-distribution-api-version");
    Ok((response.status(), is_registry))
}
