//! Errors of the catalogue.

/// The reason why the catalogue does not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// It cannot be read or written: one line that says what to do.
    #[error("{0}")]
    Unavailable(String),
    /// Too much waits to be written, or read.
    #[error("the catalogue is busy; try again")]
    Busy,
    /// It is more than may be written at once.
    #[error("that is more than the catalogue takes at once")]
    TooLarge,
}
