//! Writing the files of a plan, showing what would change, and taking it back.
//!
//! Beside each file that is written stand two others: `.roadstead-backup`, the file as it was before the first write,
//! and `.roadstead-written`, the record of the last one. The record says whether somebody has changed the file since,
//! and whether it is the original and our entries alone: then it is written anew from the original, so that an address
//! that the mirror had before does not stay, and taken back by putting the original in its place.

use std::io;

use serde::{Deserialize, Serialize};

use super::client::Client;
use super::diff::unified;
use super::fault::{Fault, Merged};
use super::files::{Content, Place, Root};
use super::mirror::Mirror;
use super::piece::{Form, Piece};
use super::plan::plan;
use crate::oci::{Algorithm, Digest};

/// The suffix of the file as it was before the first write.
const BACKUP: &str = ".roadstead-backup";
/// The suffix of the record.
const RECORD: &str = ".roadstead-written";

/// The files of one client below one root.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) client: Client,
    pub(super) mirror: &'a Mirror,
    pub(super) home: &'a str,
    pub(super) root: &'a Root,
}

/// A file after the work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Outcome {
    pub(super) path: String,
    pub(super) change: Change,
    /// The command that makes the client read the file, where it was changed.
    pub(super) restart: &'static str,
    /// Facts, a line each.
    pub(super) notes: Vec<String>,
}

/// The change of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Change {
    /// It is as it should be.
    None,
    /// It was written.
    Written,
    /// The original is back.
    Restored,
    /// It is gone, as it was before.
    Removed,
    /// Our entries are gone from it, changes of others are there.
    Cleaned,
}

/// The record of the last write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The mirror that was written.
    server: String,
    /// The hash of the file.
    sha256: String,
    /// True if the file is the original with our entries, and no work of others.
    from_original: bool,
    /// The hash of the original, if there was a file.
    original: Option<String>,
    /// Directories that were made for it.
    folders: usize,
}

/// A file as it is.
struct Found {
    piece: Piece,
    place: Place,
    current: Option<Content>,
    backup: Option<Content>,
    record: Option<Record>,
}

/// A file as it should be.
struct Wanted {
    found: Found,
    merged: Merged,
    from_original: bool,
    original: Option<String>,
}

