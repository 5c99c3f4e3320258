//! Whether what the catalogue says of hosted repositories fits together.

use rusqlite::{Connection, params};

use super::rows;
use crate::catalogue::{Catalogue, CatalogueError};
use crate::oci::{Digest, Hasher};

/// Manifests that are looked at in one read: they are hashed in it.
const MANIFESTS_MAX: i64 = 16;

/// Digests that are named for one manifest.
const MISSING_MAX: usize = 100;

/// A manifest that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadManifest {
    /// Its repository.
    pub repository: String,
    /// Its digest.
    pub digest: Digest,
    /// What its bytes hash to, if that is something else; or why they are not there.
    pub damage: Option<String>,
    /// Its bytes, where something that it names is missing.
    pub bytes: Vec<u8>,
    /// Blobs that it names and its repository does not have. It need not have all: see the bytes.
    pub blobs: Vec<Digest>,
    /// Manifests, likewise.
    pub manifests: Vec<Digest>,
}

/// A page of manifests that were looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestPage {
    /// Those that are not as they should be.
    pub bad: Vec<BadManifest>,
    /// Number of all.
    pub all: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The next page begins behind this one; `None`: there are no more.
    pub next: Option<i64>,
}

impl Catalogue {
    /// Looks at some manifests behind the one with this number.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_manifests_after(&self, after: i64) -> Result<ManifestPage, CatalogueError> {
        self.ask_at_leisure(move |from| manifests_after(from, after))
            .await
    }

    /// The blobs after a digest, with their sizes, at most `limit`.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_blobs_after(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, u64)>, CatalogueError> {
        self.ask_at_leisure(move |from| rows::blobs_after(from, after.as_ref(), limit))
            .await
    }

    /// Those of some digests that are of no blob, and whose files are not on their way out.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_strays(&self, of: Vec<Digest>) -> Result<Vec<Digest>, CatalogueError> {
        self.ask_at_leisure(move |from| {
            let sql = "SELECT 1 FROM hosted_blobs WHERE digest = ?1 UNION ALL SELECT 1 FROM hosted_doomed WHERE digest = ?1";
            let mut query = from.prepare_cached(sql)?;
            let mut strays = Vec::new();
            for digest in of {
                if !query.exists([rows::key(&digest)])? {
                    strays.push(digest);
                }
            }
            Ok(strays)
        })
        .await
    }

    /// Some of the repositories that have a blob, to be named.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_names(&self, digest: &Digest) -> Result<Vec<String>, CatalogueError> {
        let digest = *digest;
        self.ask_at_leisure(move |from| rows::holders(from, &digest, rows::NAMED_MAX))
            .await
    }
}

fn manifests_after(from: &Connection, after: i64) -> rusqlite::Result<ManifestPage> {
    // All of it as of one moment.
    let transaction = from.unchecked_transaction()?;
    let sql = "SELECT m.id, coalesce(r.was, r.path), m.digest, b.bytes, n.sparse,
            m.deleted_ms IS NOT NULL OR r.deleted_ms IS NOT NULL FROM hosted_manifests m
        JOIN hosted_repositories r ON r.id = m.repository JOIN hosted_namespaces n ON n.id = r.namespace
        LEFT JOIN hosted_bytes b ON b.digest = m.digest WHERE m.id > ?1 ORDER BY m.id LIMIT ?2";
    let mut query = transaction.prepare_cached(sql)?;
    let mut found = query.query(params![after, MANIFESTS_MAX])?;
    let mut page = ManifestPage::default();
    while let Some(row) = found.next()? {
        let id: i64 = row.get(0)?;
        let key: Vec<u8> = row.get(2)?;
        let bytes: Option<Vec<u8>> = row.get(3)?;
        let (is_sparse, is_deleted): (bool, bool) = (row.get(4)?, row.get(5)?);
        let digest = rows::digest(&key)?;
        page.next = Some(id);
        page.all += 1;
        page.bytes += bytes.as_ref().map_or(0, |it| it.len() as u64);
        let mut bad = BadManifest {
            repository: row.get(1)?,
            digest,
            damage: bytes.as_deref().map_or_else(
                || Some("the catalogue does not have its bytes".to_owned()),
                |it| damage(&digest, it),
            ),
            bytes: Vec::new(),
            blobs: Vec::new(),
            manifests: Vec::new(),
        };
        // Of one that was deleted nothing is promised but that it can be restored.
        if !is_sparse && !is_deleted {
            bad.blobs = missing(&transaction, id, BLOBS)?;
            bad.manifests = missing(&transaction, id, MANIFESTS)?;
        }
        if !bad.blobs.is_empty() {
            bad.bytes = bytes.unwrap_or_default();
        }
        if bad.damage.is_some() || !bad.blobs.is_empty() || !bad.manifests.is_empty() {
            page.bad.push(bad);
        }
    }
    Ok(page)
}

fn damage(digest: &Digest, bytes: &[u8]) -> Option<String> {
    let mut hasher = Hasher::new(digest.algorithm());
    hasher.update(bytes);
    let got = hasher.finish();
    (got != *digest).then(|| format!("the catalogue's bytes of it hash to {got}"))
}

const BLOBS: &str = "SELECT f.digest FROM hosted_references f WHERE f.manifest = ?1 AND NOT f.is_manifest
    AND NOT EXISTS (SELECT 1 FROM hosted_links l JOIN hosted_blobs b ON b.digest = l.digest
        WHERE l.repository = f.repository AND l.digest = f.digest AND l.deleted_ms IS NULL) LIMIT ?2";

const MANIFESTS: &str = "SELECT f.digest FROM hosted_references f WHERE f.manifest = ?1 AND f.is_manifest
    AND NOT EXISTS (SELECT 1 FROM hosted_manifests c
        WHERE c.repository = f.repository AND c.digest = f.digest AND c.deleted_ms IS NULL) LIMIT ?2";

fn missing(from: &Connection, manifest: i64, sql: &str) -> rusqlite::Result<Vec<Digest>> {
    let mut query = from.prepare_cached(sql)?;
    let limit = i64::try_from(MISSING_MAX).unwrap_or(i64::MAX);
    let keys = query.query_map(params![manifest, limit], |row| row.get::<_, Vec<u8>>(0))?;
    keys.map(|key| rows::digest(&key?)).collect()
}
