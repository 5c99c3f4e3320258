//! One look at an upstream: the thing that somebody wants, and the answer.

use crate::mirror::MirrorError;
use crate::oci::directory::Source;
use crate::oci::{AcceptClass, Digest, Reference};
use crate::telemetry::Kind;
use crate::upstream::{Patience, Upstream};

/// The thing of a repository that somebody wants, by which it can be looked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Sought {
    /// A manifest.
    Manifest(Reference),
    /// A blob.
    Blob(Digest),
    /// The list of tags.
    Tags,
}

/// The reason why somebody is not shown something.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The answer to the client.
    pub error: MirrorError,
    /// True if the upstream has refused it to this client, and not only failed, or said that there is no such thing.
    pub is_denial: bool,
}

impl Refusal {
    /// Nobody could say.
    pub(super) fn failure(error: MirrorError) -> Self {
        Self {
            error,
            is_denial: false,
        }
    }

    /// The answer of an upstream to anybody.
    pub(super) fn of_anybody(error: MirrorError) -> Self {
        Self {
            is_denial: is_denial(&error),
            error,
        }
    }

    /// The answer of an upstream to a client with its own credential. What is denied does not exist, as far as the client
    /// hears.
    pub(super) fn of_client(error: MirrorError, sought: &Sought) -> Self {
        let is_denial = is_denial(&error);
        let is_challenge = matches!(error, MirrorError::Challenged(_));
        let error = if is_refusal(&error) && !is_challenge {
            sought.unknown()
        } else {
            error
        };
        Self { error, is_denial }
    }

    /// The same, said a moment ago.
    pub(super) fn remembered(self) -> Self {
        Self {
            error: MirrorError::Remembered(Box::new(self.error)),
            ..self
        }
    }
}

impl Sought {
    /// The error where it does not exist.
    fn unknown(&self) -> MirrorError {
        match self {
            Self::Manifest(_) => MirrorError::ManifestUnknown,
            Self::Blob(_) => MirrorError::BlobUnknown,
            Self::Tags => MirrorError::NameUnknown,
        }
    }
}

/// Asks an upstream for something, with the credential of the present client if the upstream is to see it.
///
/// # Errors
/// Its refusal, or its failure to answer.
pub(super) async fn ask(
    upstream: &Upstream,
    source: &Source,
    sought: &Sought,
) -> Result<(), MirrorError> {
    let repository = &source.repository;
    match sought {
        Sought::Manifest(reference) => {
            let (accept, patience) = (AcceptClass::ALL, Patience::Wait);
            let head = upstream.manifest_head(repository, reference, accept, patience);
            match head.await {
                Ok(_) => Ok(()),
                Err(error) if error.refuses_head() => {
                    let whole = upstream.manifest(repository, reference, accept, patience);
                    let whole = whole.await.map(drop);
                    whole.map_err(|error| MirrorError::of_fetch(Kind::Manifest, error))
                }
                Err(error) => Err(MirrorError::of_fetch(Kind::Manifest, error)),
            }
        }
        Sought::Blob(digest) => {
            let head = upstream.blob_head(repository, digest).await.map(drop);
            head.map_err(|error| MirrorError::of_fetch(Kind::Blob, error))
        }
        Sought::Tags => {
            let one = [("n".to_owned(), "1".to_owned())];
            let list = upstream
                .tags(repository, &one, Patience::Wait)
                .await
                .map(drop);
            list.map_err(|error| MirrorError::of_fetch(Kind::Tags, error))
        }
    }
}

/// True if the upstream has said no, and not that it cannot say.
pub(super) fn is_refusal(error: &MirrorError) -> bool {
    matches!(
        error,
        MirrorError::ManifestUnknown
            | MirrorError::NameUnknown
            | MirrorError::BlobUnknown
            | MirrorError::Unauthorized
            | MirrorError::Challenged(_)
            | MirrorError::Denied
    )
}

/// True if the upstream refuses it to the asker, and does not say that there is no such thing.
fn is_denial(error: &MirrorError) -> bool {
    if let MirrorError::Remembered(said) = error {
        return is_denial(said);
    }
    matches!(error, MirrorError::Unauthorized | MirrorError::Denied)
}
