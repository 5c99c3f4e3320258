//! Archives as a stream: which names mean one, how it is coded, and where its bytes go.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::commands::output;

/// Layers are compressed already: more effort than the least costs time and gains nothing.
const GZIP_LEVEL: flate2::Compression = flate2::Compression::fast();
/// Likewise; negative levels do not even find what repeats in manifests.
const ZSTD_LEVEL: i32 = 1;
/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 256 * 1024;

/// Endings of names, and what they mean.
const ENDINGS: [(&str, Coding); 5] = [
    (".tar", Coding::Plain),
    (".tar.gz", Coding::Gzip),
    (".tgz", Coding::Gzip),
    (".tar.zst", Coding::Zstd),
    (".tzst", Coding::Zstd),
];

/// The kind of layout that a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A directory.
    Directory,
    /// A tar archive in a file.
    Archive(Coding),
    /// A tar archive on standard output.
    Stream,
}

/// The compression of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// Not at all.
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// A sink for an archive's bytes, which compresses them.
pub(super) enum Sink {
    /// As they are.
    Plain(BufWriter<Out>),
    /// With gzip.
    Gzip(flate2::write::GzEncoder<BufWriter<Out>>),
    /// With zstd.
    Zstd(zstd::Encoder<'static, BufWriter<Out>>),
}

/// A file, or standard output.
#[derive(Debug)]
pub(super) enum Out {
    /// A file under its other name.
    File(File),
    /// Standard output.
    Stdout,
}

impl Form {
    /// The form of a layout with this name. A name without an ending is a directory, as is one with a slash at its
    /// end, and one that is a directory already.
    ///
    /// # Errors
    /// One line: an ending that promises something else.
    pub(super) fn of(path: &Path) -> Result<Self, String> {
        let text = path.as_os_str().as_encoded_bytes();
        if text == b"-" {
            return Ok(Self::Stream);
        }
        if text.ends_with(b"/") || path.is_dir() {
            return Ok(Self::Directory);
        }
        let ending = |(ending, _): &&(&str, Coding)| text.ends_with(ending.as_bytes());
        if let Some((_, coding)) = ENDINGS.iter().find(ending) {
            return Ok(Self::Archive(*coding));
        }
        if path.extension().is_none() {
            return Ok(Self::Directory);
        }
        Err(format!(
            "{}: no ending that is known: write .tar, .tar.gz, .tar.zst, - for standard output, or a directory as {}/",
            path.display(),
            path.display(),
        ))
    }
}

impl Coding {
    /// The coding that the first bytes of a file show.
    pub(super) fn of_magic(magic: &[u8]) -> Self {
        if magic.starts_with(&[0x1f, 0x8b]) {
            return Self::Gzip;
        }
        if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            return Self::Zstd;
        }
        Self::Plain
    }

    /// Its name.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "tar",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

impl Sink {
    /// Begins an archive.
    pub(super) fn new(out: Out, coding: Coding) -> io::Result<Self> {
        let out = BufWriter::with_capacity(BUFFER_BYTES, out);
        Ok(match coding {
            Coding::Plain => Self::Plain(out),
            // Without a name and a time: the same images make the same bytes.
            Coding::Gzip => Self::Gzip(flate2::GzBuilder::new().mtime(0).write(out, GZIP_LEVEL)),
            Coding::Zstd => {
                let mut encoder = zstd::Encoder::new(out, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                Self::Zstd(encoder)
            }
        })
    }

    /// Ends it: everything is written, and in a file on disk.
    pub(super) fn finish(self) -> io::Result<()> {
        let out = match self {
            Self::Plain(out) => out,
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
        };
        match out.into_inner()? {
            Out::File(file) => file.sync_all(),
            Out::Stdout => Ok(()),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(out) => out.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Stdout => output::write_bytes(bytes).map(|()| bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            // Each write is flushed.
            Self::Stdout => Ok(()),
        }
    }
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sink")
    }
}

/// The name of a file while it is written.
pub(super) fn unfinished(path: &Path) -> PathBuf {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    PathBuf::from(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let form = |name: &str| Form::of(Path::new(name));
        for (name, expected) in [
            ("-", Form::Stream),
            ("a.tar", Form::Archive(Coding::Plain)),
            ("b/a.tar.gz", Form::Archive(Coding::Gzip)),
            ("a.tgz", Form::Archive(Coding::Gzip)),
            ("a.tar.zst", Form::Archive(Coding::Zstd)),
            ("a.tzst", Form::Archive(Coding::Zstd)),
            ("images", Form::Directory),
            ("images.d/", Form::Directory),
            ("a.tar/", Form::Directory),
            (".", Form::Directory),
            (".layout", Form::Directory),
        ] {
            assert_eq!(form(name), Ok(expected), "{name}");
        }
        let there = dir.path().join("there.zip");
        std::fs::create_dir(&there).unwrap();
        assert_eq!(Form::of(&there), Ok(Form::Directory));
        // Each of these made a directory of that name.
        for name in ["a.zip", "a.tar.xz", "a.tar.bz2", "a.oci", "nginx-1.27"] {
            let why = form(name).unwrap_err();
            assert!(
                why.contains(".tar.zst") && why.contains(&format!("{name}/")),
                "{why}"
            );
        }
    }
}
