//! Publishing on the caller's own connection: the event is part of the caller's transaction.

#[cfg(feature = "_adapters")]
pub(crate) mod adapters;
mod database_error;
mod jsonb_limits;
mod new_event;
mod prepared;
#[cfg(test)]
pub(crate) mod random_events;
#[cfg(any(feature = "postgres", feature = "_adapters"))]
mod sqlstate;
mod validate;

use std::future::Future;

use diesel::connection::LoadConnection;
use diesel::result::{Error, QueryResult};
use diesel_async::{AsyncConnection, TransactionManager};

#[cfg(feature = "testing")]
pub(crate) use database_error::store_error;
pub use new_event::{DEFAULT_MAX_EVENT_BYTES, NewEvent, PublishEvent};
pub use prepared::{Dialect, PreparedEvent};
#[cfg(any(feature = "postgres", feature = "_adapters"))]
pub(crate) use sqlstate::is_refusal;
pub(crate) use validate::{ValidEvent, check_backend, escape_for_message};

use crate::error::{PublishError, StoreError};
use crate::event::OutboxEvent;
use crate::store::TextQueries;

/// An event as stored, or why this event was not stored.
pub(crate) type InsertResult = Result<OutboxEvent, PublishError>;

/// A database that holds an outbox: diesel's `Pg` or `Sqlite`, depending on the crate's features.
///
/// Cannot be implemented outside this crate.
pub trait OutboxDatabase: sealed::Insert + TextQueries {}

pub(crate) mod sealed {
    use super::*;

    /// Inserts events into a database over any kind of connection.
    pub trait Insert: diesel::backend::Backend + Sized {
        /// The most events in one statement.
        const MOST: usize;

        /// Writes events with one statement, all or none, except those whose id is in use: each event has its own result.
        fn insert_each<C>(
            conn: &mut C,
            events: Vec<ValidEvent>,
        ) -> impl Future<Output = QueryResult<Vec<InsertResult>>> + Send
        where
            C: AsyncConnection<Backend = Self>;

        fn insert_each_blocking<C>(conn: &mut C, events: Vec<ValidEvent>) -> QueryResult<Vec<InsertResult>>
        where
            C: LoadConnection<Backend = Self>;

        /// For tests: every event in the order of writing, or why a row is not one.
        #[cfg(feature = "testing")]
        fn read_all<C>(conn: &mut C) -> impl Future<Output = QueryResult<Vec<Result<OutboxEvent, String>>>> + Send
        where
            C: AsyncConnection<Backend = Self>;

        #[cfg(feature = "testing")]
        fn read_all_blocking<C>(conn: &mut C) -> QueryResult<Vec<Result<OutboxEvent, String>>>
        where
            C: LoadConnection<Backend = Self>;

        /// For tests: moves what is due later by this many microseconds.
        #[cfg(feature = "testing")]
        fn advance<C>(conn: &mut C, micros: i64) -> impl Future<Output = QueryResult<()>> + Send
        where
            C: AsyncConnection<Backend = Self>;
    }
}

/// Writes an event on the caller's connection and returns it as stored.
///
/// The event exists if and only if the caller's transaction commits. The returned event has the JSON of its data as it
/// was given; PostgreSQL normalizes it. The connection may be an `AsyncPgConnection`, a
/// `SyncConnectionWrapper<SqliteConnection>` or a pool's guard of either.
///
/// # Repeated ids
/// If an event with the same id and content is already in the outbox, it is the same event: the stored event is returned,
/// and no second event is written. The content is everything that [`NewEvent`] sets, except a time, a delay or
/// `max_retries` that is not given, and the trace context. On PostgreSQL such a repetition writes a message to the WAL,
/// so that its commit waits for a synchronous standby as the first one had to. If the event was delivered and deleted in
/// between, it is returned as published, as it was given, with `seq` 0; after the deletion its id is free.
///
/// # Errors
/// [`PublishError::Invalid`] if the event breaks a rule, before anything is sent to the database;
/// [`PublishError::IdConflict`] if its id belongs to an event with other content; [`PublishError::Store`] if the database
/// refuses the event or cannot be reached.
pub async fn publish<C>(conn: &mut C, event: NewEvent) -> Result<OutboxEvent, PublishError>
where
    C: AsyncConnection,
    C::Backend: OutboxDatabase,
{
    exactly_one(<C::Backend as sealed::Insert>::insert_each(conn, vec![event.into_valid()?]).await?)
}

