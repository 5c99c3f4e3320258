//! Looks at what is stored: at the cache, and then at what is hosted. The two know nothing of each other.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::hosted::{FlawKind, Hosted, HostedError, Verifying};
use crate::mirror::{
    Fault, Finding, Mirror, VerifyBusy, VerifyEvent, VerifyProgress, VerifySummary,
};
use crate::oci::ImageName;

/// Events that wait for whoever reads them; then the work waits.
const EVENTS_AHEAD: usize = 16;

/// Hashes all that is stored, hosted content too, or what `images` need of the cache. Dropping the receiver ends the run.
///
/// # Errors
/// [`VerifyBusy`].
pub fn verify(
    mirror: &Mirror,
    hosted: Option<&Hosted>,
    images: Vec<ImageName>,
    repair: bool,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<mpsc::Receiver<VerifyEvent>, VerifyBusy> {
    let all = images.is_empty();
    let own = mirror.operator().audit().begin(images, repair)?;
    let Some(hosted) = hosted.filter(|_| all).cloned() else {
        return Ok(own);
    };
    let (events, receiver) = mpsc::channel(EVENTS_AHEAD);
    let stop = stop.clone();
    tasks.spawn(async move {
        let mut both = Both {
            events: events.clone(),
            before: VerifyProgress::default(),
            summary: VerifySummary::default(),
        };
        let begun = tokio::time::Instant::now();
        let work = async {
            let Some(summary) = both.of_mirror(own).await else {
                return;
            };
            both.summary = summary;
            let last = match both.of_hosted(&hosted, repair).await {
                Ok(()) => VerifyEvent::Summary(VerifySummary {
                    seconds: begun.elapsed().as_secs_f64(),
                    ..both.summary
                }),
                Err(error) => VerifyEvent::Failed(error.to_string()),
            };
            both.tell(last).await;
        };
        tokio::select! {
            () = work => {}
            () = events.closed() => {}
            () = stop.cancelled() => {
                // Nobody to tell is no reason to do anything else.
                events.try_send(VerifyEvent::Failed("the server is stopping".to_owned())).ok();
            }
        }
    });
    Ok(receiver)
}

/// A run over both.
struct Both {
    events: mpsc::Sender<VerifyEvent>,
    /// The progress at the end of the first part.
    before: VerifyProgress,
    summary: VerifySummary,
}

impl Both {
    async fn tell(&self, event: VerifyEvent) {
        // When nobody listens any more the run is ended from outside.
        self.events.send(event).await.ok();
    }

    /// The cache; nothing, if it did not come to its end.
    async fn of_mirror(&mut self, mut own: mpsc::Receiver<VerifyEvent>) -> Option<VerifySummary> {
        while let Some(event) = own.recv().await {
            match event {
                VerifyEvent::Summary(summary) => {
                    self.before.blobs = summary.blobs;
                    self.before.of_blobs = summary.blobs;
                    self.before.bytes = summary.bytes;
                    self.before.of_bytes = summary.bytes;
                    return Some(summary);
                }
                event @ (VerifyEvent::Progress(_)
                | VerifyEvent::Finding(_)
                | VerifyEvent::Failed(_)) => self.tell(event).await,
            }
        }
        None
    }

    async fn of_hosted(&mut self, hosted: &Hosted, repair: bool) -> Result<(), HostedError> {
        let (sender, mut receiver) = mpsc::channel(EVENTS_AHEAD);
        let verifying = async {
            let verified = hosted.verify(repair, &sender).await;
            drop(sender);
            verified
        };
        let hearing = async {
            let mut progress = self.before;
            while let Some(event) = receiver.recv().await {
                self.hear(event, &mut progress).await;
            }
        };
        let (verified, ()) = tokio::join!(verifying, hearing);
        verified
    }

    async fn hear(&mut self, event: Verifying, progress: &mut VerifyProgress) {
        match event {
            Verifying::All(blobs, bytes) => {
                progress.of_blobs += blobs;
                progress.of_bytes += bytes;
            }
            Verifying::Done(blobs, bytes) => {
                progress.blobs = self.before.blobs + blobs;
                progress.bytes = self.before.bytes + bytes;
                progress.of_blobs = progress.of_blobs.max(progress.blobs);
                progress.of_bytes = progress.of_bytes.max(progress.bytes);
                self.summary.blobs = progress.blobs;
                self.summary.bytes = progress.bytes;
                self.tell(VerifyEvent::Progress(*progress)).await;
            }
            Verifying::Unreadable => self.summary.unreadable += 1,
            Verifying::Flaw(flaw) => {
                let fault = match flaw.kind {
                    FlawKind::Damaged => Fault::Damaged,
                    FlawKind::WrongSize => Fault::WrongSize,
                    FlawKind::Missing => Fault::Missing,
                    FlawKind::Stray => Fault::Stray,
                };
                let repaired = flaw.repaired.as_ref().map(Result::is_ok);
                self.summary.findings += 1;
                self.summary.repaired += u64::from(repaired == Some(true));
                let finding = Finding {
                    fault,
                    digest: Some(flaw.digest.to_string()),
                    why: flaw.why,
                    images: flaw.repositories,
                    repaired,
                    unrepaired: flaw.repaired.and_then(Result::err),
                };
                self.tell(VerifyEvent::Finding(finding)).await;
            }
        }
    }
}
