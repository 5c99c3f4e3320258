//! The work itself: image after image, each blob once.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::contents::{Contents, LEVELS_MAX};
use super::platform::{Platform, Wanted};
use super::progress::{ImageProgress, Reporter};
use super::report::{Count, ImageReport, Missing};
use super::server::{Found, GetError, Got, Server};
use crate::oci::manifest::Child;
use crate::oci::{Digest, ImageName, Reference};

/// One run.
pub(super) struct Run<'a> {
    server: &'a Server,
    wanted: &'a Wanted,
    reporter: &'a Reporter,
    /// The blobs of this run. A cell stays empty while nobody has got the blob.
    blobs: Mutex<HashMap<Digest, Arc<OnceCell<Transfer>>>>,
}

/// A blob that is in the cache now.
#[derive(Clone, Copy, Debug)]
struct Transfer {
    found: Found,
    bytes: u64,
}

/// A manifest that is to be had.
struct Wish {
    reference: Reference,
    platform: Option<Platform>,
}

impl<'a> Run<'a> {
    pub(super) fn new(server: &'a Server, wanted: &'a Wanted, reporter: &'a Reporter) -> Self {
        Self {
            server,
            wanted,
            reporter,
            blobs: Mutex::default(),
        }
    }

    /// Warms one image, and tells what came of it. What fails does not keep the rest from being fetched.
    pub(super) async fn image(&self, name: &ImageName) -> ImageReport {
        let begin = Instant::now();
        let progress = self.reporter.image(name);
        let mut report = ImageReport::of(name);
        let blobs = self.manifests(name, &mut report).await;
        progress.expect(blobs.iter().filter_map(|blob| blob.size).sum());
        let progress_of_all = &progress;
        let transfers = join_all(
            blobs
                .iter()
                .map(|blob| Box::pin(self.blob(name, blob, progress_of_all))),
        )
        .await;
        for (blob, transfer) in blobs.iter().zip(transfers) {
            match transfer {
                Ok(transfer) => report.blobs.add(transfer.found, transfer.bytes),
                // Its `urls` are where it is; few registries have it themselves.
                Err(error) if blob.foreign && error.is_not_found() => {}
                Err(error) => report.missing.push(Missing {
                    what: format!("blob {}", blob.digest),
                    why: error.to_string(),
                }),
            }
        }
        report.seconds = begin.elapsed().as_secs_f64();
        progress.finish(&report);
        report
    }

    /// All blobs of the run so far.
    pub(super) fn totals(&self) -> Count {
        let mut count = Count::default();
        let blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        for transfer in blobs.values().filter_map(|cell| cell.get()) {
            count.add(transfer.found, transfer.bytes);
        }
        count
    }

    /// Gets the manifests of an image, level by level, and names the blobs that they lead to, each once.
    async fn manifests(&self, name: &ImageName, report: &mut ImageReport) -> Vec<Child> {
        let mut blobs: Vec<Child> = Vec::new();
        let mut seen = HashSet::new();
        let mut level = vec![Wish {
            reference: name.reference.clone(),
            platform: None,
        }];
        for depth in 0..LEVELS_MAX {
            let asked = level
                .iter()
                .map(|wish| Box::pin(self.server.manifest(name, &wish.reference)));
            let answers = join_all(asked).await;
            let mut next = Vec::new();
            for (wish, answer) in level.iter().zip(answers) {
                let Some(contents) = self.read(wish, answer, depth, report) else {
                    continue;
                };
                for (digest, platform) in contents.manifests {
                    if seen.insert(digest) {
                        next.push(Wish {
                            reference: Reference::Digest(digest),
                            platform: platform.or_else(|| wish.platform.clone()),
                        });
                    }
                }
                let new = contents.blobs.into_iter();
                blobs.extend(new.filter(|blob| seen.insert(blob.digest)));
            }
            level = next;
            if level.is_empty() {
                return blobs;
            }
        }
        report.missing.push(Missing {
            what: "manifests".to_owned(),
            why: format!("indexes stand in indexes, more than {LEVELS_MAX} deep"),
        });
        blobs
    }

    /// The contents of one manifest; `None` when there is no such thing, which the report says then.
    fn read(
        &self,
        wish: &Wish,
        answer: Result<Got, GetError>,
        depth: usize,
        report: &mut ImageReport,
    ) -> Option<Contents> {
        let mut miss = |what: String, why: String| report.missing.push(Missing { what, why });
        let what = match &wish.platform {
            Some(platform) => format!("manifest {} ({platform})", wish.reference),
            None => format!("manifest {}", wish.reference),
        };
        let got = match answer {
            Ok(got) => got,
            Err(error) => {
                miss(what, error.to_string());
                return None;
            }
        };
        let contents = match Contents::of(got.content_type.as_deref(), &got.body, self.wanted) {
            Ok(contents) => contents,
            Err(error) => {
                miss(what, error.to_string());
                return None;
            }
        };
        // An index within an index is for one platform, and lacks the others rightly.
        if depth == 0 {
            let offered = contents.offered();
            for platform in &contents.unmet {
                let why = format!("the image has no such platform, only {offered}");
                miss(format!("platform {platform}"), why);
            }
            report.digest = got.digest;
        }
        if let Some(platform) = &wish.platform
            && contents.manifests.is_empty()
        {
            report.platforms.push(platform.to_string());
        }
        report.manifests.add(got.found, got.bytes);
        Some(contents)
    }

    /// Gets a blob, unless another image of this run has got it or is about to. Where that fails, this
    /// image's own repository is asked: it may have what the other does not.
    async fn blob(
        &self,
        name: &ImageName,
        blob: &Child,
        progress: &ImageProgress<'_>,
    ) -> Result<Transfer, GetError> {
        let cell = {
            let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(blobs.entry(blob.digest).or_default())
        };
        let mut is_own = false;
        let transfer = *cell
            .get_or_try_init(|| {
                is_own = true;
                self.transfer(name, blob, progress)
            })
            .await?;
        if !is_own {
            progress.shared(transfer.bytes);
        }
        Ok(transfer)
    }

    async fn transfer(
        &self,
        name: &ImageName,
        blob: &Child,
        progress: &ImageProgress<'_>,
    ) -> Result<Transfer, GetError> {
        let advance = |bytes| progress.advance(bytes);
        let got = self.server.blob(name, blob.digest, &advance).await?;
        Ok(Transfer {
            found: got.found,
            bytes: got.bytes,
        })
    }
}
