//! Errors, by the part of the library that returns them.

use std::fmt;
use std::time::Duration;

use uuid::Uuid;

use crate::settings::SecretError;

/// A field of an event that breaks a rule of CloudEvents or of the outbox table.
///
/// Nothing was written. The value itself is never part of the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event field `{field}` {problem}")]
pub struct InvalidEvent {
    /// The field as the table or CloudEvents names it.
    pub field: String,
    /// What is wrong with it and what the limit is.
    pub problem: String,
}

impl InvalidEvent {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

/// The id of a new event belongs to a stored event with other content, which stays as it is.
///
/// The contents themselves are never part of the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "another event with a different `{field}` is stored under the id {id}, so this one was not stored: give it an id of \
     its own, or publish the same content again"
)]
#[non_exhaustive]
pub struct IdConflict {
    /// The id of both events.
    pub id: Uuid,
    /// The first column in which they differ.
    pub field: &'static str,
}

/// Publishing an event failed; the caller's transaction holds nothing of it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The event itself is not acceptable.
    #[error(transparent)]
    Invalid(#[from] InvalidEvent),
    /// One event of several is not acceptable; none of them was written.
    #[error("event number {index} of the batch: {error}")]
    InvalidInBatch {
        /// Counted from 1.
        index: usize,
        /// What is wrong with it.
        error: InvalidEvent,
    },
    /// The id belongs to a stored event with other content; this event was not stored.
    #[error(transparent)]
    IdConflict(#[from] IdConflict),
    /// One event of several has the id of an event with other content, which is stored already or in the same batch; none
    /// of them was written.
    #[error("event number {index} of the batch: {error}")]
    IdConflictInBatch {
        /// Counted from 1.
        index: usize,
        /// The conflict.
        error: IdConflict,
    },
    /// The database refused the statement, or it could not be reached.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The outbox is shutting down or was never started.
    #[error(
        "the outbox system is not running, so the event was not stored: start it, or publish on a connection of your own"
    )]
    Stopped,
    /// `send_blocking` was called on a thread that runs actors.
    #[error("send_blocking was called on a thread that runs actors, so the event was not stored: await `send` there")]
    WouldBlock,
}

impl PublishError {
    /// The same error for a single event that the caller did not give as a batch.
    pub(crate) fn alone(self) -> Self {
        match self {
            Self::InvalidInBatch { error, .. } => Self::Invalid(error),
            Self::IdConflictInBatch { error, .. } => Self::IdConflict(error),
            other => other,
        }
    }

    /// Whether the event itself was refused, so that sending it again cannot help.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        matches!(self, Self::Invalid(_) | Self::InvalidInBatch { .. })
    }

    /// Whether a retry may store the event: the database is unavailable, starting or overloaded, or it did not answer
    /// (the event may be stored then). Every other error except [`Stopped`](Self::Stopped) is permanent.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_transient())
    }

    /// Whether an event with other content is stored under this id, so that sending it again cannot help.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::IdConflict(_) | Self::IdConflictInBatch { .. })
    }
}

/// The database refused a statement, or it could not be reached.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No connection could be made.
    #[error("cannot reach the database {target}: {reason}")]
    Unreachable {
        /// The database's address without its password.
        target: String,
        /// The driver's message.
        reason: String,
    },
    /// The server refuses this login, it has no such database, or the file of an SQLite database cannot be used.
    #[error("no access to the database {target}: {reason}")]
    #[non_exhaustive]
    NoAccess {
        /// The database's address without its password.
        target: String,
        /// The driver's or the operating system's message.
        reason: String,
    },
    /// The server accepts reads but no writes: it is a standby, or it was set read-only. Its data may be old.
    #[error(
        "the database {target} is read-only: it is a standby, or default_transaction_read_only is on. The outbox \
         needs the primary; point database.url at it"
    )]
    ReadOnly {
        /// The database's address without its password.
        target: String,
    },
    /// The tables are missing or older than this version needs.
    #[error("the outbox tables in {target} are {state}: run `outbox migrate`")]
    NotMigrated {
        /// The database's address without its password.
        target: String,
        /// Missing, or out of date.
        state: &'static str,
    },
    /// The database has no inbox.
    #[error("there is no table outbox_inbox in {target}: run `outbox migrate --inbox`")]
    #[non_exhaustive]
    NoInbox {
        /// The database's address without its password.
        target: String,
    },
    /// A table with the outbox's name exists that is neither the outbox's nor django-broadcaster's; nothing was changed.
    #[error(
        "the table outbox_events in {target} was created by neither this program nor django-broadcaster 0.1.1 and was \
         not changed: {objections}. Rename it, or use another schema"
    )]
    NotAdoptable {
        /// The database's address without its password.
        target: String,
        /// Every difference.
        objections: String,
    },
    /// The database cannot hold an outbox as it is, or hides a part of it from this role.
    #[error("the database {target} cannot be used: {problem}")]
    #[non_exhaustive]
    Unsuitable {
        /// The database's address without its password.
        target: String,
        /// What is wrong and how to change it.
        problem: String,
    },
    /// The database did not answer in time.
    #[error("the database did not answer `{operation}` within {limit:?}")]
    Timeout {
        /// The operation.
        operation: &'static str,
        /// The time limit.
        limit: Duration,
    },
    /// A statement failed.
    #[error("the database refused `{operation}`: {reason}")]
    Query {
        /// The operation.
        operation: &'static str,
        /// The driver's message.
        reason: String,
        /// The connection was lost, or the server cannot serve now; a retry may succeed.
        transient: bool,
    },
    /// The database refused the statement because of its values.
    #[error("the database refused to {operation} ({sqlstate}): {reason}")]
    #[non_exhaustive]
    Refused {
        /// The operation.
        operation: &'static str,
        /// PostgreSQL's SQLSTATE (appendix A of its manual), or the number of MariaDB's or MySQL's error.
        sqlstate: String,
        /// The server's message.
        reason: String,
    },
    /// Another transaction holds a lock longer than the statement may wait.
    #[error("cannot {operation}: another transaction holds a lock on the table or its rows")]
    #[non_exhaustive]
    Locked {
        /// The operation.
        operation: &'static str,
    },
    /// No event has this id.
    #[error("no event has the id {0}; one that was done may have been deleted")]
    NotFound(Uuid),
}

