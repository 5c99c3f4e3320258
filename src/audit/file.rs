//! The file: opened, appended to, rotated by its size. Blocks.

use super::Config;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Readable by its owner and group: it says who pulls what.
const MODE: u32 = 0o640;

/// The file.
#[derive(Debug)]
pub(super) struct AuditFile {
    config: Config,
    /// `None` after a failure: it is opened anew, and a line that was cut off ended, before more is written.
    open: Option<Opened>,
    /// It was told that the file cannot be rotated.
    is_told: bool,
}

#[derive(Debug)]
struct Opened {
    file: File,
    bytes: u64,
}

impl AuditFile {
    /// Opens it, and makes it if it is not there.
    ///
    /// # Errors
    /// It cannot be opened, or is no file that can be appended to.
    pub(super) fn open(config: Config) -> io::Result<Self> {
        let open = Some(Opened::at(&config.path)?);
        Ok(Self {
            config,
            open,
            is_told: false,
        })
    }

    /// The path.
    pub(super) fn path(&self) -> &Path {
        &self.config.path
    }

    /// Does not rotate it any more.
    pub(super) fn stop_rotating(&mut self) {
        self.config.max_size = 0;
    }

    /// Lets go of it. It is opened again by its name.
    pub(super) fn close(&mut self) {
        self.open = None;
        self.is_told = false;
    }

    /// Appends lines; `rest` is then what was not appended, from the beginning of a line.
    ///
    /// # Errors
    /// Not all of it could be appended.
    pub(super) fn append(&mut self, rest: &mut &[u8]) -> io::Result<()> {
        loop {
            let mut opened = match self.open.take() {
                Some(opened) => opened,
                None => Opened::at(&self.config.path)?,
            };
            let lines: &[u8] = rest;
            let fits = self.fits(opened.bytes, lines);
            let (now, later) = lines.split_at_checked(fits).unwrap_or((lines, &[]));
            if now.is_empty() && !later.is_empty() {
                self.rotate();
                continue;
            }
            // Dropped with an error: of a line that was cut off nobody knows how much is there.
            opened.append(now, rest)?;
            self.open = Some(opened);
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Has what was written last be on the disk.
    pub(super) fn sync(&self) {
        let synced = self.open.as_ref().map(|it| it.file.sync_data());
        if let Some(Err(error)) = synced {
            tracing::warn!(path = %self.config.path.display(), %error, "the audit log may lose its last lines if the power fails");
        }
    }

    /// Bytes of whole lines that still have room in a file of this size; all of them where it is not rotated, and a line
    /// at least in an empty one.
    fn fits(&self, bytes: u64, lines: &[u8]) -> usize {
        if self.config.max_size == 0 || self.is_told {
            return lines.len();
        }
        let room = self.config.max_size.saturating_sub(bytes);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        if lines.len() <= room {
            return lines.len();
        }
        let within = lines.get(..room).unwrap_or(lines);
        match within.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if bytes > 0 => 0,
            None => first_line(lines),
        }
    }

    /// Gives the file the name of an older one. Where that does not work it grows: no record is lost for it.
    fn rotate(&mut self) {
        let older = |number: usize| {
            let mut name = self.config.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        let keep = self.config.keep.max(1);
        let shifted = (1..keep).rev().try_for_each(|number| {
            let moved = rename(&older(number), &older(number + 1));
            moved.or_else(|error| {
                let is_absent = error.kind() == io::ErrorKind::NotFound;
                if is_absent { Ok(()) } else { Err(error) }
            })
        });
        if let Err(error) = shifted.and_then(|()| rename(&self.config.path, &older(1))) {
            tracing::error!(
                path = %self.config.path.display(), %error,
                "the audit log cannot be rotated and grows: let roadstead write its directory, or rotate it yourself \
                 (audit.max_size = 0, and SIGUSR1 when it was renamed)"
            );
            self.is_told = true;
        }
    }
}

impl Opened {
    fn at(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(MODE);
        // A pipe that nobody reads would hold up the start.
        options.custom_flags(libc::O_NONBLOCK);
        let mut file = options.open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let mut bytes = file.seek(SeekFrom::End(0))?;
        if bytes > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                // The end of a line that a crash or a full disk has cut off.
                file.write_all(b"\n")?;
                bytes += 1;
            }
        }
        Ok(Self { file, bytes })
    }

    /// Appends `lines`, the beginning of `rest`.
    fn append(&mut self, lines: &[u8], rest: &mut &[u8]) -> io::Result<()> {
        let mut done = 0;
        while let Some(left) = lines.get(done..).filter(|left| !left.is_empty()) {
            match self.file.write(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let written = lines.get(..done).unwrap_or(lines);
                    let whole = written.iter().rposition(|byte| *byte == b'\n');
                    *rest = rest
                        .get(whole.map_or(0, |end| end + 1)..)
                        .unwrap_or_default();
                    return Err(error);
                }
            }
        }
        self.bytes = self
            .bytes
            .saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
        *rest = rest.get(done..).unwrap_or_default();
        Ok(())
    }
}

/// The last lines of the file, and of the one that was rotated before it, as far back as this. Blocks.
pub(super) fn tail(config: &Config, bytes_max: u64) -> Vec<u8> {
    let mut older = config.path.clone().into_os_string();
    older.push(".1");
    let mut tail = Vec::new();
    for path in [PathBuf::from(older), config.path.clone()] {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(path)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(bytes_max)))?;
            let mut bytes = Vec::new();
            file.take(bytes_max).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        // What cannot be read says nothing.
        tail.extend(read().unwrap_or_default());
        tail.push(b'\n');
    }
    tail
}

/// The length of the first line, with its end.
fn first_line(lines: &[u8]) -> usize {
    let end = lines.iter().position(|byte| *byte == b'\n');
    end.map_or(lines.len(), |end| end + 1)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the audit log is no part of the store, and rotated here alone"
)]
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
}