impl Job<'_> {
    /// Writes the files; none of them where one cannot be merged.
    ///
    /// # Errors
    /// A line for each file that cannot be written, and why.
    pub(super) fn write(&self) -> Result<Vec<Outcome>, Vec<String>> {
        let mut outcomes = Vec::new();
        for wanted in self.wanted()? {
            let shown = wanted.found.place.shown.clone();
            let outcome = self.write_one(wanted);
            let outcome = outcome.map_err(|error| vec![cannot("write", &shown, &error)]);
            outcomes.push(outcome?);
        }
        Ok(outcomes)
    }

    /// The changes that a write would make: a path and a unified diff for each file that it would change.
    ///
    /// # Errors
    /// As [`Job::write`].
    pub(super) fn diff(&self) -> Result<Vec<(String, String)>, Vec<String>> {
        let wanted = self.wanted()?.into_iter();
        let diffs = wanted.map(|Wanted { found, merged, .. }| {
            let path = found.place.shown.clone();
            let new = Some(merged.text.as_str());
            let diff = unified(&path, found.text(), new);
            (path, diff)
        });
        Ok(diffs.filter(|(_, diff)| !diff.is_empty()).collect())
    }

    /// Takes back what was written, as far as it can be told from the work of others.
    ///
    /// # Errors
    /// The files that were taken back, and a line for each that was not.
    pub(super) fn undo(&self) -> Result<Vec<Outcome>, (Vec<Outcome>, Vec<String>)> {
        let found = self.survey().map_err(|errors| (Vec::new(), errors))?;
        let (mut outcomes, mut errors) = (Vec::new(), Vec::new());
        for it in found {
            let shown = it.place.shown.clone();
            match self.undo_one(it) {
                Ok(outcome) => outcomes.push(outcome),
                Err(Stopped::Fault(fault)) => errors.push(fault.of(&shown)),
                Err(Stopped::Io(error)) => errors.push(cannot("restore", &shown, &error)),
            }
        }
        if errors.is_empty() {
            Ok(outcomes)
        } else {
            Err((outcomes, errors))
        }
    }

    /// All files as they are.
    fn survey(&self) -> Result<Vec<Found>, Vec<String>> {
        let (mut all, mut errors) = (Vec::new(), Vec::new());
        for piece in plan(self.client, self.mirror, self.home).pieces {
            if matches!(piece.form, Form::ByHand(_)) {
                continue;
            }
            let path = piece.path.clone();
            match self.look(piece) {
                Ok(found) => all.push(found),
                Err(error) => errors.push(cannot("read", &path, &error)),
            }
        }
        if errors.is_empty() {
            Ok(all)
        } else {
            Err(errors)
        }
    }

    fn look(&self, piece: Piece) -> io::Result<Found> {
        let place = self.root.place(&piece.path)?;
        let current = place.read(place.name())?;
        let backup = place.read(&place.beside(BACKUP))?;
        let record = place.read(&place.beside(RECORD))?;
        // A record that makes no sense is none: the file then counts as changed by others.
        let record = record.and_then(|it| serde_json::from_str(&it.text).ok());
        Ok(Found {
            piece,
            place,
            current,
            backup,
            record,
        })
    }

    /// All files as they should be.
    fn wanted(&self) -> Result<Vec<Wanted>, Vec<String>> {
        let (mut all, mut errors) = (Vec::new(), Vec::new());
        for found in self.survey()? {
            let shown = found.place.shown.clone();
            match self.want(found) {
                Ok(wanted) => all.push(wanted),
                Err(fault) => errors.push(fault.of(&shown)),
            }
        }
        if errors.is_empty() {
            Ok(all)
        } else {
            errors.push("nothing was written".to_owned());
            Err(errors)
        }
    }

    /// The file as it should be.
    fn want(&self, found: Found) -> Result<Wanted, Fault> {
        let text = found.text();
        let (merged, from_original, original) = match &found.record {
            None => {
                let is_original = found.backup.is_none() || found.original() == text;
                (found.piece.with(text)?, is_original, text.map(hash))
            }
            Some(record) if found.is_as_written() && found.has_original(record) => {
                let merged = found.piece.with(found.original())?;
                (merged, true, record.original.clone())
            }
            Some(record) => {
                let cleaned = match (text, self.earlier(&found, record)) {
                    (Some(text), Some(earlier)) => earlier.remove(text)?,
                    (text, _) => text.map(str::to_owned),
                };
                let merged = found.piece.with(cleaned.as_deref())?;
                (merged, false, record.original.clone())
            }
        };
        Ok(Wanted {
            found,
            merged,
            from_original,
            original,
        })
    }

    /// The entries of an earlier write, where they are other ones.
    fn earlier(&self, found: &Found, record: &Record) -> Option<Form> {
        if record.server == self.mirror.url() {
            return None;
        }
        let form = self.form_at(found, &record.server)?;
        match form {
            Form::Own(_) | Form::Registries(_) | Form::ByHand(_) => None,
            Form::Daemon(_) | Form::Host(_) | Form::Cri | Form::Buildkitd(_) => Some(form),
        }
    }

    /// The entries of a file for a mirror at this address.
    fn form_at(&self, found: &Found, server: &str) -> Option<Form> {
        let mirror = self.mirror.at(server)?;
        let mut pieces = plan(self.client, &mirror, self.home).pieces.into_iter();
        let piece = pieces.find(|it| it.path == found.piece.path)?;
        Some(piece.form)
    }

    fn write_one(&self, wanted: Wanted) -> io::Result<Outcome> {
        let Wanted {
            mut found,
            merged,
            from_original,
            original,
        } = wanted;
        let mut outcome = found.outcome(Change::None);
        outcome.notes.extend(merged.notes);
        if found.text() == Some(&merged.text) {
            return Ok(outcome);
        }
        let (name, backup) = (found.place.name().to_owned(), found.place.beside(BACKUP));
        if let Some(current) = &found.current
            && found.backup.is_none()
            && found.record.is_none()
        {
            found
                .place
                .write(&backup, &current.text, Some(current.owner))?;
            outcome
                .notes
                .push(format!("the original is in {}{BACKUP}", found.place.shown));
        }
        let made = found.place.missing();
        let record = Record {
            server: self.mirror.url(),
            sha256: hash(&merged.text),
            from_original,
            original,
            folders: found.record.as_ref().map_or(0, |it| it.folders) + made,
        };
        let record = serde_json::to_string(&record).map_err(io::Error::other)?;
        // The record first: a file without one would count as somebody else's.
        let beside = found.place.beside(RECORD);
        found.place.write(&beside, &format!("{record}\n"), None)?;
        let owner = found.current.as_ref().map(|it| it.owner);
        found.place.write(&name, &merged.text, owner)?;
        outcome.change = Change::Written;
        outcome.restart = found.piece.restart;
        Ok(outcome)
    }

    fn undo_one(&self, mut found: Found) -> Result<Outcome, Stopped> {
        let Some(record) = found.record.clone() else {
            return Ok(found.outcome(Change::None));
        };
        let (name, backup) = (found.place.name().to_owned(), found.place.beside(BACKUP));
        let mut outcome = found.outcome(Change::None);
        let is_whole = found.has_original(&record) || matches!(found.piece.form, Form::Own(_));
        match found.current.clone() {
            None => {
                let note = format!("{} was removed since it was written", found.place.shown);
                outcome.notes.push(note);
            }
            Some(_) if found.is_as_written() && is_whole => {
                if found.backup.is_some() {
                    found.place.rename(&backup, &name)?;
                    outcome.change = Change::Restored;
                } else {
                    found.place.remove(&name)?;
                    outcome.change = Change::Removed;
                }
            }
            Some(current) => {
                outcome.notes.push(format!(
                    "{} was changed since it was written: only the entries of the mirror were removed",
                    found.place.shown
                ));
                if found.backup.is_some() {
                    outcome.notes.push(format!(
                        "the file as it was before the first write is in {}{BACKUP}",
                        found.place.shown
                    ));
                }
                let form = self.form_at(&found, &record.server);
                let form = form.unwrap_or_else(|| found.piece.form.clone());
                outcome.change = Change::Cleaned;
                match form.remove(&current.text)? {
                    Some(left) => found.place.write(&name, &left, Some(current.owner))?,
                    None => found.place.remove(&name)?,
                }
            }
        }
        if outcome.change != Change::None {
            outcome.restart = found.piece.restart;
        }
        found.place.remove(&found.place.beside(RECORD))?;
        self.root.remove_folders(&found.piece.path, record.folders);
        Ok(outcome)
    }
}

