//! The driver's and diesel's errors as this library's, told apart by code or kind, never by the server's text.

use std::error::Error;
use std::fmt::{self, Display};
use std::io;
use std::time::Duration;

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use tokio_postgres::error::{DbError, SqlState};

use super::auth_guard::AuthRefused;
use super::connect::{DriverError, Target};
use super::diagnosis::Cause;
use crate::error::StoreError;
pub(super) use crate::publish::is_refusal;
use crate::store::inbox::missing;

impl Target {
    pub(super) fn connect_error(&self, error: &DriverError) -> StoreError {
        if was_found_read_only(error) { self.read_only() } else { self.unreachable(chain(error)) }
    }

    /// Converts the failure to reach any of the servers.
    pub(super) fn not_connected(&self, error: &ConnectError) -> StoreError {
        match () {
            () if error.was_found_read_only() => self.read_only(),
            () if error.is_refused_login() && self.has_fixed_login() => {
                StoreError::NoAccess { target: self.shown(), reason: error.to_string() }
            }
            () => self.unreachable(error),
        }
    }

    fn read_only(&self) -> StoreError {
        StoreError::ReadOnly { target: self.shown() }
    }

    pub(super) fn unreachable(&self, reason: impl Display) -> StoreError {
        StoreError::Unreachable { target: self.shown(), reason: reason.to_string() }
    }

    pub(super) fn not_migrated(&self, state: &'static str) -> StoreError {
        StoreError::NotMigrated { target: self.shown_schema(), state }
    }

    pub(super) fn no_inbox(&self) -> StoreError {
        missing(self.shown_schema())
    }

    pub(super) fn not_adoptable(&self, objections: String) -> StoreError {
        StoreError::NotAdoptable { target: self.shown_schema(), objections }
    }

    pub(super) fn unsuitable(&self, problem: impl Into<String>) -> StoreError {
        StoreError::Unsuitable { target: self.shown(), problem: problem.into() }
    }

    /// The outbox's schema and its database, for messages.
    fn shown_schema(&self) -> String {
        match self.schema() {
            Some(schema) => format!("schema `{}` of {}", schema.name(), self.shown()),
            None => self.shown(),
        }
    }

    /// Converts a statement's error with what was found out about it; see `diagnosis`.
    pub(super) fn explained_error(
        &self,
        operation: &'static str,
        error: &DieselError,
        cause: Option<Cause>,
    ) -> StoreError {
        match cause {
            Some(Cause::Tables(state)) => self.not_migrated(state),
            Some(Cause::Elsewhere(other)) => {
                let target = format!(
                    "{} (schema `{other}` of the search path has an outbox: `database.schema` chooses)",
                    self.shown_schema()
                );
                StoreError::NotMigrated { target, state: "missing" }
            }
            Some(Cause::Forbidden) => StoreError::Query { operation, transient: false, reason: chain(error) },
            None => self.query_error(operation, error),
        }
    }

    /// Converts a statement's error.
    pub(super) fn query_error(&self, operation: &'static str, error: &DieselError) -> StoreError {
        if let DieselError::DatabaseError(DatabaseErrorKind::ReadOnlyTransaction, _) = error {
            return self.read_only();
        }
        StoreError::Query { operation, transient: is_transient(error), reason: chain(error) }
    }

    /// Converts an error of the plain driver.
    pub(super) fn driver_error(&self, operation: &'static str, error: &tokio_postgres::Error) -> StoreError {
        match error.code() {
            Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME) => self.not_migrated("missing"),
            Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => self.read_only(),
            Some(&SqlState::LOCK_NOT_AVAILABLE) => StoreError::Locked { operation },
            Some(state) if is_refusal(state.code()) => {
                StoreError::Refused { operation, sqlstate: state.code().to_owned(), reason: chain(error) }
            }
            _ => StoreError::Query { operation, transient: true, reason: chain(error) },
        }
    }
}

/// Why a server of an address was not connected.
#[derive(Debug)]
pub(super) enum AttemptError {
    /// The address could not be read again.
    Unread(String),
    Driver(DriverError),
    /// It did not answer in time.
    Silent(Duration),
}

/// The attempts to connect to an address' servers.
#[derive(Debug, Default)]
pub(super) struct ConnectError(Vec<(String, AttemptError)>);

impl ConnectError {
    /// The address could not be read again, so no server was asked.
    pub(super) fn unread(reason: String) -> Self {
        Self(vec![(String::new(), AttemptError::Unread(reason))])
    }

