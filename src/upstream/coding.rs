//! `Content-Encoding` (RFC 9110 section 8.4) of answers, although identity is asked for.
//!
//! Stores and proxies label content that nobody has encoded (`aws-chunked`, `x-gzip` on a layer that is a gzip file),
//! and others encode whatever passes through. A label decides nothing: what can be read as it is stays as it is, what
//! is encoded is decoded within a bound, and what can be neither is an error that names the label.

use std::io::Read;

use bytes::{Bytes, BytesMut};
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::header::{CONTENT_ENCODING, HeaderMap};

use super::{BlobBody, FetchError};
use crate::oci::Digest;

/// A blob that comes encoded is decoded if it is no larger: configs are, which proxies encode because they are JSON.
pub(super) const CODED_BLOB_BYTES_MAX: usize = 256 * 1024;
/// And this large when it is decoded.
const DECODED_BLOB_BYTES_MAX: usize = 1024 * 1024;
/// The longest name of a coding that is told.
const NAME_BYTES_MAX: usize = 32;

/// The encoding that an answer names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// Nothing, or something that changes no byte.
    Identity,
    /// `gzip` or `x-gzip`.
    Gzip,
    /// `deflate`.
    Deflate,
    /// Anything else, or several.
    Other(String),
}

impl Coding {
    /// The encoding that the headers name.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(CONTENT_ENCODING).iter();
        let names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        let names = names.map(|name| name.trim_ascii().to_ascii_lowercase());
        // S3's own framing of uploads, which it takes off and leaves the label.
        let mut names =
            names.filter(|name| !matches!(&name[..], b"" | b"identity" | b"aws-chunked"));
        let Some(first) = names.next() else {
            return Self::Identity;
        };
        match (&first[..], names.next()) {
            (b"gzip" | b"x-gzip", None) => Self::Gzip,
            (b"deflate", None) => Self::Deflate,
            (name, more) => Self::Other(printable(name, more.is_some())),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Other(name) => name,
        }
    }

    /// Takes it off; `None` where that is impossible.
    ///
    /// # Errors
    /// [`FetchError::TooLarge`].
    fn take_off(
        &self,
        what: &'static str,
        bytes: &[u8],
        limit: usize,
    ) -> Result<Option<Bytes>, FetchError> {
        let read = |decoder: &mut dyn Read| {
            let mut decoded = Vec::new();
            let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
            let read = decoder.take(most).read_to_end(&mut decoded);
            if decoded.len() > limit {
                return Err(FetchError::TooLarge { what, limit });
            }
            Ok(read.ok().map(|_| Bytes::from(decoded)))
        };
        match self {
            Self::Gzip => read(&mut MultiGzDecoder::new(bytes)),
            // By the RFC it is in zlib's format; some send it bare.
            Self::Deflate => match read(&mut ZlibDecoder::new(bytes))? {
                None => read(&mut DeflateDecoder::new(bytes)),
                decoded => Ok(decoded),
            },
            Self::Identity | Self::Other(_) => Ok(None),
        }
    }
}

/// JSON that was read whole, as it was before anybody encoded it.
///
/// # Errors
/// [`FetchError::TooLarge`]; [`FetchError::Protocol`] where it is encoded and cannot be decoded.
pub(super) async fn plain(
    what: &'static str,
    headers: &HeaderMap,
    bytes: Bytes,
    limit: usize,
) -> Result<Bytes, FetchError> {
    let coding = Coding::of(headers);
    if coding == Coding::Identity || may_be_json(&bytes) {
        return Ok(bytes);
    }
    let name = coding.name().to_owned();
    let work = move || coding.take_off(what, &bytes, limit);
    let decoded = tokio::task::spawn_blocking(work).await;
    let decoded = decoded.unwrap_or(Ok(None))?;
    decoded.ok_or_else(|| {
        let why = format!("{what} in the Content-Encoding {name}, though identity was asked for");
        FetchError::Protocol(why)
    })
}

