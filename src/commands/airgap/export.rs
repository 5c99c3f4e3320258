//! The images of an export: their manifests first, so that it is known what there is; then everything in the
//! order of its names, each blob once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use url::Url;

use super::AirgapError;
use super::archive::Form;
use super::files::Target;
use super::layout::{Descriptor, Index, blob_path};
use super::progress::Reporter;
use super::pull::{Asked, Manifest, Mirror};
use crate::commands::output::Output;
use crate::commands::warm::{Contents, LEVELS_MAX, Wanted};
use crate::format::{plural, size};
use crate::oci::manifest::{Child, ChildKind, inspect};
use crate::oci::{Digest, ImageName, Reference};

/// A run of `export`.
#[derive(Clone, Debug)]
pub struct ExportJob {
    /// The images.
    pub images: Vec<ImageName>,
    /// Those of them that are written without an upstream: one of that name which is hosted is meant, if there is one.
    pub bare: Vec<ImageName>,
    /// A directory, an archive, or `-` for standard output.
    pub target: PathBuf,
    /// The platforms of them that are wanted.
    pub wanted: Wanted,
    /// The URL of the server's client listener.
    pub server: Url,
    /// Further certificates to check that server's by.
    pub ca_file: Option<PathBuf>,
    /// The form of the answer.
    pub output: Output,
}

/// The result of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Manifests and blobs, shared ones counted once.
    pub things: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Number of them that a directory had already, from an export before.
    pub there: usize,
}

/// All that is to be written, by its path.
type Plan = BTreeMap<String, Thing>;

struct Thing {
    digest: Digest,
    size: u64,
    from: From,
}

enum From {
    /// A manifest that has been fetched.
    Here(Vec<u8>),
    /// A blob of this image.
    Image(Asked),
}

/// Exports images through a running mirror, and shows it.
///
/// # Errors
/// [`AirgapError`]. An archive is not there then; of a directory, what has come stays for the next try.
pub async fn export(job: &ExportJob) -> Result<Exported, AirgapError> {
    let form = Form::of(&job.target).map_err(AirgapError)?;
    let mirror = Mirror::new(&job.server, job.ca_file.clone())?;
    mirror.ping(&job.server).await?;
    // Where the archive is the answer, nothing else may be in it.
    let is_answer = form == Form::Stream;
    let target_name = if is_answer {
        "standard output".to_owned()
    } else {
        job.target.display().to_string()
    };
    let reporter = Reporter::new(job.output, is_answer);
    let mut plan = Plan::new();
    let mut roots = Vec::new();
    for image in &job.images {
        let name = Asked {
            image: image.clone(),
            is_hosted: job.bare.contains(image) && mirror.hosts(image).await,
        };
        reporter.progress.doing(&name.to_string());
        roots.push(look_at(&mirror, &name, job, &mut plan, &reporter).await?);
    }
    reporter
        .progress
        .expect(plan.values().map(|thing| thing.size).sum());
    let mut target = Target::open(&job.target, &form)?;
    let written = write(&mirror, &mut target, roots, plan, &reporter).await;
    match written {
        Ok((index, exported)) => {
            target.finish(&index)?;
            reporter.line(&format!(
                "{} in {target_name}: {}, {}, {} of them there already",
                plural(job.images.len() as u64, "image"),
                plural(exported.things as u64, "file"),
                size(exported.bytes),
                exported.there,
            ));
            reporter.json(&serde_json::json!({ "summary": {
                "images": job.images.len(),
                "target": job.target.display().to_string(),
                "files": exported.things,
                "bytes": exported.bytes,
                "there": exported.there,
            } }));
            Ok(exported)
        }
        Err(error) => {
            target.give_up();
            Err(error)
        }
    }
}

