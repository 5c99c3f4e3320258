//! `status`, `ls`, `du`.

use std::time::Duration;

use http::Method;
use serde::Serialize;

use super::arguments::{List, Status as StatusArguments, Usage as UsageArguments};
use super::screen::{Cell, Screen, Table, Tone, clean, percent, say, say_json, short, span};
use super::{each_hosted, each_image};
use crate::commands::output::is_refused;
use crate::commands::target::{Target, TargetError};
use crate::format::{plural, size};
use crate::mirror::inspect::{EndpointStatus, ImageEntry, PlatformState, Presence, Status, Usage};
use crate::oci::UpstreamName;
use crate::server::{ClientList, HostedImage, HostedUsage};
use crate::telemetry::metrics::HOSTED;

/// Repositories asked for: what a person looks through, and more.
const REPOSITORIES: &str = "10000";

/// Shows the state of the mirror.
pub(super) async fn status(
    target: &Target,
    arguments: &StatusArguments,
    screen: Screen,
) -> Result<(), TargetError> {
    let status: Status = target.ask(Method::GET, "/api/v1/status", &[]).await?;
    let clients = if arguments.clients {
        let asked = target.ask(Method::GET, "/api/v1/clients", &[]);
        Some(asked.await?)
    } else {
        None
    };
    if screen.json {
        say_json(&WithClients { status, clients });
        return Ok(());
    }
    let state = match status.uptime_seconds {
        Some(seconds) => format!("up {}", span(Duration::from_secs(seconds))),
        None => "no server runs".to_owned(),
    };
    let tone = if status.health == "ok" {
        Tone::Plain
    } else {
        Tone::Bad
    };
    let health = screen.paint(&clean(&status.health), tone);
    let version = screen.paint(
        &format!("roadstead {}", clean(&status.version)),
        Tone::Strong,
    );
    say(&format!("{version} ({}), {state}: {health}", target.name()));
    show_cache(&status);
    if status.running {
        show_traffic(&status);
        show_upstreams(&status, screen);
        show_fills(&status, screen);
    }
    if let Some(clients) = clients {
        show_clients(&clients, screen);
    }
    Ok(())
}

/// The state of the mirror, and the clients that were here.
#[derive(Debug, Serialize)]
struct WithClients {
    #[serde(flatten)]
    status: Status,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    clients: Option<ClientList>,
}

fn show_clients(ClientList { clients }: &ClientList, screen: Screen) {
    say("");
    let head = ["CLIENT", "LAST SEEN", ">REQUESTS", ">BYTES", "USER AGENT"];
    let mut table = Table::new(screen, &head);
    for client in clients {
        table.row(vec![
            client.address.to_string().into(),
            screen.ago(Some(client.last_seen)).into(),
            client.requests.to_string().into(),
            size(client.bytes).into(),
            clean(&client.user_agent).into(),
        ]);
    }
    table.flush();
    if clients.is_empty() {
        say("no client was here yet");
    }
}

fn show_cache(status: &Status) {
    let cache = &status.cache;
    let used = match cache.max_bytes {
        Some(max) => format!(
            "{} of {} ({})",
            size(cache.used_bytes),
            size(max),
            percent(part(cache.used_bytes, max))
        ),
        None => size(cache.used_bytes),
    };
    let free = cache.free_bytes.map(size);
    let free = free.map_or_else(String::new, |free| format!("; {free} free on the disk"));
    say(&format!("cache   {used}{free}"));
    say(&format!(
        "        {}, {}; pinned {}; partial and reserved {}; index {}",
        plural(cache.blobs, "blob"),
        size(cache.blob_bytes),
        size(cache.pinned_bytes),
        size(cache.reserved_bytes),
        size(cache.index_bytes),
    ));
    let dedup = &status.dedup;
    if let Some(ratio) = dedup.ratio {
        say(&format!(
            "dedup   {ratio:.2}: {} of repositories in {}",
            size(dedup.linked_bytes),
            size(dedup.stored_bytes)
        ));
    }
}

