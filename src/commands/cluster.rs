//! `cluster`: the nodes as one of them sees them, and a node that is about to leave.

use clap::{Args, Subcommand};
use http::Method;

use super::cache::screen::{Cell, Screen, Table, Tone, clean, say, say_json};
use super::target::{AdminFlags, Locator, Target, TargetError};
use crate::format::{plural, size};
use crate::server::{ClusterReport, TierStatus};

/// The path of the admin API.
const PATH: &str = "/api/v1/cluster";

/// The path of the object store's state.
const TIER_PATH: &str = "/api/v1/tier";

/// Nodes of a cluster.
#[derive(Clone, Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show the nodes: addresses, names, versions, zones, and who does not answer
    Status(Status),
    /// Have a node own nothing from now on, before it is stopped; its clients are served on
    Drain(Drain),
}

/// `cluster status`.
#[derive(Clone, Debug, Args)]
pub struct Status {
    #[command(flatten)]
    common: Common,
}

/// `cluster drain`.
#[derive(Clone, Debug, Args)]
pub struct Drain {
    /// The node's name, the beginning of it, its host name, or its address; without it, the one that is asked
    #[arg(value_name = "NODE")]
    node: Option<String>,
    /// Have it own its part again
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    common: Common,
}

/// The node to ask, and the form of the answer.
#[derive(Clone, Debug, Args)]
struct Common {
    #[command(flatten)]
    server: AdminFlags,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ClusterCommand {
    fn common(&self) -> &Common {
        match self {
            Self::Status(it) => &it.common,
            Self::Drain(it) => &it.common,
        }
    }

    /// The node to ask.
    ///
    /// # Errors
    /// One line: a flag makes no sense, or the configuration does not say where the node is.
    pub fn locate(&self) -> Result<Locator, String> {
        Locator::of(&self.common().server, None, None)
    }
}

/// Asks, and shows what the node sees.
///
/// # Errors
/// [`TargetError`]: it does not answer, or is in no cluster.
pub async fn run(command: &ClusterCommand, place: &Locator) -> Result<(), TargetError> {
    let target = place.reach_server().await?;
    let report: ClusterReport = match command {
        ClusterCommand::Status(_) => return status(&target, command).await,
        ClusterCommand::Drain(it) => {
            let mut parameters = vec![("leaving", if it.undo { "false" } else { "true" })];
            parameters.extend(it.node.as_deref().map(|node| ("node", node)));
            target.ask(Method::POST, PATH, &parameters).await?
        }
    };
    let screen = Screen::new(command.common().json);
    if screen.json {
        say_json(&report);
    } else {
        show(&report, screen);
    }
    Ok(())
}

/// The nodes, and the object store; one of both is enough.
async fn status(target: &Target, command: &ClusterCommand) -> Result<(), TargetError> {
    let nodes: Result<ClusterReport, _> = target.ask(Method::GET, PATH, &[]).await;
    let tier: Result<TierStatus, _> = target.ask(Method::GET, TIER_PATH, &[]).await;
    let (nodes, tier) = match (nodes, tier) {
        (Err(error), Err(_)) => return Err(error),
        (nodes, tier) => (nodes.ok(), tier.ok()),
    };
    let screen = Screen::new(command.common().json);
    if screen.json {
        match (&nodes, &tier) {
            (Some(nodes), None) => say_json(nodes),
            (nodes, tier) => say_json(&serde_json::json!({ "cluster": nodes, "tier": tier })),
        }
        return Ok(());
    }
    if let Some(nodes) = &nodes {
        show(nodes, screen);
    }
    if let Some(tier) = &tier {
        show_tier(tier);
    }
    Ok(())
}

fn show_tier(tier: &TierStatus) {
    let TierStatus {
        bucket,
        state,
        trouble,
        pending_blobs,
        pending_bytes,
        pending_facts,
    } = tier;
    say(&format!(
        "object store {}: {state}; to be written: {} ({}), {pending_facts} tags and links",
        clean(bucket),
        plural(*pending_blobs as u64, "blob"),
        size(*pending_bytes),
    ));
    if let Some(trouble) = trouble {
        say(&format!("  {}", clean(trouble)));
    }
}

fn show(report: &ClusterReport, screen: Screen) {
    let mut table = Table::new(
        screen,
        &["NODE", "HOST", "ADDRESS", "STATE", "ZONE", "VERSION"],
    );
    for member in &report.members {
        let text = |text: &Option<String>| Cell::from(text.as_deref().unwrap_or("-"));
        let tone = match member.state.as_str() {
            "this" | "up" => Tone::Good,
            "leaving" => Tone::Weak,
            _ => Tone::Bad,
        };
        table.row(vec![
            text(&member.node),
            text(&member.host),
            Cell::from(member.address.to_string()),
            Cell::toned(&member.state, tone),
            text(&member.zone),
            text(&member.version),
        ]);
    }
    table.flush();
    for member in &report.members {
        if let Some(trouble) = &member.trouble {
            say(&format!("{}: {}", member.address, clean(trouble)));
        }
    }
    if report.is_leaving {
        say("this node owns nothing: it is about to leave");
    }
}
