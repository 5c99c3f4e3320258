//! Errors between this process and a server.

/// Reason why there is no answer. Hosts and causes are named; paths, queries and secrets are not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// No connection: refused, no route, no such host, TLS failure. The text names the cause.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// Nothing came in time; the text says what was waited for.
    #[error("timed out waiting for {0}")]
    Timeout(&'static str),
    /// The connection broke in the middle.
    #[error("connection broken: {0}")]
    Broken(String),
    /// A header over its bound.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// The part that was too large.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// The answer makes no sense.
    #[error("the server answered nonsense: {0}")]
    Protocol(String),
    /// The address lies where this is not fetched from; the text names host and address.
    #[error("it leads to {0}")]
    Inside(String),
    /// The address to dial is one of our own listeners; the text names it.
    #[error("{0} is this mirror itself")]
    Ourselves(String),
}

impl Error {
    /// The `status` label of a request that ends with it, without an answer.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Timeout(_) => "timeout",
            Self::Broken(_)
            | Self::TooLarge { .. }
            | Self::Protocol(_)
            | Self::Inside(_)
            | Self::Ourselves(_) => "error",
        }
    }
}
