//! Bodies of requests that are read whole, within bytes and time.

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body;
use std::error::Error as StdError;
use std::time::Duration;

/// Reason why there is no whole body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::server) enum WholeError {
    /// It is longer than it may be.
    #[error("the body has more than {0} bytes")]
    TooLong(usize),
    /// It took too long.
    #[error("the body did not arrive within {} s", .0.as_secs())]
    Late(Duration),
    /// The connection broke.
    #[error("the body broke off: {0}")]
    Broken(String),
}

/// Reads a body of at most `bytes_max` bytes, which may take `wait_max`.
///
/// # Errors
/// [`WholeError`].
pub(in crate::server) async fn whole<B>(
    body: B,
    bytes_max: usize,
    wait_max: Duration,
) -> Result<Bytes, WholeError>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>>,
{
    let read = Limited::new(body, bytes_max).collect();
    match tokio::time::timeout(wait_max, read).await {
        Ok(Ok(read)) => Ok(read.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(WholeError::TooLong(bytes_max)),
        Ok(Err(error)) => Err(WholeError::Broken(error.to_string())),
        Err(_elapsed) => Err(WholeError::Late(wait_max)),
    }
}

/// Takes the rest of a body that was refused, and throws it away: a client that is still sending would find its connection
/// closed, and not the answer. One that asked first (`Expect: 100-continue`), and was not told to go on, sends nothing.
/// `announced`: the bytes that were to come at first.
pub(in crate::server) async fn throw_away<B>(
    body: &mut B,
    headers: &HeaderMap,
    announced: u64,
    bytes_max: u64,
    wait_max: Duration,
) where
    B: Body<Data = Bytes> + Unpin,
{
    let waits = headers.contains_key(header::EXPECT);
    if waits && body.size_hint().lower() >= announced {
        return;
    }
    let rest = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.into_data().map_or(0, |data| data.len() as u64);
            if bytes > bytes_max {
                break;
            }
        }
    };
    tokio::time::timeout(wait_max, rest).await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use http_body_util::{Full, StreamBody};
    use std::io;

    const WAIT: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn a_body_is_whole_or_it_is_told_why_not() {
        let read =
            |text: &'static str| whole(Full::new(Bytes::from_static(text.as_bytes())), 4, WAIT);
        assert_eq!(read("four").await, Ok(Bytes::from_static(b"four")));
        assert_eq!(read("fives").await, Err(WholeError::TooLong(4)));

        let silent = stream::pending::<io::Result<hyper::body::Frame<Bytes>>>();
        let late = whole(StreamBody::new(silent), 4, WAIT).await;
        assert_eq!(late, Err(WholeError::Late(WAIT)));

        let broken = stream::iter([Err::<hyper::body::Frame<Bytes>, _>(io::Error::other(
            "reset",
        ))]);
        let broken = whole(StreamBody::new(broken), 4, WAIT).await;
        assert_eq!(broken, Err(WholeError::Broken("reset".to_owned())));
    }
}
