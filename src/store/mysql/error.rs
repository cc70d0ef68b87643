//! The server's errors as this library's, told apart by number, never by text, which may be in any language.
//!
//! Diesel passes on the text alone, so a session asks the server for the number of its last error: see `session`.

use std::fmt;

use diesel::result::Error;

use super::address::Address;
use crate::error::StoreError;

const NO_SUCH_TABLE: u16 = 1146;
const NO_SUCH_COLUMN: u16 = 1054;
const LOCK_WAIT: u16 = 1205;
const DEADLOCK: u16 = 1213;
/// NOWAIT, in MySQL.
const LOCKED: u16 = 3572;
/// `max_statement_time` of MariaDB, `max_execution_time` of MySQL, and KILL QUERY.
const INTERRUPTED: [u16; 3] = [1969, 3024, 1317];
/// A server, or a transaction, that accepts no writes.
const READ_ONLY: [u16; 3] = [1290, 1792, 1836];
/// The login is refused, or the database does not exist.
const NO_ACCESS: [u16; 5] = [1044, 1045, 1049, 1130, 1698];
/// States of the server or of the connection, which pass: too many connections, no memory, disk full, shutdown, a packet or a
/// connection that was lost, a commit that failed, no room for locks or statements, a table that is being altered, a cluster
/// whose node is not ready.
const PASSING: [u16; 29] = [
    1020, 1021, 1030, 1037, 1038, 1040, 1041, 1047, 1053, 1078, 1080, 1114, 1152, 1158, 1159, 1160, 1161, 1180, 1184,
    1203, 1206, 1226, 1412, 1461, 1689, 1927, 3100, 3101, 3169,
];

/// A statement that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    /// The driver's or the server's text.
    pub(super) reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// The server refused the statement, with this number.
    Server(u16),
    /// The connection was lost: the statement may have been executed.
    Lost,
    /// The statement did not end in time: it may have been executed.
    Late,
    /// A value could not be converted.
    Client,
}

impl Failure {
    pub(super) fn client(error: impl fmt::Display) -> Self {
        Self { kind: FailureKind::Client, reason: error.to_string() }
    }

    pub(super) fn late(error: impl fmt::Display) -> Self {
        Self { kind: FailureKind::Late, reason: error.to_string() }
    }

    pub(super) fn lost(error: impl fmt::Display) -> Self {
        Self { kind: FailureKind::Lost, reason: error.to_string() }
    }

    /// Whether the server has rolled the statement back because of another transaction, so that it is repeated.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self.kind, FailureKind::Server(DEADLOCK | LOCK_WAIT))
    }

    /// Whether the server accepts no writes: what its connections read may be old.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(self.kind, FailureKind::Server(number) if READ_ONLY.contains(&number))
    }

    pub(super) fn read_only() -> Self {
        Self { kind: FailureKind::Server(READ_ONLY[0]), reason: "the server accepts no writes".to_owned() }
    }

    /// The same, but a lock wait is not repeated.
    pub(super) fn without_waiting(mut self) -> Self {
        if self.kind == FailureKind::Server(LOCK_WAIT) {
            self.kind = FailureKind::Server(LOCKED);
        }
        self
    }

    /// Whether the server refused the statement's values, so that no repetition succeeds.
    pub(super) fn is_refusal(&self) -> bool {
        match self.kind {
            FailureKind::Server(number) => !is_passing(number) && ![NO_SUCH_TABLE, NO_SUCH_COLUMN].contains(&number),
            FailureKind::Client => true,
            FailureKind::Lost | FailureKind::Late => false,
        }
    }

    /// `target` is the database's address without its password.
    pub(super) fn into_store_error(self, target: &str, operation: &'static str) -> StoreError {
        let (reason, target) = (self.reason, target.to_owned());
        match self.kind {
            FailureKind::Server(NO_SUCH_TABLE) => StoreError::NotMigrated { target, state: "missing" },
            FailureKind::Server(NO_SUCH_COLUMN) => StoreError::NotMigrated { target, state: "out of date" },
            FailureKind::Server(LOCKED) => StoreError::Locked { operation },
            FailureKind::Server(number) if READ_ONLY.contains(&number) => StoreError::ReadOnly { target },
            FailureKind::Server(number) if is_passing(number) => {
                StoreError::Query { operation, reason, transient: true }
            }
            FailureKind::Server(number) => StoreError::Refused { operation, sqlstate: number.to_string(), reason },
            FailureKind::Lost => StoreError::Query { operation, reason, transient: true },
            FailureKind::Late => StoreError::Timeout { operation, limit: super::session::ANSWER_LIMIT },
            FailureKind::Client => StoreError::Query { operation, reason, transient: false },
        }
    }
}

/// What the driver says, which knows the server's number.
impl From<mysql_async::Error> for Failure {
    fn from(error: mysql_async::Error) -> Self {
        match error {
            mysql_async::Error::Server(server) => {
                Self { kind: FailureKind::Server(server.code), reason: server.message }
            }
            other => Self::lost(other),
        }
    }
}

/// What the server said on a connection of the application's, of another driver.
#[cfg(feature = "_adapters")]
pub(crate) fn refusal(number: u16, reason: String) -> StoreError {
    Failure { kind: FailureKind::Server(number), reason }.into_store_error("of this connection", "write events")
}

fn is_passing(number: u16) -> bool {
    [LOCK_WAIT, DEADLOCK, LOCKED].contains(&number)
        || PASSING.contains(&number)
        || INTERRUPTED.contains(&number)
        || READ_ONLY.contains(&number)
}

/// Errors of diesel that no server sent.
pub(super) fn is_from_database(error: &Error) -> bool {
    matches!(error, Error::DatabaseError(..))
}

/// Why no connection could be made.
pub(super) fn connect_error(address: &Address, error: &mysql_async::Error) -> StoreError {
    match error {
        mysql_async::Error::Server(server) if NO_ACCESS.contains(&server.code) => {
            StoreError::NoAccess { target: address.shown.clone(), reason: server.to_string() }
        }
        other => address.unreachable(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(number: u16) -> StoreError {
        let failure = Failure { kind: FailureKind::Server(number), reason: "text".to_owned() };
        failure.into_store_error("mysql://db.example/app", "test")
    }

    #[test]
    fn errors_are_told_apart_by_their_number() {
        assert!([LOCK_WAIT, DEADLOCK, 1053, 1180, 1927, 1969].into_iter().all(|number| error(number).is_transient()));
        assert!([1062, 1064, 1142, 1406, 1644].into_iter().all(|number| !error(number).is_transient()));
        assert!(matches!(error(NO_SUCH_TABLE), StoreError::NotMigrated { state: "missing", .. }));
        assert!(matches!(error(NO_SUCH_COLUMN), StoreError::NotMigrated { state: "out of date", .. }));
        assert!(matches!(error(1290), StoreError::ReadOnly { .. }));
    }
}