fn show_traffic(status: &Status) {
    let traffic = &status.traffic;
    say(&format!(
        "hits    {} of {}; {} not found, {} refused, {}",
        percent(traffic.hit_ratio),
        plural(traffic.pulls, "pull"),
        traffic.not_found,
        traffic.refused,
        plural(traffic.errors, "error"),
    ));
    say(&format!(
        "bytes   {} to clients, {} from upstreams; saved {} ({})",
        size(traffic.client_bytes),
        size(traffic.upstream_bytes),
        size(traffic.saved_bytes),
        percent(traffic.byte_hit_ratio),
    ));
}

fn show_upstreams(status: &Status, screen: Screen) {
    say("");
    let mut table = Table::new(
        screen,
        &[
            "UPSTREAM", ">PULLS", ">HITS", ">FETCHED", "ENDPOINT", "STATE", ">LATENCY", ">LEFT",
        ],
    );
    for upstream in &status.upstreams {
        for (at, endpoint) in upstream.endpoints.iter().enumerate() {
            let traffic = &upstream.traffic;
            let mut row: Vec<Cell> = if at == 0 {
                vec![
                    upstream.name.as_str().into(),
                    traffic.pulls.to_string().into(),
                    percent(traffic.hit_ratio).into(),
                    size(traffic.upstream_bytes).into(),
                ]
            } else {
                vec!["".into(), "".into(), "".into(), "".into()]
            };
            let latency = endpoint.latency_seconds.and_then(duration).map(span);
            row.extend([
                endpoint.host.as_str().into(),
                endpoint_state(endpoint),
                latency.unwrap_or_else(|| "-".to_owned()).into(),
                endpoint
                    .remaining_pulls
                    .map_or_else(|| "-".to_owned(), |left| left.to_string())
                    .into(),
            ]);
            table.row(row);
        }
    }
}

fn endpoint_state(endpoint: &EndpointStatus) -> Cell {
    let limited = endpoint.limited_for_seconds.and_then(duration);
    if let Some(limited) = limited {
        return Cell::toned(format!("limited for {}", span(limited)), Tone::Weak);
    }
    if endpoint.up {
        return match endpoint.failures {
            0 => "up".into(),
            failures => Cell::toned(
                format!("up, {} in a row", plural(u64::from(failures), "failure")),
                Tone::Weak,
            ),
        };
    }
    let wait = endpoint.asked_in_seconds.and_then(duration).map(span);
    let wait = wait.map_or_else(String::new, |wait| format!(" for {wait}"));
    let why = endpoint.why.as_deref().unwrap_or("it asked for rest");
    Cell::toned(format!("down{wait}: {why}"), Tone::Bad)
}

fn show_fills(status: &Status, screen: Screen) {
    if status.fills.is_empty() {
        return;
    }
    say("");
    let mut table = Table::new(
        screen,
        &["FILL", "REPOSITORY", ">BYTES", ">OF", ">DONE", ">READERS"],
    );
    for fill in &status.fills {
        let done = fill
            .total_bytes
            .and_then(|total| part(fill.covered_bytes, total));
        table.row(vec![
            short(&fill.digest).into(),
            fill.repository.as_str().into(),
            size(fill.covered_bytes).into(),
            fill.total_bytes.map_or_else(|| "?".to_owned(), size).into(),
            percent(done).into(),
            fill.readers.to_string().into(),
        ]);
    }
}

