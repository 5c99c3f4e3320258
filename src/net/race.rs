//! Several ways to one host, tried together (RFC 8305, "Happy Eyeballs").

use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::connector::Miss;

/// The first of the attempts that succeeds. The next one begins when one before it has failed, or when nothing
/// has come of them for [`ATTEMPT_DELAY`]; those that are behind go on.
///
/// # Errors
/// That of the attempt that failed last, or of one after which none is worth trying; `None`: there was none.
pub(super) async fn race<T, F>(mut attempts: impl Iterator<Item = F>) -> Result<T, Option<Miss>>
where
    F: Future<Output = Result<T, Miss>>,
{
    let mut running = FuturesUnordered::new();
    let mut last = None;
    loop {
        let more = match attempts.next() {
            Some(attempt) => {
                running.push(attempt);
                true
            }
            None => false,
        };
        let next = if more {
            match tokio::time::timeout(ATTEMPT_DELAY, running.next()).await {
                Ok(next) => next,
                Err(_silence) => continue,
            }
        } else {
            running.next().await
        };
        match next {
            Some(Ok(reached)) => return Ok(reached),
            Some(Err(miss @ Miss::Final(_))) => return Err(Some(miss)),
            Some(Err(miss)) => last = Some(miss),
            None => return Err(last),
        }
    }
}

/// RFC 8305 section 5.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Error;
    use futures_util::FutureExt;
    use futures_util::future::{BoxFuture, pending, ready};
    use tokio::time::Instant;

    type Attempt = BoxFuture<'static, Result<u8, Miss>>;

    fn dead() -> Attempt {
        ready(Err(Miss::Target(Error::Timeout("a test").into()))).boxed()
    }

    fn silent() -> Attempt {
        pending().boxed()
    }

    fn after(millis: u64, value: u8) -> Attempt {
        let wait = Duration::from_millis(millis);
        async move {
            tokio::time::sleep(wait).await;
            Ok(value)
        }
        .boxed()
    }

    async fn run(attempts: Vec<Attempt>) -> (Option<u8>, u128) {
        let began = Instant::now();
        let won = race(attempts.into_iter()).await.ok();
        (won, began.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_attempt_costs_a_moment_and_a_failed_one_none() {
        assert_eq!(run(vec![silent(), after(0, 1)]).await, (Some(1), 250));
        assert_eq!(
            run(vec![silent(), silent(), after(5, 1)]).await,
            (Some(1), 505)
        );
        assert_eq!(run(vec![dead(), dead(), after(5, 1)]).await, (Some(1), 5));
        // The first one is not given up.
        assert_eq!(
            run(vec![after(300, 1), after(300, 2)]).await,
            (Some(1), 300)
        );
        assert_eq!(
            run(vec![after(300, 1), dead(), dead()]).await,
            (Some(1), 300)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_have_failed_it_is_over() {
        assert_eq!(run(vec![dead(), dead()]).await, (None, 0));
        assert_eq!(run(Vec::new()).await, (None, 0));
        let proxy = || ready(Err(Miss::Final(Error::Timeout("a test").into()))).boxed();
        assert_eq!(run(vec![proxy(), after(0, 1)]).await, (None, 0));
    }
}
