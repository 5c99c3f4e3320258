//! Keys from the configuration and from files.

use std::path::Path;

use tokio::io::AsyncReadExt;

use super::call::Caller;
use crate::upstream::login::Text;
use crate::upstream::{FetchError, Secret};

/// Keys that sign requests to a cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) id: Secret,
    pub(super) secret: Secret,
    /// The token of temporary keys, sent and signed with each request.
    pub(super) token: Option<Secret>,
}

impl Keys {
    /// The keys that are configured.
    ///
    /// # Errors
    /// Those of [`text`].
    pub(super) async fn configured(
        (id, secret): &(Text, Text),
        token: Option<&Text>,
        caller: Caller<'_>,
    ) -> Result<Self, FetchError> {
        Ok(Self {
            id: text(id, caller).await?,
            secret: text(secret, caller).await?,
            token: match token {
                Some(token) => Some(text(token, caller).await?),
                None => None,
            },
        })
    }
}

/// A text of the configuration.
///
/// # Errors
/// Those of [`file`].
pub(super) async fn text(text: &Text, caller: Caller<'_>) -> Result<Secret, FetchError> {
    match text {
        Text::Literal(secret) => Ok(secret.clone()),
        Text::File(path) => file(path, caller).await,
    }
}

/// A file's text without the line ends at its end. It is read each time: a cloud is asked once in
/// hours, and what mounts such a file replaces it in between.
///
/// # Errors
/// [`FetchError::Login`] naming the file when it cannot be read, is too large, empty, or not UTF-8;
/// [`FetchError::Timeout`].
pub(super) async fn file(path: &Path, caller: Caller<'_>) -> Result<Secret, FetchError> {
    let wrong = |why: &str| FetchError::Login(format!("{}: {why}", path.display()));
    let reading = async {
        let file = tokio::fs::File::open(path).await?;
        let mut text = String::new();
        file.take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .await?;
        Ok::<String, std::io::Error>(text)
    };
    let read = caller.deadline.run("a file with keys", reading).await?;
    let mut text = read.map_err(|error| wrong(&error.kind().to_string()))?;
    if u64::try_from(text.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
        return Err(wrong("too large"));
    }
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    if text.is_empty() {
        return Err(wrong("empty"));
    }
    Ok(Secret::new(text))
}

/// A region, checked to be one label of a host name: it becomes a part of the address that keys are
/// sent to.
///
/// # Errors
/// [`FetchError::Login`].
pub(super) fn region(text: &str) -> Result<&str, FetchError> {
    let sane = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=HOST_LABEL_BYTES_MAX).contains(&text.len()) && text.bytes().all(sane) {
        Ok(text)
    } else {
        Err(FetchError::Login("the region is not one".to_owned()))
    }
}

/// The host of a registry, without its port.
pub(super) fn host(registry: &str) -> &str {
    registry.split(':').next().unwrap_or(registry)
}

/// A service account's key has 2.4 KiB, a web identity's token 1 to 4.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// RFC 1035 section 2.3.4.
const HOST_LABEL_BYTES_MAX: usize = 63;