/// Writes events on the caller's connection, all or none, and returns them as stored, in the order given.
///
/// This order is also their order within a key, unless `scheduled_at` differs. See [`publish`]. If one of several events
/// has an id that the caller chose, they are written in a transaction of their own, which is a savepoint within a
/// transaction that diesel began.
///
/// # Errors
/// [`PublishError::InvalidInBatch`] names the first event that breaks a rule, [`PublishError::IdConflictInBatch`] the
/// first event whose id belongs to other content; [`PublishError::Store`] as for [`publish`].
pub async fn publish_many<C>(
    conn: &mut C,
    events: impl IntoIterator<Item = NewEvent>,
) -> Result<Vec<OutboxEvent>, PublishError>
where
    C: AsyncConnection,
    C::Backend: OutboxDatabase,
{
    let parts = prepare_parts::<C::Backend>(events)?;
    if parts.can_stand_alone {
        return all_stored(insert_parts(conn, parts.events).await?);
    }
    // Not `transaction`: with its closure the future could not move between threads.
    C::TransactionManager::begin_transaction(conn).await?;
    match insert_parts(conn, parts.events).await.map_err(PublishError::from).and_then(all_stored) {
        Ok(stored) => {
            C::TransactionManager::commit_transaction(conn).await?;
            Ok(stored)
        }
        Err(error) => match C::TransactionManager::rollback_transaction(conn).await {
            // The error that broke the transaction says more than that it is broken.
            Ok(()) | Err(Error::BrokenTransactionManager) => Err(error),
            Err(error) => Err(error.into()),
        },
    }
}

async fn insert_parts<C>(conn: &mut C, parts: Vec<Vec<ValidEvent>>) -> QueryResult<Vec<InsertResult>>
where
    C: AsyncConnection,
    C::Backend: OutboxDatabase,
{
    let mut stored = Vec::new();
    for part in parts {
        stored.extend(<C::Backend as sealed::Insert>::insert_each(conn, part).await?);
    }
    Ok(stored)
}

/// Events, grouped by the statements that write them.
pub(crate) struct InsertParts {
    pub(crate) events: Vec<Vec<ValidEvent>>,
    /// One statement writes all or none by itself: every id is new, or there is only one event.
    pub(crate) can_stand_alone: bool,
}

pub(crate) fn prepare_parts<DB: OutboxDatabase>(
    events: impl IntoIterator<Item = NewEvent>,
) -> Result<InsertParts, PublishError> {
    let events = prepare_all(events)?;
    let is_one_statement = events.len() <= DB::MOST;
    let can_stand_alone = is_one_statement && (events.len() <= 1 || events.iter().all(|event| event.is_new));
    Ok(InsertParts { events: into_parts::<DB>(events), can_stand_alone })
}

pub(crate) fn into_parts<DB: OutboxDatabase>(mut rest: Vec<ValidEvent>) -> Vec<Vec<ValidEvent>> {
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let later = rest.split_off(rest.len().min(DB::MOST));
        parts.push(std::mem::replace(&mut rest, later));
    }
    parts
}

pub(crate) fn prepare_all(events: impl IntoIterator<Item = NewEvent>) -> Result<Vec<ValidEvent>, PublishError> {
    let prepare = |(at, event): (usize, NewEvent)| {
        event.into_valid().map_err(|error| PublishError::InvalidInBatch { index: at + 1, error })
    };
    events.into_iter().enumerate().map(prepare).collect()
}

/// All events, or the error of the first event that was not stored.
pub(crate) fn all_stored(answers: Vec<InsertResult>) -> Result<Vec<OutboxEvent>, PublishError> {
    let in_batch = |(at, stored): (usize, InsertResult)| {
        stored.map_err(|error| match error {
            PublishError::IdConflict(error) => PublishError::IdConflictInBatch { index: at + 1, error },
            other => other,
        })
    };
    answers.into_iter().enumerate().map(in_batch).collect()
}

pub(crate) fn exactly_one(answers: Vec<InsertResult>) -> InsertResult {
    answers.into_iter().next().unwrap_or_else(|| {
        let reason = "the database did not return the inserted event".to_owned();
        Err(StoreError::Query { operation: "publish", reason, transient: false }.into())
    })
}

/// Checks that every connection type in the documentation is accepted, and that the future can move between threads.
#[cfg(test)]
mod accepts {
    use diesel_async::pooled_connection::deadpool::Object;

    use super::*;

    fn is_send(_: impl Send) {}

    #[cfg(feature = "postgres")]
    #[expect(dead_code, reason = "it compiles")]
    fn postgres(conn: &mut diesel_async::AsyncPgConnection, pooled: &mut Object<diesel_async::AsyncPgConnection>) {
        is_send(publish(conn, NewEvent::new("t", "s")));
        is_send(publish(pooled, NewEvent::new("t", "s")));
        is_send(publish_many(pooled, vec![NewEvent::new("t", "s")]));
    }

    #[cfg(feature = "sqlite")]
    type Sqlite = diesel_async::sync_connection_wrapper::SyncConnectionWrapper<diesel::SqliteConnection>;

    #[cfg(feature = "sqlite")]
    #[expect(dead_code, reason = "it compiles")]
    fn sqlite(plain: &mut diesel::SqliteConnection, conn: &mut Sqlite, pooled: &mut Object<Sqlite>) {
        is_send(publish(conn, NewEvent::new("t", "s")));
        is_send(publish(pooled, NewEvent::new("t", "s")));
        is_send(publish_many(pooled, vec![NewEvent::new("t", "s")]));
        let _ = crate::blocking::publish(plain, NewEvent::new("t", "s"));
    }
}
