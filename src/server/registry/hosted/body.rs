//! Bodies of pushes, on their way into an upload.

use crate::hosted::{HostedError, Writer};
use crate::server::http::error::ApiError;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::pin::pin;
use std::time::Duration;

/// Bytes that are written at once. As many again come in meanwhile.
const BATCH_BYTES: usize = 256 * 1024;

/// Bytes that a body takes in memory: two batches, and what the last piece of each is over.
pub(super) const BODY_BYTES: usize = 3 * BATCH_BYTES;

/// The longest time without a byte. What has come until then stays, and its client may go on from there.
const IDLE_WAIT_MAX: Duration = Duration::from_mins(1);

/// The end of a body.
enum Next {
    /// Some of it.
    Batch(Vec<Bytes>),
    /// All of it has come; this is the rest.
    End(Vec<Bytes>),
    /// It broke off, or took too long; this is what came before.
    Broken(Vec<Bytes>, &'static str),
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

/// Writes a body to an upload: while one batch is written, the next comes in.
///
/// # Errors
/// [`Unreceived`]. What was written before stays.
pub(super) async fn receive(mut body: Incoming, writer: &mut Writer) -> Result<(), Unreceived> {
    let mut next = take(&mut body, writer).await;
    loop {
        let (batch, is_last, broken) = match next {
            Next::Batch(batch) => (batch, false, None),
            Next::End(batch) => (batch, true, None),
            Next::Broken(batch, why) => (batch, true, Some(why)),
        };
        if is_last {
            if !batch.is_empty() {
                writer.write(batch).await?;
            }
            return broken.map_or(Ok(()), |why| Err(Unreceived::Broken(why)));
        }
        let session = writer.session().clone();
        let coming = take_for(&mut body, &session);
        let (written, came) = tokio::join!(writer.write(batch), coming);
        written?;
        next = came;
    }
}

async fn take(body: &mut Incoming, writer: &Writer) -> Next {
    let session = writer.session().clone();
    take_for(body, &session).await
}

/// Takes what comes until there is a batch of it, or nothing more for now.
async fn take_for(body: &mut Incoming, session: &crate::hosted::Session) -> Next {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while bytes < BATCH_BYTES {
        let frame = {
            let interrupted = session.interrupted();
            let mut coming = pin!(tokio::time::timeout(IDLE_WAIT_MAX, body.frame()));
            tokio::select! {
                biased;
                frame = &mut coming => frame,
                () = interrupted => {
                    return Next::Broken(batch, "another request goes on with this upload");
                }
            }
        };
        match frame {
            Err(_elapsed) => return Next::Broken(batch, "nothing came for too long"),
            Ok(None) => return Next::End(batch),
            Ok(Some(Err(_error))) => return Next::Broken(batch, "the body broke off"),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    bytes += data.len();
                    batch.push(data);
                }
            }
        }
    }
    Next::Batch(batch)
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
