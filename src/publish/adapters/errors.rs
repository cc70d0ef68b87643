//! Errors of a connection of the caller's own, told apart by the database's code.

use crate::error::StoreError;
use crate::publish::{Dialect, is_refusal};

const UNDEFINED_TABLE: &str = "42P01";
const UNDEFINED_COLUMN: &str = "42703";
const READ_ONLY_TRANSACTION: &str = "25006";
const FAILED_TRANSACTION: &str = "25P02";

/// SQLite's primary codes for conditions that pass by themselves or with more memory or disk space: busy, locked, no memory,
/// read-only, interrupted, an I/O error, full, cannot open, a lock protocol, a changed schema.
const PASSING: [i32; 10] = [5, 6, 7, 8, 9, 10, 13, 14, 15, 17];

/// What a driver says about a failed statement.
pub(super) struct DriverError {
    /// The SQLSTATE, SQLite's extended result code, or MariaDB's number. `None`: the database did not answer.
    pub(super) code: Option<String>,
    pub(super) message: String,
}

impl DriverError {
    pub(super) fn into_store_error(self, dialect: Dialect) -> StoreError {
        match (dialect, self.code) {
            (_, None) => failed(self.message, true),
            (Dialect::Postgres, Some(sqlstate)) => by_sqlstate(&sqlstate, self.message),
            (Dialect::Sqlite, Some(code)) => by_result_code(&code, self.message),
            #[cfg(feature = "mysql")]
            (Dialect::Mysql, Some(number)) => crate::store::mysql::refusal(number.parse().unwrap_or(0), self.message),
        }
    }
}

fn by_sqlstate(sqlstate: &str, message: String) -> StoreError {
    let not_migrated =
        |state| StoreError::NotMigrated { target: "the search path of this connection".to_owned(), state };
    match sqlstate {
        UNDEFINED_TABLE => not_migrated("missing"),
        UNDEFINED_COLUMN => not_migrated("out of date"),
        READ_ONLY_TRANSACTION => StoreError::ReadOnly { target: "of this connection".to_owned() },
        state => failed(message, state != FAILED_TRANSACTION && !is_refusal(state)),
    }
}

/// SQLite has one code for all statements that it cannot prepare.
fn by_result_code(code: &str, message: String) -> StoreError {
    let not_migrated = |state| StoreError::NotMigrated { target: "this database".to_owned(), state };
    if message.starts_with("no such table: outbox_") {
        return not_migrated("missing");
    }
    if message.starts_with("table outbox_events has no column") || message.starts_with("no such column: e.") {
        return not_migrated("out of date");
    }
    let is_passing = code.parse::<i32>().is_ok_and(|code| PASSING.contains(&(code & 0xff)));
    failed(message, is_passing)
}

fn failed(reason: String, transient: bool) -> StoreError {
    StoreError::Query { operation: "write events", reason, transient }
}

/// The database, or something in it, returned what it never returns.
pub(super) fn unexpected(reason: String) -> StoreError {
    failed(reason, false)
}

/// A connection to a database that holds no outbox.
#[cfg(any(feature = "sqlx-0_8", feature = "sqlx-0_9", feature = "sea-orm-1", feature = "sea-orm-2"))]
pub(super) fn not_supported(database: &str) -> StoreError {
    let problem =
        format!("it is {database}; an outbox needs PostgreSQL, SQLite, or, with the feature `mysql`, MariaDB or MySQL");
    StoreError::Unsuitable { target: "of this connection".to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(dialect: Dialect, code: &str, message: &str) -> StoreError {
        DriverError { code: Some(code.to_owned()), message: message.to_owned() }.into_store_error(dialect)
    }

    #[test]
    fn only_conditions_that_pass_are_transient() {
        for (dialect, code) in [
            (Dialect::Postgres, "40001"),
            (Dialect::Postgres, "53300"),
            (Dialect::Postgres, "57P01"),
            (Dialect::Sqlite, "5"),
            (Dialect::Sqlite, "517"),
            (Dialect::Sqlite, "13"),
        ] {
            assert!(error(dialect, code, "text").is_transient(), "{code}");
        }
        for (dialect, code) in [
            (Dialect::Postgres, "23514"),
            (Dialect::Postgres, "25P02"),
            (Dialect::Postgres, "42501"),
            (Dialect::Sqlite, "1"),
            (Dialect::Sqlite, "275"),
            (Dialect::Sqlite, "text"),
        ] {
            assert!(!error(dialect, code, "text").is_transient(), "{code}");
        }
        assert!(DriverError { code: None, message: String::new() }.into_store_error(Dialect::Sqlite).is_transient());
    }

    #[test]
    fn missing_and_old_tables_are_recognised() {
        let state = |error| if let StoreError::NotMigrated { state, .. } = error { state } else { "" };
        assert_eq!(state(error(Dialect::Postgres, "42P01", "text")), "missing");
        assert_eq!(state(error(Dialect::Postgres, "42703", "text")), "out of date");
        assert_eq!(state(error(Dialect::Sqlite, "1", "no such table: outbox_events")), "missing");
        assert_eq!(
            state(error(Dialect::Sqlite, "1", "table outbox_events has no column named event_time")),
            "out of date"
        );
        assert!(matches!(error(Dialect::Postgres, "25006", "text"), StoreError::ReadOnly { .. }));
    }
}
