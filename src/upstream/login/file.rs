//! Files that hold a login. Reading blocks: not for async threads.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::upstream::{FetchError, Secret};

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// [`FetchError::Login`], naming the file.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FetchError> {
    let wrong = |why: &str| FetchError::Login(format!("cannot read {}: {why}", path.display()));
    let failed = |error: std::io::Error| wrong(&error.kind().to_string());
    // A pipe would block the thread until somebody writes to it.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(wrong("it is no regular file"));
    }
    let mut bytes = Vec::new();
    let mut file = File::open(path).map_err(failed)?.take(limit + 1);
    file.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(wrong(&format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// The secret in a file: its text without the line ends at its end.
///
/// # Errors
/// [`FetchError::Login`], naming the file. An empty file is one: it may be about to be written.
pub(super) fn read_secret(path: &Path) -> Result<Secret, FetchError> {
    let wrong = |why: &str| FetchError::Login(format!("cannot use {}: {why}", path.display()));
    let text = String::from_utf8(read(path, SECRET_BYTES_MAX)?)
        .map_err(|_| wrong("it is not UTF-8 text"))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(wrong("it is empty"));
    }
    Ok(Secret::new(text.to_owned()))
}

/// A password or token in a file is a few KiB at most.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "the test owns its files")]
    fn write(path: &Path, bytes: &[u8]) {
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_secret_is_the_text_without_its_last_line_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let large = vec![b'x'; 64 * 1024 + 1];
        for (bytes, expected) in [
            (&b"s3cret"[..], Ok("s3cret")),
            (b"s3cret\r\n\n", Ok("s3cret")),
            (b" two\nlines \n", Ok(" two\nlines ")),
            (b"\n", Err("it is empty")),
            (b"", Err("it is empty")),
            (b"\xff\xfe", Err("it is not UTF-8 text")),
            (&large, Err("it is larger than 65536 bytes")),
        ] {
            write(&path, bytes);
            match (read_secret(&path), expected) {
                (Ok(secret), Ok(expected)) => assert_eq!(secret.expose(), expected),
                (Err(error), Err(expected)) => {
                    let text = error.to_string();
                    assert!(text.ends_with(expected), "{text}");
                    assert!(text.contains(path.to_str().unwrap()), "{text}");
                }
                (got, expected) => panic!("{got:?} instead of {expected:?}"),
            }
        }
        let error = read_secret(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("it is no regular file"), "{error}");
        let error = read_secret(&dir.path().join("none")).unwrap_err();
        assert!(error.to_string().ends_with("entity not found"), "{error}");
    }
}