/// The images.
pub(super) async fn list(
    target: &Target,
    arguments: &List,
    screen: Screen,
) -> Result<(), TargetError> {
    let wanted = arguments.wanted.as_deref().unwrap_or_default();
    let head = [
        "IMAGE",
        "DIGEST",
        "PLATFORMS",
        ">SIZE",
        ">STORED",
        "USED",
        "CHECKED",
        "",
    ];
    let mut table = Table::new(screen, &head);
    let mut is_empty = true;
    each_image(target, wanted, |image| {
        is_empty = false;
        if screen.json {
            say_json(image);
        } else {
            table.row(image_row(image, screen));
        }
        !is_refused()
    })
    .await?;
    each_hosted(target, wanted, |image| {
        is_empty = false;
        if screen.json {
            say_json(image);
        } else {
            table.row(hosted_row(image));
        }
        !is_refused()
    })
    .await?;
    drop(table);
    if is_empty && !wanted.is_empty() {
        return Err(nothing_of(wanted));
    }
    Ok(())
}

fn nothing_of(wanted: &str) -> TargetError {
    TargetError::Refused {
        status: 404,
        message: format!("nothing of {wanted} is in the cache"),
    }
}

fn hosted_row(image: &HostedImage) -> Vec<Cell> {
    let bytes = size(image.size_bytes);
    vec![
        image.image.clone().into(),
        short(&image.digest).into(),
        "-".into(),
        bytes.clone().into(),
        bytes.into(),
        "-".into(),
        "-".into(),
        image.place.clone().into(),
    ]
}

fn image_row(image: &ImageEntry, screen: Screen) -> Vec<Cell> {
    let name = match &image.tag {
        Some(_) => image.image.clone(),
        // The digest has a column of its own.
        None => format!("{}/{}", image.upstream, image.repository),
    };
    let stored = size(image.stored_bytes);
    let stored = match image.presence {
        Presence::Stored => Cell::from(stored),
        Presence::Partial | Presence::Absent => Cell::toned(stored, Tone::Weak),
    };
    vec![
        name.into(),
        short(&image.digest).into(),
        platforms(&image.platforms).into(),
        size(image.size_bytes).into(),
        stored,
        screen.ago(image.used_at).into(),
        screen.ago(image.checked_at).into(),
        if image.pinned { "pinned" } else { "" }.into(),
    ]
}

/// Those that are stored, and how many more there are.
fn platforms(platforms: &[PlatformState]) -> String {
    let names = |wanted: Presence| {
        let some = platforms.iter().filter(move |it| it.presence == wanted);
        some.map(|it| it.platform.as_str())
    };
    let stored = names(Presence::Stored).map(ToOwned::to_owned);
    let partial = names(Presence::Partial).map(|name| format!("{name} (partly)"));
    let mut shown: Vec<String> = stored.chain(partial).collect();
    let absent = names(Presence::Absent).count();
    if absent > 0 {
        shown.push(format!("+{absent}"));
    }
    if shown.is_empty() {
        return "-".to_owned();
    }
    shown.join(", ")
}

/// Shows the disk usage of upstreams and repositories.
pub(super) async fn usage(
    target: &Target,
    arguments: &UsageArguments,
    screen: Screen,
) -> Result<(), TargetError> {
    let mut parameters = vec![("limit", REPOSITORIES)];
    if let [one] = arguments.upstreams.as_slice() {
        parameters.push(("upstream", one.as_str()));
    }
    let asked = target.ask(Method::GET, "/api/v1/usage", &parameters);
    let mut usage: Usage = asked.await?;
    let named: Vec<&str> = arguments
        .upstreams
        .iter()
        .map(UpstreamName::as_str)
        .collect();
    let wanted = |name: &str| named.is_empty() || named.contains(&name);
    usage.upstreams.retain(|it| wanted(&it.upstream));
    usage.repositories.retain(|it| wanted(&it.upstream));
    let hosted = hosted_usage(target).await?.filter(|_| wanted(HOSTED));
    let has = |name: &&&str| {
        let is_hosted = **name == HOSTED && hosted.is_some();
        is_hosted || usage.upstreams.iter().any(|it| it.upstream == **name)
    };
    let missing = named.iter().find(|name| !has(name)).copied();
    if screen.json {
        say_json(&WithHosted {
            usage: &usage,
            hosted: hosted.as_ref(),
        });
    } else {
        show_usage(&usage, screen);
        if let Some(hosted) = &hosted {
            show_hosted(hosted, screen);
        }
    }
    missing.map_or(Ok(()), |name| Err(nothing_of(name)))
}

