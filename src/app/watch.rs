//! The configuration file, which is read again when it has changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::reload::Reload;
use crate::stamp::Stamp;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Reloads when the file has changed and has stayed as it is for one look: an editor writes it in several steps.
/// `used` is its state when it was read at the start, which may be long ago: the store has been opened since.
pub(super) async fn watch(
    reload: Arc<Reload>,
    file: PathBuf,
    mut used: Option<Stamp>,
    stop: CancellationToken,
) {
    let mut seen = used;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
        let now = look(&file).await;
        if now.is_some() && now == seen && now != used {
            used = now;
            tracing::info!(file = %file.display(), "the configuration file has changed: it is read again");
            let reload = Arc::clone(&reload);
            // It logs what became of it.
            tokio::task::spawn_blocking(move || reload.run().ok())
                .await
                .ok();
        }
        seen = now;
    }
}

/// Looks at the file, or at what a link leads to: Kubernetes replaces a mounted file by moving a link of its directory.
/// `None`: it is away, and likely being replaced.
async fn look(file: &Path) -> Option<Stamp> {
    let file = file.to_owned();
    let looked = tokio::task::spawn_blocking(move || Stamp::look(&file)).await;
    looked.ok().flatten()
}
