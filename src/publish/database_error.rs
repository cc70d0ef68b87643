//! Converts database errors for callers that publish on a connection of their own.

use diesel::result::{DatabaseErrorKind, Error};

use crate::error::{PublishError, StoreError};

/// Lets `?` work in a transaction whose error is [`PublishError`].
impl From<Error> for PublishError {
    fn from(error: Error) -> Self {
        if let Error::DatabaseError(DatabaseErrorKind::ReadOnlyTransaction, _) = error {
            return StoreError::ReadOnly { target: "of this connection".to_owned() }.into();
        }
        let reason = error.to_string();
        let store_error = match missing(&reason) {
            Some(state) => StoreError::NotMigrated { target: "this database".to_owned(), state },
            None => StoreError::Query { operation: "write events", transient: is_transient(&error, &reason), reason },
        };
        store_error.into()
    }
}

fn missing(reason: &str) -> Option<&'static str> {
    let is_table = reason.starts_with("relation \"outbox_") || reason.starts_with("no such table: outbox_");
    let is_column = reason.contains("of relation \"outbox_events\" does not exist")
        || reason.starts_with("column e.")
        || reason.starts_with("table outbox_events has no column")
        || reason.starts_with("no such column: e.");
    match (is_table, is_column) {
        (true, _) => Some("missing"),
        (_, true) => Some("out of date"),
        _ => None,
    }
}

/// Diesel does not pass on the database's code, so this function lists the errors that are certainly permanent.
fn is_transient(error: &Error, reason: &str) -> bool {
    match error {
        Error::DatabaseError(
            DatabaseErrorKind::UniqueViolation
            | DatabaseErrorKind::ForeignKeyViolation
            | DatabaseErrorKind::NotNullViolation
            | DatabaseErrorKind::CheckViolation
            | DatabaseErrorKind::RestrictViolation
            | DatabaseErrorKind::ExclusionViolation,
            _,
        ) => false,
        Error::DatabaseError(..) => {
            !["does not exist", "no such", "invalid", "too long", "permission denied", "is aborted"]
                .iter()
                .any(|text| reason.contains(text))
        }
        Error::BrokenTransactionManager => true,
        _ => false,
    }
}
