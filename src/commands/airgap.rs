//! Carrying images to where no registry can be reached: `export` writes an OCI image layout of what a running
//! mirror has or can get, `import` puts one into a running mirror (image-spec, image-layout.md).
//!
//! | file | what it does |
//! | --- | --- |
//! | `arguments` | the command lines |
//! | `layout` | what the files of a layout say (pure) |
//! | `files` | writing one: a directory, or a tar archive; the only code here that changes files |
//! | `reading` | reading one, of either kind, written by whomever |
//! | `archive`, `spool` | archives as streams: their names and compression; unpacking one |
//! | `pull` | requests to the mirror that is exported from |
//! | `export` | the images, one after the other, each blob once |
//! | `push` | requests to the mirror that is imported into |
//! | `push_hosted` | pushing to hosted repositories instead |
//! | `import` | the images, each of which is there whole or not at all |
//! | `progress` | what the user sees |

mod archive;
mod arguments;
mod below;
mod export;
mod files;
mod import;
mod layout;
mod progress;
mod pull;
mod push;
mod push_hosted;
mod reading;
mod spool;

pub use arguments::{ExportArguments, ImportArguments};
pub(super) use below::Root;
pub use export::{ExportJob, Exported, export};
pub use import::{ImportJob, Naming, Put, import};
pub(super) use progress::Reporter;

use crate::oci::Digest;
use std::path::Path;

/// The reason that an export or import did not come to its end: one line that names the file, image or blob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AirgapError(String);

impl AirgapError {
    /// An error of a file, image or blob.
    fn of(what: impl std::fmt::Display, why: impl std::fmt::Display) -> Self {
        Self(format!("{what}: {why}"))
    }
}

/// The digests of the images that a layout holds, of a directory or a tar archive that anybody may have written: what
/// an import reads before it asks a server for anything.
///
/// # Errors
/// [`AirgapError`]: it is no layout, or its index names what is no digest.
pub fn layout_digests(path: &Path) -> Result<Vec<Digest>, AirgapError> {
    let layout = reading::Layout::open(path)?;
    let images = layout.index()?.manifests;
    let digest = |image: layout::Descriptor| {
        let parsed = Digest::parse(&image.digest);
        parsed.map_err(|error| layout.fault(layout::INDEX, error))
    };
    images.into_iter().map(digest).collect()
}
