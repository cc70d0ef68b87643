//! The errors of [`Outbox::transaction`](crate::Outbox::transaction).

use std::error::Error;
use std::fmt;

use diesel_async::pooled_connection::deadpool::PoolError;

/// Why the work of [`Outbox::transaction`](crate::Outbox::transaction) ends with a rollback. Any error or text converts into
/// it with `?` or `into()`.
pub struct Rollback(Box<dyn Error + Send + Sync>);

impl fmt::Debug for Rollback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Rollback {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// A transaction did not commit: the error of the work, after a rollback, or diesel's error if the transaction itself failed.
///
/// It reads as the error that it holds. With the feature `actix-web` it is a response: that of the
/// [`PublishError`](crate::PublishError) if it holds one, otherwise 500.
///
/// ```
/// # use actix_outbox::TransactionError;
/// # use diesel::result::{DatabaseErrorKind, Error as DieselError};
/// fn is_taken(error: &TransactionError) -> bool {
///     matches!(error.downcast_ref(), Some(DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, _)))
/// }
/// ```
pub struct TransactionError(Box<dyn Error + Send + Sync>);

impl TransactionError {
    /// The error that the work returned, or diesel's, if it is of this type.
    #[must_use]
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        self.0.downcast_ref()
    }

    /// The error that the work returned, or diesel's, if it is of this type.
    ///
    /// # Errors
    /// This error itself, if it holds another type.
    pub fn downcast<E: Error + 'static>(self) -> Result<E, Self> {
        self.0.downcast().map(|error| *error).map_err(Self)
    }
}

impl From<Rollback> for TransactionError {
    fn from(Rollback(error): Rollback) -> Self {
        Self(error)
    }
}

impl From<diesel::result::Error> for TransactionError {
    fn from(error: diesel::result::Error) -> Self {
        Self(error.into())
    }
}

/// No connection of a pool.
impl From<PoolError> for TransactionError {
    fn from(error: PoolError) -> Self {
        Self(error.into())
    }
}

impl fmt::Debug for TransactionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TransactionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for TransactionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::PublishError;

    #[test]
    fn the_error_of_the_work_is_found_in_the_error_of_the_transaction() {
        let failed = TransactionError::from(Rollback::from(PublishError::Stopped));
        assert!(matches!(failed.downcast_ref(), Some(PublishError::Stopped)));
        assert_eq!(failed.to_string(), PublishError::Stopped.to_string());
        let failed = failed.downcast::<diesel::result::Error>().unwrap_err();
        assert!(matches!(failed.downcast::<PublishError>(), Ok(PublishError::Stopped)));
        assert_eq!(TransactionError::from(Rollback::from("taken")).to_string(), "taken");
    }
}
