//! The tables of hosted repositories.

/// What makes version 3 of the schema of version 2. Digests are a byte for the algorithm, and their bytes.
pub(in crate::catalogue) const VERSION_3: &str = "
    CREATE TABLE hosted_namespaces (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        visibility TEXT NOT NULL,
        quota INTEGER,
        sparse INTEGER NOT NULL,
        created_ms INTEGER NOT NULL,
        bytes INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE hosted_repositories (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        namespace INTEGER NOT NULL REFERENCES hosted_namespaces (id),
        path TEXT NOT NULL UNIQUE,
        created_ms INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX hosted_repositories_by_namespace ON hosted_repositories (namespace);

    -- A row: the file of the blob is durable.
    CREATE TABLE hosted_blobs (
        digest BLOB PRIMARY KEY,
        size INTEGER NOT NULL,
        created_ms INTEGER NOT NULL,
        condemned_ms INTEGER
    ) STRICT, WITHOUT ROWID;
    -- The repository has the blob.
    CREATE TABLE hosted_links (
        repository INTEGER NOT NULL REFERENCES hosted_repositories (id),
        digest BLOB NOT NULL REFERENCES hosted_blobs (digest),
        lease_ms INTEGER NOT NULL,
        deleted_ms INTEGER,
        PRIMARY KEY (repository, digest)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX hosted_links_by_digest ON hosted_links (digest);
    -- Files of blobs that were forgotten, until they are gone.
    CREATE TABLE hosted_doomed (
        digest BLOB PRIMARY KEY
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE hosted_bytes (
        id INTEGER PRIMARY KEY,
        digest BLOB NOT NULL UNIQUE,
        bytes BLOB NOT NULL
    ) STRICT;
    CREATE TABLE hosted_manifests (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        repository INTEGER NOT NULL REFERENCES hosted_repositories (id),
        digest BLOB NOT NULL REFERENCES hosted_bytes (digest),
        media_type TEXT NOT NULL,
        artifact_type TEXT,
        subject BLOB,
        annotations TEXT,
        size INTEGER NOT NULL,
        pushed_ms INTEGER NOT NULL,
        pushed_by TEXT NOT NULL,
        deleted_ms INTEGER,
        UNIQUE (repository, digest)
    ) STRICT;
    CREATE INDEX hosted_manifests_by_subject ON hosted_manifests (repository, subject, id) WHERE subject IS NOT NULL;
    CREATE INDEX hosted_manifests_by_digest ON hosted_manifests (digest);
    -- What a manifest names, blobs and manifests, as far as the repository has it.
    CREATE TABLE hosted_references (
        manifest INTEGER NOT NULL REFERENCES hosted_manifests (id) ON DELETE CASCADE,
        repository INTEGER NOT NULL,
        digest BLOB NOT NULL,
        is_manifest INTEGER NOT NULL,
        PRIMARY KEY (manifest, digest)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX hosted_references_by_digest ON hosted_references (repository, digest);

    CREATE TABLE hosted_tags (
        repository INTEGER NOT NULL REFERENCES hosted_repositories (id),
        name TEXT NOT NULL,
        manifest INTEGER NOT NULL REFERENCES hosted_manifests (id),
        moved_ms INTEGER NOT NULL,
        moved_by TEXT NOT NULL,
        PRIMARY KEY (repository, name)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX hosted_tags_by_manifest ON hosted_tags (manifest);
    -- As lists have them (dist-spec: case-insensitive).
    CREATE INDEX hosted_tags_in_order ON hosted_tags (repository, name COLLATE NOCASE, name);
    CREATE TABLE hosted_tag_history (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        repository INTEGER NOT NULL,
        name TEXT NOT NULL,
        before BLOB,
        after BLOB,
        at_ms INTEGER NOT NULL,
        by TEXT NOT NULL
    ) STRICT;
    CREATE INDEX hosted_tag_history_by_name ON hosted_tag_history (repository, name, seq);

    -- How many repositories of a namespace have a digest.
    CREATE TABLE hosted_usage (
        namespace INTEGER NOT NULL REFERENCES hosted_namespaces (id),
        digest BLOB NOT NULL,
        uses INTEGER NOT NULL,
        size INTEGER NOT NULL,
        PRIMARY KEY (namespace, digest)
    ) STRICT, WITHOUT ROWID;
    -- What the garbage collector looks at, and when: links (1, repository, digest), manifests (2, id, digest) and blobs
    -- (3, 0, digest).
    CREATE TABLE hosted_reviews (
        kind INTEGER NOT NULL,
        place INTEGER NOT NULL,
        digest BLOB NOT NULL,
        due_ms INTEGER NOT NULL,
        PRIMARY KEY (kind, place, digest)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX hosted_reviews_by_due ON hosted_reviews (due_ms);
    -- One row for each change, for those who follow.
    CREATE TABLE hosted_changes (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at_ms INTEGER NOT NULL,
        kind TEXT NOT NULL,
        repository TEXT NOT NULL,
        tag TEXT,
        digest BLOB,
        by TEXT NOT NULL
    ) STRICT;

    CREATE TRIGGER hosted_link_added AFTER INSERT ON hosted_links BEGIN
        INSERT INTO hosted_usage (namespace, digest, uses, size)
            SELECT r.namespace, NEW.digest, 1, b.size FROM hosted_repositories r, hosted_blobs b
            WHERE r.id = NEW.repository AND b.digest = NEW.digest
            ON CONFLICT (namespace, digest) DO UPDATE SET uses = uses + 1;
        INSERT OR REPLACE INTO hosted_reviews VALUES (1, NEW.repository, NEW.digest, NEW.lease_ms);
    END;
    CREATE TRIGGER hosted_link_removed AFTER DELETE ON hosted_links BEGIN
        UPDATE hosted_usage SET uses = uses - 1 WHERE digest = OLD.digest
            AND namespace = (SELECT namespace FROM hosted_repositories WHERE id = OLD.repository);
        DELETE FROM hosted_usage WHERE digest = OLD.digest AND uses <= 0
            AND namespace = (SELECT namespace FROM hosted_repositories WHERE id = OLD.repository);
    END;
    CREATE TRIGGER hosted_manifest_added AFTER INSERT ON hosted_manifests BEGIN
        INSERT INTO hosted_usage (namespace, digest, uses, size)
            SELECT namespace, NEW.digest, 1, NEW.size FROM hosted_repositories WHERE id = NEW.repository
            ON CONFLICT (namespace, digest) DO UPDATE SET uses = uses + 1;
    END;
    CREATE TRIGGER hosted_manifest_removed AFTER DELETE ON hosted_manifests BEGIN
        UPDATE hosted_usage SET uses = uses - 1 WHERE digest = OLD.digest
            AND namespace = (SELECT namespace FROM hosted_repositories WHERE id = OLD.repository);
        DELETE FROM hosted_usage WHERE digest = OLD.digest AND uses <= 0
            AND namespace = (SELECT namespace FROM hosted_repositories WHERE id = OLD.repository);
    END;
    CREATE TRIGGER hosted_usage_added AFTER INSERT ON hosted_usage BEGIN
        UPDATE hosted_namespaces SET bytes = bytes + NEW.size WHERE id = NEW.namespace;
    END;
    CREATE TRIGGER hosted_usage_removed AFTER DELETE ON hosted_usage BEGIN
        UPDATE hosted_namespaces SET bytes = bytes - OLD.size WHERE id = OLD.namespace;
    END;
";

/// What makes version 4 of version 3. A namespace or repository that is deleted has another name, `#` and its number, so that no
/// look by name finds it; `was` is its own, kept for it until its time to be restored is over. Then `was` is nothing, and what it
/// has goes. `pushed_seq` is the last number of the history of tags when a tag was pushed: the order of pushes, whatever
/// the clock says.
pub(in crate::catalogue) const VERSION_4: &str = "
    ALTER TABLE hosted_namespaces ADD COLUMN was TEXT;
    ALTER TABLE hosted_namespaces ADD COLUMN deleted_ms INTEGER;
    ALTER TABLE hosted_namespaces ADD COLUMN until_ms INTEGER;
    CREATE UNIQUE INDEX hosted_namespaces_deleted ON hosted_namespaces (was) WHERE was IS NOT NULL;
    ALTER TABLE hosted_repositories ADD COLUMN was TEXT;
    ALTER TABLE hosted_repositories ADD COLUMN deleted_ms INTEGER;
    ALTER TABLE hosted_repositories ADD COLUMN until_ms INTEGER;
    ALTER TABLE hosted_repositories ADD COLUMN with_namespace INTEGER NOT NULL DEFAULT 0;
    CREATE UNIQUE INDEX hosted_repositories_deleted ON hosted_repositories (was) WHERE was IS NOT NULL;

    ALTER TABLE hosted_tags ADD COLUMN pushed_ms INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE hosted_tags ADD COLUMN pushed_seq INTEGER NOT NULL DEFAULT 0;
    UPDATE hosted_tags SET pushed_ms = moved_ms, pushed_seq = coalesce((SELECT max(seq) FROM hosted_tag_history h
        WHERE h.repository = hosted_tags.repository AND h.name = hosted_tags.name), 0);
    CREATE INDEX hosted_tags_by_push ON hosted_tags (repository, pushed_seq, pushed_ms, name);

    -- The rule by which something has gone.
    ALTER TABLE hosted_changes ADD COLUMN rule TEXT;
    -- How far those have come who follow the changes.
    CREATE TABLE hosted_cursors (
        consumer TEXT PRIMARY KEY,
        seq INTEGER NOT NULL,
        missed INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
";
