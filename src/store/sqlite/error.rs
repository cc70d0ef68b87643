//! Converts SQLite's errors to those of the store.

use diesel::result::Error;

use crate::error::StoreError;

/// SQLite's messages for conditions that pass by themselves or with more disk space; diesel passes on no code for them.
const TRANSIENT: [&str; 8] = [
    "database is locked",
    "database table is locked",
    "database schema is locked",
    "disk I/O error",
    "database or disk is full",
    "unable to open database file",
    "attempt to write a readonly database",
    "database schema has changed",
];

/// Names the operation that failed and whether a retry may succeed.
pub(super) fn describe_failure(target: &str, operation: &'static str, error: Error) -> StoreError {
    let reason = error.to_string();
    if reason.starts_with("no such table: outbox_") {
        return StoreError::NotMigrated { target: target.to_owned(), state: "missing" };
    }
    if reason.starts_with("no such column:") {
        return StoreError::NotMigrated { target: target.to_owned(), state: "out of date" };
    }
    StoreError::Query { operation, transient: is_transient(&error), reason }
}

/// Whether the file's state is to blame, not the statement's values.
pub(super) fn is_transient(error: &Error) -> bool {
    matches!(error, Error::BrokenTransactionManager | Error::RollbackErrorOnCommit { .. })
        || TRANSIENT.iter().any(|text| error.to_string().contains(text))
}
