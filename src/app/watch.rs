//! The configuration file, which is read again when it has changed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::reload::Reload;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Marks of a file, or of what a link leads to: Kubernetes replaces a mounted file by moving a link of its directory.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Reloads when the file has changed and has stayed as it is for one look: an editor writes it in several steps.
pub(super) async fn watch(reload: Arc<Reload>, file: PathBuf, stop: CancellationToken) {
    let mut used = look(&file).await;
    let mut seen = used;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
        let now = look(&file).await;
        // A file that is away is likely being replaced.
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

async fn look(file: &Path) -> Stamp {
    let file = file.to_owned();
    let looked = tokio::task::spawn_blocking(move || stamp(&file)).await;
    looked.ok().flatten()
}

fn stamp(file: &Path) -> Stamp {
    let known = fs::metadata(file).ok()?;
    Some((
        known.dev(),
        known.ino(),
        known.len(),
        known.mtime(),
        known.mtime_nsec(),
    ))
}
