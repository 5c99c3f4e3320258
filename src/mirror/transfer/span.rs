//! A fill in a trace: one span, however many requests wait for it. It is a part of the request that began it, and the
//! requests that wait for it are linked to it.

use crate::mirror::{MirrorError, Source};
use crate::oci::Digest;
use crate::store::{Ended, Fill};
use crate::telemetry::trace::{Span, Trace, Value};

/// The span of a fill.
#[derive(Debug)]
pub(super) struct FillSpan(Span);

impl FillSpan {
    pub(super) fn new(span: Span, source: &Source, digest: &Digest) -> Self {
        span.set("roadstead.upstream", source.upstream.as_str());
        span.set("roadstead.repository", source.repository.as_str());
        span.set("roadstead.digest", digest.to_string().as_str());
        Self(span)
    }

    /// The trace, for the requests that the fill sends.
    pub(super) fn trace(&self) -> Trace {
        self.0.trace().clone()
    }

    /// The fill has ended, and says how.
    pub(super) async fn end(self, fill: Option<Fill<MirrorError>>) {
        let Self(span) = self;
        let Some(fill) = fill else {
            let why = "nobody waited for it, and another transfer was faster";
            return span.trace().fail(Value::fixed("suspended"), why);
        };
        let covered = fill.state().covered;
        span.set("roadstead.fill.bytes", covered);
        if let Err(ended) = fill.over().await {
            let (class, why) = class(&ended);
            span.trace().fail(Value::fixed(class), &why);
        }
    }
}

/// One of few words for the end of a fill, and the reason.
fn class(ended: &Ended<MirrorError>) -> (&'static str, String) {
    let error = match ended {
        Ended::Failed(error) => error,
        Ended::Vanished => return ("vanished", String::new()),
        Ended::Altered => return ("altered", String::new()),
        Ended::Unreadable(why) => return ("store", why.clone()),
    };
    let class = if matches!(error, MirrorError::WrongContent { .. }) {
        "wrong_content"
    } else if matches!(error, MirrorError::NotStored { .. } | MirrorError::Store(_)) {
        "store"
    } else if matches!(error, MirrorError::RateLimited { .. }) {
        "rate_limited"
    } else if matches!(error, MirrorError::Timeout(_)) {
        "timeout"
    } else if matches!(error, MirrorError::Busy(_) | MirrorError::ShuttingDown) {
        "suspended"
    } else {
        "upstream"
    };
    (class, error.to_string())
}