    pub(super) fn add(&mut self, server: impl Display, error: AttemptError) {
        self.0.push((server.to_string(), error));
    }

    /// Whether a server, or the machine's network, has answered.
    pub(super) fn was_answered(&self) -> bool {
        self.0.iter().any(|(_, error)| !matches!(error, AttemptError::Silent(_)))
    }

    /// Whether servers were reached, and none accepts writes.
    fn was_found_read_only(&self) -> bool {
        let read_only =
            |error: &AttemptError| matches!(error, AttemptError::Driver(error) if was_found_read_only(error));
        self.0.iter().any(|(_, error)| read_only(error))
    }

    /// Whether every server refused the login for a reason that waiting does not change.
    fn is_refused_login(&self) -> bool {
        let is_refused = |error: &AttemptError| matches!(error, AttemptError::Driver(error) if is_refused_login(error));
        !self.0.is_empty() && self.0.iter().all(|(_, error)| is_refused(error))
    }

    /// The last answer of a server.
    pub(super) fn driver_error(&self) -> Option<&DriverError> {
        self.0.iter().rev().find_map(|(_, error)| match error {
            AttemptError::Driver(error) => Some(error),
            AttemptError::Silent(_) | AttemptError::Unread(_) => None,
        })
    }
}

/// Each server is named if there are several.
impl Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (server, error)) in self.0.iter().enumerate() {
            if self.0.len() > 1 {
                write!(f, "{}{server}: ", if n > 0 { "; " } else { "" })?;
            }
            match error {
                AttemptError::Unread(reason) => f.write_str(reason)?,
                AttemptError::Driver(error) => write!(f, "{}{}", chain(error), remedy(error))?,
                AttemptError::Silent(limit) => write!(f, "no answer within {limit:?}")?,
            }
        }
        Ok(())
    }
}

/// What an operator can do about an error.
fn remedy(error: &DriverError) -> &'static str {
    match error.code() {
        Some(&SqlState::TOO_MANY_CONNECTIONS) => {
            ". Raise max_connections or the CONNECTION LIMIT of the role or the database, or lower `database.connections`; \
             see docs/postgres.md"
        }
        _ => "",
    }
}

/// Whether the driver, connecting, refused the server because it does not accept writes. The operating system's refusals
/// have a number, and those of a method of authentication a cause.
fn was_found_read_only(error: &DriverError) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| {
        let is_ours = cause.get_ref().is_some_and(|cause| cause.is::<AuthRefused>());
        cause.kind() == io::ErrorKind::PermissionDenied && cause.raw_os_error().is_none() && !is_ours
    })
}

/// Whether a server refuses the password, the role or the database, or was refused by this side because of its certificate or
/// its method of authentication.
fn is_refused_login(error: &DriverError) -> bool {
    const CODES: [&SqlState; 4] = [
        &SqlState::INVALID_PASSWORD,
        &SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        &SqlState::INVALID_CATALOG_NAME,
        &SqlState::INSUFFICIENT_PRIVILEGE,
    ];
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>()).and_then(io::Error::get_ref);
    let is_bad_certificate = |cause: &(dyn Error + Send + Sync + 'static)| {
        matches!(cause.downcast_ref(), Some(rustls::Error::InvalidCertificate(_)))
    };
    error.code().is_some_and(|code| CODES.contains(&code))
        || cause.is_some_and(|cause| cause.is::<AuthRefused>() || is_bad_certificate(cause))
}

/// Kinds of errors that are certainly permanent; all others are retried.
fn is_transient(error: &DieselError) -> bool {
    match error {
        DieselError::DatabaseError(kind, _) => !matches!(
            kind,
            DatabaseErrorKind::UniqueViolation
                | DatabaseErrorKind::ForeignKeyViolation
                | DatabaseErrorKind::NotNullViolation
                | DatabaseErrorKind::CheckViolation
                | DatabaseErrorKind::RestrictViolation
        ),
        DieselError::BrokenTransactionManager => true,
        _ => false,
    }
}

/// An error with its causes, which the drivers omit from their own text. A server's detail may be a row's content, and is left
/// out.
pub(crate) fn chain<E: Error>(error: &E) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = match error.downcast_ref::<DbError>() {
            Some(error) => format!("{}: {}", error.severity(), error.message()),
            None => error.to_string(),
        };
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}
