//! Causes of errors.

use std::error::Error as StdError;
use std::io;

/// True if the operating system or the TCP connector gave up waiting.
pub(super) fn timed_out(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(|cause| {
        let cause = cause.downcast_ref::<io::Error>();
        cause.is_some_and(|io| io.kind() == io::ErrorKind::TimedOut)
    })
}

/// The text of the innermost cause: the outer ones say little more than "client error".
pub(crate) fn root_cause(error: &(dyn StdError + 'static)) -> String {
    causes(error)
        .last()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// An error and what it was caused by, outermost first.
pub(super) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| {
        (*error).source()
    })
}
