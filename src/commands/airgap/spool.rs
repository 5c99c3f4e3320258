//! Archives that cannot be read where they are, since they are compressed or come through a pipe: they are unpacked to a
//! plain tar archive in a temporary file that has no name, so that it goes with this process.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use super::archive::Coding;

/// Bytes that are read at once.
const READ_BYTES: usize = 256 * 1024;

/// To so many times its size an archive may grow. Layers are compressed already and hardly grow; gzip cannot do more
/// than that, and what does is made to fill a disk.
const EXPANSION_MAX: u64 = 1000;

/// Up to so many bytes it may grow however small it is.
const EXPANSION_FREE_BYTES: u64 = 1 << 30;

/// Twice the window of zstd's strongest usual level: 128 MiB of memory.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Names that are tried where a file must have one at first.
const NAMES_MAX: usize = 100;

/// A reader that counts.
struct Counted<R> {
    reader: R,
    bytes: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.bytes.set(self.bytes.get() + count as u64);
        Ok(count)
    }
}

/// The archive on standard input, as a file that can be read anywhere.
///
/// # Errors
/// One line.
pub(super) fn input() -> Result<File, String> {
    let file = io::stdin().as_fd().try_clone_to_owned();
    let mut file = File::from(file.map_err(|error| error.to_string())?);
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if is_file && file.stream_position().is_ok_and(|at| at == 0) {
        return plain(file);
    }
    let mut input = io::BufReader::with_capacity(READ_BYTES, file);
    let magic = io::BufRead::fill_buf(&mut input).map_err(|error| error.to_string())?;
    let coding = Coding::of_magic(magic);
    unpack(input, coding, EXPANSION_FREE_BYTES)
}

/// A file as a plain archive: itself, or unpacked.
///
/// # Errors
/// One line.
pub(super) fn plain(mut file: File) -> Result<File, String> {
    let mut magic = Vec::new();
    let read = (&file).take(4).read_to_end(&mut magic);
    read.and_then(|_| file.rewind())
        .map_err(|error| error.to_string())?;
    match Coding::of_magic(&magic) {
        Coding::Plain => Ok(file),
        coding @ (Coding::Gzip | Coding::Zstd) => unpack(file, coding, EXPANSION_FREE_BYTES),
    }
}

fn unpack(reader: impl Read + 'static, coding: Coding, free: u64) -> Result<File, String> {
    let dir = std::env::temp_dir();
    let room = |error: io::Error| {
        format!(
            "it cannot be unpacked in {}: {error} (TMPDIR names another directory)",
            dir.display()
        )
    };
    let read = Rc::new(Cell::new(0));
    let counted = Counted {
        reader,
        bytes: Rc::clone(&read),
    };
    let damaged = |error: io::Error| match coding {
        Coding::Plain => format!("it cannot be read: {error}"),
        Coding::Gzip | Coding::Zstd => format!(
            "it is compressed with {}, and cut short or damaged: {error}",
            coding.as_str()
        ),
    };
    let mut decoder = decoder(counted, coding).map_err(damaged)?;
    let mut file = nameless(&dir).map_err(room)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut written = 0_u64;
    loop {
        let count = match decoder.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(damaged(error)),
        };
        written += count as u64;
        let allowed = read.get().saturating_mul(EXPANSION_MAX);
        if coding != Coding::Plain && written > allowed.max(free) {
            return Err(format!(
                "it grows to more than {EXPANSION_MAX} times its size: that is no archive of images"
            ));
        }
        let bytes = buffer.get(..count).unwrap_or_default();
        file.write_all(bytes).map_err(room)?;
    }
    file.rewind().map_err(room)?;
    Ok(file)
}

fn decoder(reader: impl Read + 'static, coding: Coding) -> io::Result<Box<dyn Read>> {
    Ok(match coding {
        Coding::Plain => Box::new(reader),
        Coding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(reader)),
        Coding::Zstd => {
            let mut decoder = zstd::Decoder::new(reader)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    })
}

/// A file in this directory that has no name, or none any more.
fn nameless(dir: &Path) -> io::Result<File> {
    let mode = Mode::RUSR.union(Mode::WUSR);
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match openat(CWD, dir, flags | OFlags::TMPFILE, mode) {
        Ok(file) => return Ok(file.into()),
        // File systems without such files say one of these (open(2)).
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let mut last = Errno::EXIST;
    for attempt in 0..NAMES_MAX {
        let name = format!("roadstead-import-{}-{attempt}", std::process::id());
        let path = dir.join(name);
        match openat(CWD, &path, flags | OFlags::CREATE | OFlags::EXCL, mode) {
            Ok(file) => {
                unlinkat(CWD, &path, AtFlags::empty())?;
                return Ok(file.into());
            }
            Err(error) => last = error,
        }
    }
    Err(last.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// As `Sink` writes it.
    fn checked_zstd(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unpacked(packed: Vec<u8>, coding: Coding) -> Result<Vec<u8>, String> {
        let mut file = unpack(io::Cursor::new(packed), coding, 8 << 20)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        Ok(bytes)
    }

    #[test]
    fn what_is_compressed_comes_back() {
        let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        assert_eq!(unpacked(gzip(&content), Coding::Gzip).unwrap(), content);
        let both = [gzip(&content), gzip(b"more")].concat();
        assert!(unpacked(both, Coding::Gzip).unwrap().ends_with(b"more"));
        let packed = zstd::encode_all(content.as_slice(), 3).unwrap();
        assert_eq!(Coding::of_magic(&packed), Coding::Zstd);
        assert_eq!(unpacked(packed, Coding::Zstd).unwrap(), content);
        assert_eq!(unpacked(content.clone(), Coding::Plain).unwrap(), content);
    }

    #[test]
    fn what_is_cut_or_damaged_is_refused() {
        let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        for (packed, coding) in [
            (gzip(&content), Coding::Gzip),
            (checked_zstd(&content), Coding::Zstd),
        ] {
            let cut = packed[..packed.len() / 2].to_vec();
            let why = unpacked(cut, coding).unwrap_err();
            assert!(
                why.contains("cut short or damaged") && why.contains(coding.as_str()),
                "{why}"
            );
            let mut spoilt = packed;
            let middle = spoilt.len() / 2;
            spoilt[middle] ^= 0xff;
            assert!(unpacked(spoilt, coding).is_err());
        }
    }

    #[test]
    fn what_is_made_to_fill_a_disk_does_not() {
        // 64 MiB of zeros in some kilobytes.
        let bomb = {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            let zeros = vec![0; 1 << 20];
            for _ in 0..64 {
                encoder.write_all(&zeros).unwrap();
            }
            encoder.finish().unwrap()
        };
        let why = unpacked(bomb, Coding::Zstd).unwrap_err();
        assert!(why.contains("times its size"), "{why}");
    }
}
