//! Bodies of pushes, on their way into an upload.

use crate::hosted::{HostedError, Session, Share, Writer};
use crate::oci::ErrorCode;
use crate::server::http::error::ApiError;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::pin::pin;
use std::time::Duration;

/// Bytes that are written at once. As many again come in meanwhile.
const BATCH_BYTES: usize = 256 * 1024;

/// The longest time without a byte. What has come until then stays, and its client may go on from there.
const IDLE_WAIT_MAX: Duration = Duration::from_mins(1);

/// The longest time that bytes are kept in memory for more to come, so that who sends slowly takes nothing of it.
const KEEP_MAX: Duration = Duration::from_secs(1);

/// What has come, and the memory that it takes.
struct Batch {
    chunks: Vec<Bytes>,
    bytes: usize,
    share: Share,
}

/// The end of a batch.
enum Next {
    /// More may come.
    More(Batch),
    /// All of the body has come; this is the rest.
    End(Batch),
    /// It broke off, or took too long; this is what came before.
    Broken(Batch, &'static str),
}

/// The reason why a body did not come in whole.
pub(super) enum Unreceived {
    /// Nothing more comes.
    Broken(&'static str),
    /// It could not be written.
    Hosted(HostedError),
}

impl From<HostedError> for Unreceived {
    fn from(error: HostedError) -> Self {
        Self::Hosted(error)
    }
}

/// Writes a body to an upload: while one batch is written, the next comes in. `share`: memory for a batch.
///
/// # Errors
/// [`Unreceived`]. What was written before stays.
pub(super) async fn receive(
    body: &mut Incoming,
    writer: &mut Writer,
    share: impl Fn() -> Share,
) -> Result<(), Unreceived> {
    let session = writer.session().clone();
    let mut next = take(body, &session, share()).await;
    loop {
        let (batch, end) = match next {
            Next::More(batch) => (batch, None),
            Next::End(batch) => (batch, Some(Ok(()))),
            Next::Broken(batch, why) => (batch, Some(Err(Unreceived::Broken(why)))),
        };
        let Batch {
            chunks,
            bytes,
            share: held,
        } = batch;
        let write = async {
            let written = match bytes {
                0 => Ok(()),
                _ => writer.write(chunks).await,
            };
            drop(held);
            written
        };
        if let Some(end) = end {
            write.await?;
            return end;
        }
        let (written, came) = tokio::join!(write, take(body, &session, share()));
        written?;
        next = came;
    }
}

/// Takes what comes until there is a batch of it, nothing more for now, or no more memory.
async fn take(body: &mut Incoming, session: &Session, share: Share) -> Next {
    let mut batch = Batch {
        chunks: Vec::new(),
        bytes: 0,
        share,
    };
    while batch.bytes < BATCH_BYTES {
        let wait = if batch.bytes == 0 {
            IDLE_WAIT_MAX
        } else {
            KEEP_MAX
        };
        let frame = {
            let mut coming = pin!(tokio::time::timeout(wait, body.frame()));
            tokio::select! {
                biased;
                frame = &mut coming => frame,
                () = session.interrupted() => {
                    return Next::Broken(batch, "another request goes on with this upload");
                }
            }
        };
        match frame {
            Err(_elapsed) if batch.bytes > 0 => return Next::More(batch),
            Err(_elapsed) => return Next::Broken(batch, "nothing came for too long"),
            Ok(None) => return Next::End(batch),
            Ok(Some(Err(_error))) => return Next::Broken(batch, "the body broke off"),
            Ok(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                batch.bytes += data.len();
                let held = batch.share.grow(data.len());
                batch.chunks.push(data);
                if held.is_err() {
                    // What has come is written before more is read: the connection of whoever sends too much waits.
                    return Next::More(batch);
                }
            }
        }
    }
    Next::More(batch)
}

/// Reads a body whole, of at most `bytes_max` bytes, which may take `wait_max`.
///
/// # Errors
/// [`ApiError`].
pub(super) async fn whole(
    body: &mut Incoming,
    share: &mut Share,
    bytes_max: usize,
    wait_max: Duration,
) -> Result<Bytes, ApiError> {
    let broken = || {
        let why = "the manifest did not arrive";
        ApiError::bad_push(ErrorCode::ManifestInvalid, why)
    };
    let reading = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_error| broken())?.into_data() else {
                continue;
            };
            if bytes.len() + data.len() > bytes_max {
                return Err(ApiError::manifest_too_large(bytes_max));
            }
            share.grow(data.len())?;
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.freeze())
    };
    let read = tokio::time::timeout(wait_max, reading).await;
    read.unwrap_or_else(|_elapsed| Err(broken()))
}

impl Unreceived {
    /// The answer, for a client that is still there.
    pub(super) fn answer(self, location: &str, length: u64) -> ApiError {
        match self {
            Self::Broken(why) => ApiError::chunk(why, location.to_owned(), length),
            Self::Hosted(error) => ApiError::of_upload(error, location, length),
        }
    }
}