/// The usage of the cache, and beside it that of hosted repositories.
#[derive(Debug, Serialize)]
struct WithHosted<'a> {
    #[serde(flatten)]
    usage: &'a Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    hosted: Option<&'a HostedUsage>,
}

/// The usage of hosted repositories; none where nothing is hosted, and without a server.
async fn hosted_usage(target: &Target) -> Result<Option<HostedUsage>, TargetError> {
    if !target.is_server() {
        return Ok(None);
    }
    match target.ask(Method::GET, "/api/v1/hosted/usage", &[]).await {
        Err(TargetError::Refused { status: 404, .. }) => Ok(None),
        usage => usage.map(Some),
    }
}

fn show_hosted(usage: &HostedUsage, screen: Screen) {
    say("");
    let head = [">BYTES", ">ALONE", ">SHARED", ">BLOBS", "HOSTED REPOSITORY"];
    let mut table = Table::new(screen, &head);
    for it in &usage.repositories {
        let shared = it.bytes.saturating_sub(it.exclusive_bytes);
        let bytes = [it.bytes, it.exclusive_bytes, shared];
        table.row(usage_row(bytes, it.blobs, &it.repository, Tone::Plain));
    }
    drop(table);
    say(&format!(
        "{} in {}, each counted once, with what is deleted and can be restored",
        size(usage.bytes),
        plural(usage.blobs, "hosted blob"),
    ));
}

fn show_usage(usage: &Usage, screen: Screen) {
    let mut table = Table::new(
        screen,
        &[
            ">BYTES",
            ">ALONE",
            ">SHARED",
            ">BLOBS",
            "UPSTREAM/REPOSITORY",
        ],
    );
    for upstream in &usage.upstreams {
        let bytes = [
            upstream.bytes,
            upstream.exclusive_bytes,
            upstream.shared_bytes,
        ];
        table.row(usage_row(
            bytes,
            upstream.blobs,
            &upstream.upstream,
            Tone::Strong,
        ));
        let own = usage.repositories.iter();
        for it in own.filter(|it| it.upstream == upstream.upstream) {
            let name = format!("  {}/{}", it.upstream, it.repository);
            let bytes = [it.bytes, it.exclusive_bytes, it.shared_bytes];
            table.row(usage_row(bytes, it.blobs, &name, Tone::Plain));
        }
    }
    drop(table);
    if usage.repositories_left_off > 0 {
        say(&format!(
            "and {} more repositories",
            usage.repositories_left_off
        ));
    }
    show_totals(usage, screen);
}

fn usage_row(bytes: [u64; 3], blobs: u64, name: &str, tone: Tone) -> Vec<Cell> {
    let mut row: Vec<Cell> = bytes.iter().map(|it| Cell::from(size(*it))).collect();
    row.push(blobs.to_string().into());
    row.push(Cell::toned(name, tone));
    row
}

fn show_totals(usage: &Usage, screen: Screen) {
    let totals = &usage.totals;
    if !usage.upstreams.is_empty() {
        say("");
    }
    let mut table = Table::new(screen, &[">BYTES", "THE WHOLE CACHE"]);
    for (bytes, what) in [
        (totals.exclusive_bytes, "of one repository alone"),
        (totals.shared_bytes, "shared by repositories, counted once"),
        (totals.unlinked_bytes, "of no known repository"),
        (totals.reserved_bytes, "partial files, and reserved"),
        (totals.index_bytes, "the index"),
    ] {
        table.row(vec![size(bytes).into(), what.into()]);
    }
    let sum = format!("in all, {}", plural(totals.blobs, "blob"));
    table.row(vec![
        size(totals.used_bytes).into(),
        Cell::toned(sum, Tone::Strong),
    ]);
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn part(some: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| some as f64 / all as f64)
}

/// Seconds as the API gives them.
fn duration(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}
