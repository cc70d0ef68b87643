//! The inbox: a consumer handles each event once in effect, although it may receive it several times.
//!
//! A consumer that dies between its commit and its acknowledgement receives the event again. So it writes a note into
//! the table `outbox_inbox` in the transaction of its own changes: both exist, or neither does. [`handle`] writes the
//! note first and runs the work only if the note is new. A transaction that notes an event which another has noted and
//! not yet committed waits for it; that stops a consumer that was taken for dead and goes on.
//!
//! ```
//! # #[cfg(feature = "postgres")]
//! # mod example {
//! use actix_outbox::inbox::{self, Handled};
//! use actix_outbox::{HandleEvent, HandlerError};
//! use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
//!
//! async fn count_user(conn: &mut AsyncPgConnection, message: &HandleEvent) -> Result<(), HandlerError> {
//!     let handled = conn
//!         .transaction::<_, anyhow::Error, _>(async |conn| {
//!             inbox::handle(conn, message, async |conn| {
//!                 diesel::sql_query("UPDATE counters SET users = users + 1").execute(conn).await?;
//!                 Ok(())
//!             })
//!             .await
//!         })
//!         .await?;
//!     if handled == Handled::Skipped {
//!         println!("{} was handled before", message.event.id);
//!     }
//!     Ok(())
//! }
//! # }
//! ```
//!
//! Supported connections: `AsyncPgConnection`, `AsyncMysqlConnection`, `SyncConnectionWrapper<SqliteConnection>` and the guards of pools of
//! them; diesel's own connections in [`blocking`]; other drivers in the modules with their names. `outbox migrate
//! --inbox` or [`migrate`] creates the table, in the database of the consumer. docs/inbox.md has the rest.

#[cfg(feature = "_adapters")]
mod adapters;
pub mod blocking;
mod error;
mod key;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};
use diesel::connection::TransactionManagerStatus;
use diesel::result::{DatabaseErrorKind, Error, QueryResult};
use diesel_async::{AsyncConnection, TransactionManager};

#[cfg(feature = "rusqlite")]
pub use self::adapters::rusqlite;
#[cfg(feature = "sea-orm-1")]
pub use self::adapters::sea_orm_1;
#[cfg(feature = "sea-orm-2")]
pub use self::adapters::sea_orm_2;
#[cfg(feature = "sqlx-0_8")]
pub use self::adapters::sqlx_0_8;
#[cfg(feature = "sqlx-0_9")]
pub use self::adapters::sqlx_0_9;
#[cfg(feature = "tokio-postgres")]
pub use self::adapters::tokio_postgres;
pub use self::error::{InboxError, InvalidKey};
pub use self::key::InboxKey;
use crate::publish::OutboxDatabase;
use crate::store::TextQueries;
use crate::store::inbox::{Answer, InboxStatement, NoteMany, delete_before, exists, find, forget, note, table};

/// What [`handle`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an event that was handled before is skipped"]
pub enum Handled<T> {
    /// The event is new: the work was done and returned this.
    Done(T),
    /// The event was handled before, so the work was not done.
    Skipped,
}

impl<T> Handled<T> {
    /// Whether the event was handled before.
    pub fn is_skipped(&self) -> bool {
        matches!(self, Self::Skipped)
    }

    /// What the work returned. `None`: the event was handled before.
    pub fn done(self) -> Option<T> {
        match self {
            Self::Done(result) => Some(result),
            Self::Skipped => None,
        }
    }
}