/// Fetches an image's manifests, and plans what it needs.
async fn look_at(
    mirror: &Mirror,
    name: &Asked,
    job: &ExportJob,
    plan: &mut Plan,
    reporter: &Reporter,
) -> Result<Descriptor, AirgapError> {
    let mut root = None;
    let mut level = vec![name.image.reference.clone()];
    let mut left_out = 0_u64;
    for depth in 0..LEVELS_MAX {
        let mut next = Vec::new();
        for reference in level {
            let manifest = mirror.manifest(name, &reference).await?;
            let children = children(name, &manifest, &job.wanted, depth == 0)?;
            let (digest, bytes) = (manifest.digest, manifest.bytes.len() as u64);
            if root.is_none() {
                let media_type = children.media_type.as_str();
                root = Some(Descriptor::of(
                    &name.to_string(),
                    media_type,
                    &digest,
                    bytes,
                ));
            }
            put(plan, digest, bytes, From::Here(manifest.bytes));
            let manifests = children.manifests.into_iter();
            next.extend(manifests.map(Reference::Digest));
            for blob in children.blobs {
                // Its `urls` are where it is; few registries have it themselves.
                if blob.foreign {
                    left_out += 1;
                    continue;
                }
                let Some(size) = blob.size else {
                    let why = "its manifest is of schema 1, which a layout cannot hold";
                    return Err(AirgapError::of(name, why));
                };
                put(plan, blob.digest, size, From::Image(name.clone()));
            }
        }
        level = next;
        if level.is_empty() {
            break;
        }
    }
    if left_out > 0 {
        reporter.note(&format!(
            "note: {name}: {} that only their vendors give away left out",
            plural(left_out, "layer")
        ));
    }
    root.filter(|_| level.is_empty()).ok_or_else(|| {
        let why = format!("indexes stand in indexes, more than {LEVELS_MAX} deep");
        AirgapError::of(name, why)
    })
}

/// The children of a manifest, as far as they are wanted.
struct Children {
    media_type: String,
    manifests: Vec<Digest>,
    blobs: Vec<Child>,
}

fn children(
    name: &Asked,
    manifest: &Manifest,
    wanted: &Wanted,
    is_root: bool,
) -> Result<Children, AirgapError> {
    let failed = |why: &dyn std::fmt::Display| {
        AirgapError::of(format!("{name}: manifest {}", manifest.digest), why)
    };
    let content_type = manifest.content_type.as_deref();
    let inspection = inspect(content_type, &manifest.bytes).map_err(|error| failed(&error))?;
    if inspection.schema1_payload.is_some() {
        return Err(failed(&"it is of schema 1, which a layout cannot hold"));
    }
    let media_type = inspection.media_type.clone();
    if *wanted == Wanted::All {
        // Attestations too: then the index has everything that it names.
        let (manifests, blobs): (Vec<Child>, Vec<Child>) = inspection
            .children
            .into_iter()
            .partition(|child| child.kind == ChildKind::Manifest);
        let manifests = manifests.into_iter().map(|child| child.digest).collect();
        return Ok(Children {
            media_type,
            manifests,
            blobs,
        });
    }
    let contents = Contents::of_inspected(inspection, &manifest.bytes, wanted);
    // An index within an index is for one platform, and lacks the others rightly.
    if let Some(unmet) = contents.unmet.first().filter(|_| is_root) {
        let offered = contents.offered();
        let why = format!("the image has no platform {unmet}, only {offered}");
        return Err(AirgapError::of(name, why));
    }
    Ok(Children {
        media_type,
        manifests: contents.manifests.into_iter().map(|(it, _)| it).collect(),
        blobs: contents.blobs,
    })
}

fn put(plan: &mut Plan, digest: Digest, size: u64, from: From) {
    plan.entry(blob_path(&digest))
        .or_insert(Thing { digest, size, from });
}

async fn write(
    mirror: &Mirror,
    target: &mut Target,
    roots: Vec<Descriptor>,
    plan: Plan,
    reporter: &Reporter,
) -> Result<(Index, Exported), AirgapError> {
    let mut index = target.index()?;
    for root in roots {
        index.put(root);
    }
    target.begin(&index)?;
    let mut exported = Exported::default();
    for (path, thing) in plan {
        let Thing { digest, size, from } = thing;
        exported.things += 1;
        exported.bytes += size;
        if target.has(&digest, size)? {
            exported.there += 1;
            reporter.progress.advance(size);
            continue;
        }
        let mut file = target.blob(&digest, size)?;
        match from {
            From::Here(bytes) => {
                let written = file.write(&bytes);
                let finished = written.and_then(|()| file.finish());
                finished.map_err(|why| AirgapError::of(&path, why))?;
                reporter.progress.advance(size);
            }
            From::Image(name) => {
                reporter.progress.doing(&name.to_string());
                mirror.blob(&name, &digest, &mut file, reporter).await?;
            }
        }
    }
    Ok((index, exported))
}
