//! Errors of the inbox.

/// A part of an [`InboxKey`](super::InboxKey) that the table cannot hold. Nothing was sent to the database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` of the event for the inbox {problem}")]
#[non_exhaustive]
pub struct InvalidKey {
    /// The column.
    pub field: &'static str,
    /// What is wrong with it and what the limit is.
    pub problem: String,
}

/// An event was not noted; `D` is the driver's error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InboxError<D> {
    /// The key breaks a limit. No other try can help.
    #[error(transparent)]
    InvalidKey(#[from] InvalidKey),
    /// The connection is not in a transaction, so the note would not be part of the work's.
    #[error("the inbox needs a transaction: begin one, and do the work in it")]
    NoTransaction,
    /// The database refused the note, or it could not be reached.
    #[error("the event was not noted in the inbox: {0}")]
    Database(#[source] D),
}

/// Lets a transaction of diesel have this error.
impl From<diesel::result::Error> for InboxError<diesel::result::Error> {
    fn from(error: diesel::result::Error) -> Self {
        Self::Database(error)
    }
}

/// Lets `?` work in a transaction whose error is diesel's.
impl From<InboxError<Self>> for diesel::result::Error {
    fn from(error: InboxError<Self>) -> Self {
        match error {
            InboxError::InvalidKey(error) => Self::SerializationError(error.into()),
            InboxError::NoTransaction => Self::NotInTransaction,
            InboxError::Database(error) => error,
        }
    }
}