impl Piece {
    /// The file with what is ours, where this or nothing is there.
    fn with(&self, text: Option<&str>) -> Result<Merged, Fault> {
        text.map_or_else(
            || Ok(self.form.fresh().into()),
            |text| self.form.merge(text),
        )
    }
}

impl Found {
    fn text(&self) -> Option<&str> {
        self.current.as_ref().map(|it| it.text.as_str())
    }

    /// True if nobody has changed the file since the last write.
    fn is_as_written(&self) -> bool {
        let (Some(record), Some(text)) = (&self.record, self.text()) else {
            return false;
        };
        record.sha256 == hash(text)
    }

    fn original(&self) -> Option<&str> {
        self.backup.as_ref().map(|it| it.text.as_str())
    }

    /// True if the file that was written is the backup with our entries, and the backup is still there.
    fn has_original(&self, record: &Record) -> bool {
        record.from_original && record.original == self.original().map(hash)
    }

    fn outcome(&self, change: Change) -> Outcome {
        Outcome {
            path: self.place.shown.clone(),
            change,
            restart: "",
            notes: Vec::new(),
        }
    }
}

/// The reason that a file was not taken back.
enum Stopped {
    Fault(Fault),
    Io(io::Error),
}

impl From<Fault> for Stopped {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn cannot(what: &str, path: &str, error: &io::Error) -> String {
    let hint = if error.kind() == io::ErrorKind::PermissionDenied {
        ": run it as root, or with --root"
    } else {
        ""
    };
    format!("cannot {what} {path}: {error}{hint}")
}

fn hash(text: &str) -> String {
    Digest::of(Algorithm::Sha256, text.as_bytes()).hex()
}
