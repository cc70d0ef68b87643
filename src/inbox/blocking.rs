//! The inbox on plain diesel connections: the same as [`inbox`](super) without async.
//!
//! ```
//! # #[cfg(feature = "sqlite")]
//! # mod example {
//! use actix_outbox::inbox::{InboxKey, blocking};
//! use diesel::{Connection, RunQueryDsl, SqliteConnection};
//!
//! fn count_user(conn: &mut SqliteConnection, key: &InboxKey) -> anyhow::Result<()> {
//!     let handled = conn.immediate_transaction(|conn| {
//!         blocking::handle(conn, key, |conn| diesel::sql_query("UPDATE counters SET users = users + 1").execute(conn))
//!     })?;
//!     println!("{handled:?}");
//!     Ok(())
//! }
//! # }
//! ```

use chrono::{DateTime, Utc};
use diesel::connection::{LoadConnection, TransactionManager};
use diesel::result::{Error, QueryResult};

use super::{Handled, InboxError, InboxKey, check_transaction, is_unique_violation, key};
use crate::publish::OutboxDatabase;
use crate::store::TextQueries;
use crate::store::inbox::{Answer, InboxStatement, NoteMany, delete_before, exists, find, forget, note, table};

/// Notes in the caller's transaction that the event is handled and runs `work`; if the event was noted before, skips
/// it. See [`handle`](super::handle).
///
/// # Errors
/// As for [`handle`](super::handle).
pub fn handle<C, T, E>(
    conn: &mut C,
    key: impl Into<InboxKey>,
    work: impl FnOnce(&mut C) -> Result<T, E>,
) -> Result<Handled<T>, E>
where
    C: LoadConnection,
    C::Backend: OutboxDatabase,
    E: From<InboxError<Error>>,
{
    let key = key.into().into_note().map_err(InboxError::InvalidKey)?;
    if answer(conn, note(C::Backend::DIALECT, &key))?.changed() == 0 {
        return Ok(Handled::Skipped);
    }
    work(conn).map(Handled::Done).inspect_err(|_| {
        // For a caller that commits nevertheless. After an error of PostgreSQL neither is possible.
        let _ = answer(conn, forget(C::Backend::DIALECT, &key));
    })
}

/// Notes in the caller's transaction that these events are handled, and returns for each whether it is new. See
/// [`note_many`](super::note_many).
///
/// # Errors
/// As for [`note_many`](super::note_many).
pub fn note_many<C, K>(conn: &mut C, keys: impl IntoIterator<Item = K>) -> Result<Vec<bool>, InboxError<Error>>
where
    C: LoadConnection,
    C::Backend: OutboxDatabase,
    K: Into<InboxKey>,
{
    let mut many = NoteMany::new(C::Backend::DIALECT, key::into_notes(keys)?);
    while let Some(statement) = many.next() {
        many.received(answer(conn, statement), is_unique_violation)?;
    }
    Ok(many.finish())
}

/// Creates the table of the inbox if the connection finds none. See [`migrate`](super::migrate).
///
/// # Errors
/// Errors of the database.
pub fn migrate<C>(conn: &mut C) -> QueryResult<()>
where
    C: LoadConnection,
    C::Backend: OutboxDatabase,
{
    let found = C::Backend::texts_blocking(conn, find(C::Backend::DIALECT))?;
    if exists(&found).map_err(|problem| Error::QueryBuilderError(problem.into()))? {
        return Ok(());
    }
    conn.batch_execute(&table(C::Backend::DIALECT))
}

/// Deletes a small batch of notes of events that were handled before a time; returns how many. See
/// [`delete_handled_before`](super::delete_handled_before).
///
/// # Errors
/// Errors of the database.
pub fn delete_handled_before<C>(conn: &mut C, time: DateTime<Utc>) -> QueryResult<usize>
where
    C: LoadConnection,
    C::Backend: OutboxDatabase,
{
    let statement = delete_before(C::Backend::DIALECT, time.timestamp_micros());
    Ok(C::Backend::answer_blocking(conn, statement)?.changed())
}

/// Executes a statement in the caller's transaction.
fn answer<C>(conn: &mut C, statement: InboxStatement) -> Result<Answer, InboxError<Error>>
where
    C: LoadConnection,
    C::Backend: OutboxDatabase,
{
    check_transaction(C::TransactionManager::transaction_manager_status_mut(conn))?;
    C::Backend::answer_blocking(conn, statement).map_err(InboxError::Database)
}