/// Notes in the caller's transaction that the event is handled and runs `work`; if the event was noted before, skips
/// it.
///
/// The key is a [`HandleEvent`](crate::HandleEvent), a [`HandleTyped`](crate::HandleTyped) or an [`InboxKey`]. If
/// another transaction has noted the event and has not ended, this waits: after its commit the event is skipped, and
/// after its rollback the work is done here. Under REPEATABLE READ and SERIALIZABLE the wait for a commit ends with
/// SQLSTATE 40001: roll back and try again, which skips the event.
///
/// # Errors
/// The error of `work`, after the note was removed: roll the transaction back. [`InboxError::InvalidKey`] if the key
/// breaks a limit, and [`InboxError::NoTransaction`] if diesel began no transaction on the connection, before anything
/// is sent to the database; [`InboxError::Database`] if the database refuses the note. `E` may be diesel's error,
/// `anyhow::Error`, [`HandlerError`](crate::HandlerError) or any other that these convert into.
pub async fn handle<C, T, E>(
    conn: &mut C,
    key: impl Into<InboxKey>,
    work: impl AsyncFnOnce(&mut C) -> Result<T, E>,
) -> Result<Handled<T>, E>
where
    C: AsyncConnection,
    C::Backend: OutboxDatabase,
    E: From<InboxError<Error>>,
{
    let key = key.into().into_note().map_err(InboxError::InvalidKey)?;
    if answer(conn, note(C::Backend::DIALECT, &key)).await?.changed() == 0 {
        return Ok(Handled::Skipped);
    }
    match work(conn).await {
        Ok(result) => Ok(Handled::Done(result)),
        Err(error) => {
            // For a caller that commits nevertheless. After an error of PostgreSQL neither is possible.
            let _ = answer(conn, forget(C::Backend::DIALECT, &key)).await;
            Err(error)
        }
    }
}

/// Notes in the caller's transaction that these events are handled, and returns for each in the
/// order given whether it is new. The caller does the work of the new ones in the same transaction.
///
/// An event that is given twice is new the first time only. Two calls with the same events wait for each other as those
/// of [`handle`] do, without a deadlock.
///
/// # Errors
/// As for [`handle`].
pub async fn note_many<C, K>(conn: &mut C, keys: impl IntoIterator<Item = K>) -> Result<Vec<bool>, InboxError<Error>>
where
    C: AsyncConnection,
    C::Backend: OutboxDatabase,
    K: Into<InboxKey>,
{
    let mut many = NoteMany::new(C::Backend::DIALECT, key::into_notes(keys)?);
    while let Some(statement) = many.next() {
        many.received(answer(conn, statement).await, is_unique_violation)?;
    }
    Ok(many.finish())
}

/// Creates the table of the inbox if the connection finds none, and nothing else. On PostgreSQL it is created in the
/// first schema of the connection's `search_path`.
///
/// # Errors
/// Errors of the database.
pub async fn migrate<C>(conn: &mut C) -> QueryResult<()>
where
    C: AsyncConnection,
    C::Backend: OutboxDatabase,
{
    let found = C::Backend::texts(conn, find(C::Backend::DIALECT)).await?;
    if exists(&found).map_err(|problem| Error::QueryBuilderError(problem.into()))? {
        return Ok(());
    }
    conn.batch_execute(&table(C::Backend::DIALECT)).await
}

/// Deletes notes of events that were handled before a time: a small batch of 1,000 at most, the oldest first. Returns
/// how many; 0: none is left.
///
/// Keep notes at least as long as their events can arrive again. The janitor of a worker does this in the database of
/// its outbox, and `outbox cleanup --inbox` in another.
///
/// # Errors
/// Errors of the database.
pub async fn delete_handled_before<C>(conn: &mut C, time: DateTime<Utc>) -> QueryResult<usize>
where
    C: AsyncConnection,
    C::Backend: OutboxDatabase,
{
    let deleted = C::Backend::answer(conn, delete_before(C::Backend::DIALECT, time.timestamp_micros())).await?;
    Ok(deleted.changed())
}

/// Executes a statement in the caller's transaction.
async fn answer<C>(conn: &mut C, statement: InboxStatement) -> Result<Answer, InboxError<Error>>
where
    C: AsyncConnection,
    C::Backend: OutboxDatabase,
{
    check_transaction(C::TransactionManager::transaction_manager_status_mut(conn))?;
    C::Backend::answer(conn, statement).await.map_err(InboxError::Database)
}

fn is_unique_violation(error: &InboxError<Error>) -> bool {
    matches!(error, InboxError::Database(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _)))
}

/// Without a transaction the note would be committed before the work.
fn check_transaction(status: &TransactionManagerStatus) -> Result<(), InboxError<Error>> {
    match status.transaction_depth().map_err(InboxError::Database)? {
        Some(_) => Ok(()),
        None => Err(InboxError::NoTransaction),
    }
}
