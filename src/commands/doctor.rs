//! `doctor`: what is wrong with a server's surroundings, or with a node's way to the mirror.
//!
//! On the server each check asks what the server itself would: the configuration is read as by `check`, upstreams are
//! asked over the server's own client, addresses are bound for a moment, directories are looked at. Nothing is written,
//! the store is not opened, and a server that runs is asked and left alone. `node` is `--from-client`.

mod admin;
mod bucket;
mod certificates;
mod cluster;
mod finding;
mod listeners;
mod machine;
mod node;
mod process;
mod service;
mod upstreams;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::time::timeout;
use url::Url;

use super::cache::Screen;
use super::target::{AdminFlags, admin_url};
use super::{EXIT_DONE, EXIT_FAILED, run_async};
use crate::access::Guard;
use crate::app::start;
use crate::clock::SystemClock;
use crate::config::{Config, Loaded, Overrides};
use crate::format::{harmless, plural};
use crate::telemetry::Metrics;
use crate::upstream::OwnListeners;
use admin::Admin;
use finding::{Finding, show};
use node::NodeArguments;
use service::Service;

/// The longest look at this machine: a network file system may hang.
const MACHINE_MAX: Duration = Duration::from_secs(5);

/// The checks of a server, where the configuration says nothing.
const NEED_CONFIGURATION: [&str; 12] = [
    "exposure",
    "listener",
    "admin-listener",
    "tls-certificate",
    "access",
    "upstreams",
    "clock",
    "disk",
    "state",
    "descriptors",
    "service",
    "clients",
];

/// `doctor`.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Check the clients of this node instead: do they go through the mirror?
    #[arg(long)]
    from_client: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    admin: AdminAddress,
    #[command(flatten)]
    node: NodeArguments,
}

/// The admin listener, where flags name it.
#[derive(Clone, Debug, Args)]
struct AdminAddress {
    /// The admin listener of the running roadstead [env: `ROADSTEAD_ADMIN`] [default: the configuration's; with
    /// --from-client port 5001 of the mirror's host]
    #[arg(long, value_name = "URL|HOST:PORT", value_parser = admin_url, help_heading = "Server")]
    admin: Option<Url>,
    /// CA certificates (PEM) to verify the admin listener's certificate, besides the system's [env: `ROADSTEAD_ADMIN_CA`]
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    admin_ca: Option<PathBuf>,
    /// Certificate (PEM) to show to the admin listener [env: `ROADSTEAD_ADMIN_CERT`]
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    admin_cert: Option<PathBuf>,
    /// Its private key (PEM) [env: `ROADSTEAD_ADMIN_KEY`]
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    admin_key: Option<PathBuf>,
}

impl Arguments {
    fn admin_flags(&self) -> AdminFlags {
        AdminFlags {
            admin: self.admin.admin.clone(),
            admin_ca: self.admin.admin_ca.clone(),
            admin_cert: self.admin.admin_cert.clone(),
            admin_key: self.admin.admin_key.clone(),
            config: self.overrides.config.clone(),
        }
    }
}

/// Does what the arguments say; the exit code.
///
/// # Errors
/// The command line makes no sense: one line.
pub fn run(arguments: &Arguments) -> Result<u8, String> {
    let screen = Screen::new(arguments.json);
    let code = |well| if well { EXIT_DONE } else { EXIT_FAILED };
    if arguments.from_client {
        let flags = arguments.admin_flags();
        let job = arguments.node.job(&flags)?;
        return Ok(run_async(async {
            let findings = Box::pin(node::check(job)).await;
            code(show("client", &findings, screen))
        }));
    }
    Ok(run_async(async {
        let findings = Box::pin(server(arguments)).await;
        code(show("server", &findings, screen))
    }))
}