impl StoreError {
    /// Whether a retry may succeed: the database is unavailable, starting or overloaded. A running system also waits for access
    /// that it once had.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::NoAccess { .. }
            | Self::ReadOnly { .. }
            | Self::Timeout { .. }
            | Self::Locked { .. } => true,
            Self::Query { transient, .. } => *transient,
            _ => false,
        }
    }

    /// Whether the server rejected the statement because of its values, so that nothing was written.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// Settings that cannot be used, with their origin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the settings file {path}: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// The operating system's message.
        reason: String,
    },
    /// An unknown key.
    #[error("unknown setting `{key}` in {origin}{}", Hint(.nearest))]
    UnknownKey {
        /// Its path, with dots.
        key: String,
        /// A file or an environment variable.
        origin: String,
        /// The most similar known key.
        nearest: Option<String>,
    },
    /// A value of the wrong type or out of range.
    #[error("setting `{key}` in {origin}: {problem}")]
    Invalid {
        /// Its path, with dots.
        key: String,
        /// A file or an environment variable.
        origin: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A setting without a default was not given.
    #[error("setting `{key}` is missing: {remedy}")]
    Missing {
        /// Its path, with dots.
        key: String,
        /// Why it is needed and how to give it.
        remedy: String,
    },
}

struct Hint<'a>(&'a Option<String>);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(nearest) => write!(f, ": did you mean `{nearest}`?"),
            None => Ok(()),
        }
    }
}

/// Starting or using an outbox system failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SystemError {
    /// The settings do not describe a system that can run.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The database returned an error that waiting does not fix.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A secret cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A handler's name is empty or too long.
    #[error("the handler name {name:?} is not valid: it has 1 to {max} characters")]
    #[non_exhaustive]
    HandlerName {
        /// The name.
        name: String,
        /// The most characters that a name may have.
        max: usize,
    },
    /// The streams of a consumer cannot be used now.
    #[error("the consumer's streams cannot be used: {0}")]
    Source(String),
    /// The runtime could not be created.
    #[error("cannot start the outbox's threads: {0}")]
    Runtime(#[source] std::io::Error),
    /// Two handlers would share a name.
    #[error(
        "a handler named `{name}` is subscribed already, so this one was not: give it a name of its own, or subscribe one \
         handler for all of their event types"
    )]
    HandlerNameTaken {
        /// The handlers' name.
        name: String,
    },
    /// The database could not be used within the time that [`Builder::start_within`](crate::Builder::start_within) gave.
    #[error("the outbox system did not start within {limit:?}: {error}")]
    #[non_exhaustive]
    StartTimeout {
        /// The limit.
        limit: Duration,
        /// What it waited for.
        #[source]
        error: StoreError,
    },
    /// The thread that called `start` runs no actix system.
    #[error(
        "this thread runs no actix system: call `start` under `#[actix::main]` or `#[actix_web::main]`; a worker can also use \
         `start_on_thread`"
    )]
    NoActixSystem,
    /// The system has stopped.
    #[error("the outbox system is not running")]
    Stopped,
    /// Shutdown took longer than `shutdown_timeout`; another worker, or the next start, delivers the events in flight.
    #[error(
        "shutdown took longer than {0:?}; the events in progress are delivered again, by another process or after the next start"
    )]
    ShutdownTimeout(Duration),
}

#[cfg(feature = "consumer")]
impl From<crate::backend::event_source::SourceUnavailable> for SystemError {
    fn from(error: crate::backend::event_source::SourceUnavailable) -> Self {
        Self::Source(error.0)
    }
}
