//! Changes of what is hosted, for the audit log: each once, also over restarts.
//!
//! A page of changes is written, is on the disk, and then it is noted how far it went. A process that is killed in between
//! has written what is not noted: the next one looks for it at the end of the file. If it is not there any more (the file was
//! rotated twice, or more than a megabyte came behind it), the page is written again, with the same numbers.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::audit::{Audit, HostedRecord};
use crate::hosted::{EventPage, Hosted, HostedError};

/// The name under which it is noted how far this has come.
const NAME: &str = "audit";

/// Changes on a page: all that a kill can have written twice.
const PAGE_MAX: usize = 500;

/// Time between two looks at a log that cannot be written, or a catalogue that cannot be read.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Records changes, until `stop`.
pub(super) async fn record(hosted: Hosted, audit: Audit, stop: CancellationToken) {
    let mut recorded = None;
    let mut is_told = false;
    while !stop.is_cancelled() {
        match follow(&hosted, &audit, &mut recorded, &stop).await {
            Ok(()) => return,
            Err(error) if !is_told => {
                is_told = true;
                tracing::warn!(%error, "changes of hosted repositories wait to be recorded in the audit log");
            }
            Err(_again) => {}
        }
        drop(tokio::time::timeout(AGAIN_AFTER, stop.cancelled()).await);
    }
}

/// `recorded`: the last change that is in the file, as far as this process knows.
async fn follow(
    hosted: &Hosted,
    audit: &Audit,
    recorded: &mut Option<i64>,
    stop: &CancellationToken,
) -> Result<(), HostedError> {
    let mut consumer = hosted.consumer(NAME).await?;
    let seq = match *recorded {
        Some(seq) => seq,
        None => left(audit, consumer.seq(), hosted.last_event().await?).await,
    };
    consumer.skip_to(seq);
    loop {
        let page = consumer.next(PAGE_MAX).await?;
        if page.next == consumer.seq() && page.missed == 0 {
            tokio::select! {
                () = consumer.wait() => continue,
                () = stop.cancelled() => return Ok(()),
            }
        }
        if !write(audit, &page, stop).await {
            return Ok(());
        }
        *recorded = Some(page.next);
        consumer.done(&page).await?;
    }
}

/// The last change of the page behind `noted` that an earlier process has written without noting it.
async fn left(audit: &Audit, noted: i64, last: i64) -> i64 {
    let audit = audit.clone();
    let found = tokio::task::spawn_blocking(move || audit.last_hosted());
    let found = found.await.unwrap_or_default();
    let most = noted.saturating_add(i64::try_from(PAGE_MAX).unwrap_or(i64::MAX));
    // A number beyond is of another catalogue, which this one has replaced.
    let found = found.into_iter().filter(|it| *it <= most.min(last));
    found.max().unwrap_or(noted).max(noted)
}

/// Writes a page; false: the end has come before.
async fn write(audit: &Audit, page: &EventPage, stop: &CancellationToken) -> bool {
    let digests = page.events.iter();
    let digests = digests.map(|it| it.digest.map(|digest| digest.to_string()));
    let digests: Vec<Option<String>> = digests.collect();
    let records = page.events.iter().zip(&digests);
    let records = records.map(|(event, digest)| HostedRecord {
        seq: event.seq,
        at: event.at,
        change: &event.kind,
        repository: &event.repository,
        tag: event.tag.as_deref(),
        digest: digest.as_deref(),
        by: &event.by,
        rule: event.rule.as_deref(),
    });
    let records: Vec<HostedRecord<'_>> = records.collect();
    let mut place = None;
    while !stop.is_cancelled() {
        if place.is_none() {
            place = audit.append(page.missed, &records);
        }
        if let Some(place) = place {
            let audit = audit.clone();
            // What has room is written in the end, or the log is closed: it is not given twice.
            let waiting = tokio::task::spawn_blocking(move || audit.is_written(place, AGAIN_AFTER));
            if waiting.await.unwrap_or(false) {
                return true;
            }
        } else {
            drop(tokio::time::timeout(AGAIN_AFTER, stop.cancelled()).await);
        }
    }
    false
}