/// All checks of a server.
async fn server(arguments: &Arguments) -> Vec<Finding> {
    let overrides = &arguments.overrides;
    let file = Config::file_of(overrides);
    let loaded = match Config::load_with_notes(overrides) {
        Ok(loaded) => loaded,
        Err(error) => {
            let advice = "correct each of these; `roadstead config schema` and docs/reference/configuration-keys.md have the keys";
            let lines = error.lines().join("\n");
            let number = u64::try_from(error.lines().len()).unwrap_or(u64::MAX);
            let summary = format!("{} in the configuration", plural(number, "error"));
            let mut findings = vec![Finding::fail(
                "configuration",
                summary,
                format!("{lines}\n{advice}"),
            )];
            let why = "the configuration has errors";
            findings.extend(NEED_CONFIGURATION.map(|id| Finding::skipped(id, why)));
            return findings;
        }
    };
    let config = &loaded.config;
    let admin = arguments.admin_flags().server_of(config);
    let service = Service::ask(admin.and_then(|admin| Admin::new(&admin))).await;
    let known = service.status.as_ref().map(|it| &it.upstreams[..]);
    let own = own_listeners(config);
    let (listeners, upstreams, told, clients, machine, access, nodes, bucket) = tokio::join!(
        listeners::check(&config.server, service.runs()),
        upstreams::check(&config.upstreams, &own, known.unwrap_or_default()),
        service.check(file.as_deref()),
        service.clients(),
        machine(config, &service),
        access(config),
        cluster::check(config.cluster.as_deref(), &service),
        bucket::check(config.tier.as_deref(), &service),
    );
    let mut findings = vec![configuration(&loaded, file), exposure(config)];
    findings.extend(listeners);
    let (certificates, machine) = machine;
    findings.extend(certificates);
    findings.push(access);
    findings.extend(upstreams);
    findings.extend(machine);
    findings.extend(nodes);
    findings.extend(bucket);
    findings.extend([told, clients]);
    findings
}

/// The addresses that no upstream may lead to.
fn own_listeners(config: &Config) -> OwnListeners {
    let own = OwnListeners::default();
    let listeners = config.server.listeners.iter().map(|it| it.address);
    let all = listeners.chain([config.server.admin_listen]);
    own.are(all.filter(|address| address.port() != 0).collect());
    own
}

/// The configuration could be read.
fn configuration(loaded: &Loaded, file: Option<PathBuf>) -> Finding {
    let id = "configuration";
    let file = file.map_or_else(
        || "built-in defaults".to_owned(),
        |file| file.display().to_string(),
    );
    let upstreams = u64::try_from(loaded.config.upstreams.len()).unwrap_or(u64::MAX);
    let summary = format!("{file}: {}", plural(upstreams, "upstream"));
    if loaded.notes.is_empty() {
        return Finding::ok(id, summary);
    }
    let notes: Vec<_> = loaded.notes.iter().map(|note| harmless(note)).collect();
    Finding::warn(id, summary, notes.join("\n"))
}

/// Settings that open more than is likely meant.
fn exposure(config: &Config) -> Finding {
    let warnings = start::warnings(config);
    if warnings.is_empty() {
        let summary = "nothing is open that a start warns of";
        return Finding::ok("exposure", summary);
    }
    let number = u64::try_from(warnings.len()).unwrap_or(u64::MAX);
    let summary = format!("{} of a start", plural(number, "warning"));
    Finding::warn("exposure", summary, warnings.join("\n"))
}

/// The rules of access can be used.
async fn access(config: &Config) -> Finding {
    let id = "access";
    if !config.access.enabled {
        return Finding::skipped(id, "no rules of access ([access])");
    }
    let metrics = Metrics::new(std::iter::empty());
    // Without users and keys of the state directory, which are the server's.
    let opened = Guard::open(config.access.clone(), None, Arc::new(SystemClock), metrics).await;
    match opened {
        Ok(_) => {
            let policies = u64::try_from(config.access.policies.len()).unwrap_or(u64::MAX);
            let policies = match policies {
                1 => "1 policy".to_owned(),
                policies => format!("{policies} policies"),
            };
            Finding::ok(
                id,
                format!("{policies}; the files that [access] names can be read"),
            )
        }
        Err(error) => {
            let advice = "correct the file or key of [access] that it names";
            Finding::fail(id, error.to_string(), advice)
        }
    }
}

/// Certificates, and what this machine has for the service.
async fn machine(config: &Config, service: &Service) -> (Vec<Finding>, Vec<Finding>) {
    let used = service.status.as_ref().ok().map(|it| it.cache.used_bytes);
    let runs = service.runs();
    let (config, listen) = (config.clone(), config.server.listen());
    let looking = tokio::task::spawn_blocking(move || {
        let certificates = certificates::check(&config.server);
        let server = runs.then(|| process::listener(listen)).flatten();
        let machine = vec![
            machine::disk(&config.cache, used),
            machine::state(&config.state.dir, &config.cache.dir),
            machine::descriptors(config.server.limits.max_connections, server.as_ref()),
        ];
        (certificates, machine)
    });
    if let Ok(Ok(found)) = timeout(MACHINE_MAX, looking).await {
        return found;
    }
    let summary = format!("no answer within {} s", MACHINE_MAX.as_secs());
    let advice = "a file system hangs: see the mounts of cache.dir and state.dir";
    (Vec::new(), vec![Finding::fail("disk", summary, advice)])
}