/// Makes the best of a small blob that is said to be encoded: as it comes if that has the digest, decoded if that has;
/// otherwise as it comes. The digest is checked by whoever reads it, as ever. Its size, where that is known now.
///
/// # Errors
/// Those of the body.
pub(super) async fn sort_out(
    body: &mut BlobBody,
    coding: Coding,
    digest: &Digest,
) -> Result<Option<u64>, FetchError> {
    let mut read = BytesMut::new();
    loop {
        if read.len() > CODED_BLOB_BYTES_MAX {
            body.push_back(read.freeze());
            return Ok(None);
        }
        match body.next().await? {
            Some(bytes) => read.extend_from_slice(&bytes),
            None => break,
        }
    }
    let (read, digest, name) = (read.freeze(), *digest, coding.name().to_owned());
    let as_it_came = read.clone();
    let work = move || {
        let fits = |bytes: &Bytes| Digest::of(digest.algorithm(), bytes) == digest;
        if fits(&read) {
            return None;
        }
        let decoded = coding.take_off("a blob", &read, DECODED_BLOB_BYTES_MAX);
        decoded.ok().flatten().filter(fits)
    };
    let decoded = tokio::task::spawn_blocking(work).await.ok().flatten();
    if decoded.is_some() {
        tracing::debug!(%digest, coding = name, "a blob came encoded, though identity was asked for");
    }
    let best = decoded.unwrap_or(as_it_came);
    let size = u64::try_from(best.len()).ok();
    body.push_back(best);
    Ok(size)
}

/// True if it begins as a JSON text does, which nothing encoded does.
fn may_be_json(bytes: &[u8]) -> bool {
    let first = bytes.trim_ascii_start().first();
    first.is_none_or(|byte| matches!(byte, b'{' | b'['))
}

fn printable(name: &[u8], more: bool) -> String {
    let short = name.get(..NAME_BYTES_MAX).unwrap_or(name);
    let mut text: String = short.escape_ascii().to_string();
    if more {
        text.push_str(" and more");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use http::HeaderValue;

    use super::*;

    const TEXT: &[u8] = b"{\"schemaVersion\": 2}";

    fn labelled(label: &'static str) -> HeaderMap {
        std::iter::once((CONTENT_ENCODING, HeaderValue::from_static(label))).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    async fn read(label: &'static str, bytes: Vec<u8>) -> Result<Bytes, FetchError> {
        plain("a manifest", &labelled(label), bytes.into(), 1000).await
    }

    #[test]
    fn labels_are_told_apart() {
        for (label, coding) in [
            ("", Coding::Identity),
            ("Identity", Coding::Identity),
            ("aws-chunked", Coding::Identity),
            ("aws-chunked, gzip", Coding::Gzip),
            ("X-GZIP", Coding::Gzip),
            ("deflate,", Coding::Deflate),
            ("br", Coding::Other("br".to_owned())),
            ("gzip, gzip", Coding::Other("gzip and more".to_owned())),
        ] {
            assert_eq!(Coding::of(&labelled(label)), coding, "{label}");
        }
    }

    #[tokio::test]
    async fn what_is_json_stays_and_what_is_encoded_is_decoded() {
        for label in [
            "gzip",
            "x-gzip",
            "aws-chunked",
            "identity",
            "br",
            "zstd",
            "gzip, br",
        ] {
            assert_eq!(read(label, TEXT.to_vec()).await.unwrap(), TEXT, "{label}");
        }
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(TEXT).unwrap();
        let mut bare = DeflateEncoder::new(Vec::new(), Compression::default());
        bare.write_all(TEXT).unwrap();
        for (label, bytes) in [
            ("gzip", gzip(TEXT)),
            ("X-Gzip", gzip(TEXT)),
            ("aws-chunked,gzip", gzip(TEXT)),
            ("deflate", zlib.finish().unwrap()),
            ("deflate", bare.finish().unwrap()),
        ] {
            assert_eq!(read(label, bytes).await.unwrap(), TEXT, "{label}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_decoded_is_named_and_a_bomb_is_bounded() {
        for (label, bytes) in [
            ("br", b"\x0b\x02\x80".to_vec()),
            ("gzip", b"\x1f\x8bnonsense".to_vec()),
            ("gzip, gzip", gzip(&gzip(TEXT))),
        ] {
            let error = read(label, bytes).await.unwrap_err().to_string();
            assert!(error.contains("Content-Encoding"), "{error}");
        }
        let bomb = gzip(&vec![b' '; 1_000_000]);
        assert!(matches!(
            read("gzip", bomb).await,
            Err(FetchError::TooLarge { limit: 1000, .. })
        ));
    }
}
