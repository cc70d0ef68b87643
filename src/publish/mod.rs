//! Publishing on the caller's own connection: the event is part of the caller's transaction.

mod answers;
mod database_error;
mod from_cloud_event;
mod json_rules;
mod new_event;
mod ready;

use std::future::Future;

use diesel::connection::LoadConnection;
use diesel_async::AsyncConnection;

pub(crate) use answers::Answers;
#[cfg(feature = "postgres")]
pub(crate) use answers::Written;
pub use from_cloud_event::CLOUD_EVENT_NAMESPACE;
pub use new_event::{DEFAULT_MAX_EVENT_BYTES, NewEvent, PublishEvent};
pub(crate) use ready::{RESERVED_NAMES, ReadyEvent};

use crate::error::{PublishError, StoreError};
use crate::event::OutboxEvent;

/// A database that holds an outbox: diesel's `Pg` or `Sqlite`, as the crate's features say.
///
/// Cannot be implemented outside of this crate.
pub trait OutboxDatabase: sealed::Insert {}

pub(crate) mod sealed {
    use super::*;

    /// How a database inserts events, whatever drives the connection.
    pub trait Insert: diesel::backend::Backend + Sized {
        fn insert<C>(
            conn: &mut C,
            events: Vec<ReadyEvent>,
        ) -> impl Future<Output = Result<Vec<OutboxEvent>, PublishError>> + Send
        where
            C: AsyncConnection<Backend = Self>;

        fn insert_blocking<C>(conn: &mut C, events: Vec<ReadyEvent>) -> Result<Vec<OutboxEvent>, PublishError>
        where
            C: LoadConnection<Backend = Self>;
    }
}

/// Writes an event on the caller's connection and returns it as stored.
///
/// The event exists if and only if the caller's transaction commits. An id that is already in the outbox is the same
/// event: what is stored under it is returned and nothing is written. The JSON of a new one comes back as it was given;
/// PostgreSQL keeps it in a form of its own. The connection may be an `AsyncPgConnection`, a
/// `SyncConnectionWrapper<SqliteConnection>` or a pool's guard of either.
///
/// # Errors
/// [`PublishError::Invalid`] for an event that breaks a rule, before anything is sent to the database;
/// [`PublishError::Store`] when the database refuses or cannot be reached.
pub async fn publish<C>(conn: &mut C, event: NewEvent) -> Result<OutboxEvent, PublishError>
where
    C: AsyncConnection,
    C::Backend: OutboxDatabase,
{
    let events = <C::Backend as sealed::Insert>::insert(conn, vec![event.prepare()?]).await?;
    the_only(events)
}

/// Writes events on the caller's connection, all or none, and returns them as stored, in the order given.
///
/// That is also their order within a key, where `scheduled_at` does not say otherwise. See [`publish`].
///
/// # Errors
/// [`PublishError::InvalidInBatch`] names the first event that breaks a rule; [`PublishError::Store`] as for [`publish`].
pub async fn publish_many<C>(
    conn: &mut C,
    events: impl IntoIterator<Item = NewEvent>,
) -> Result<Vec<OutboxEvent>, PublishError>
where
    C: AsyncConnection,
    C::Backend: OutboxDatabase,
{
    let events = prepare_all(events)?;
    <C::Backend as sealed::Insert>::insert(conn, events).await
}

pub(crate) fn prepare_all(events: impl IntoIterator<Item = NewEvent>) -> Result<Vec<ReadyEvent>, PublishError> {
    let prepare = |(at, event): (usize, NewEvent)| {
        event.prepare().map_err(|error| PublishError::InvalidInBatch { index: at + 1, error })
    };
    events.into_iter().enumerate().map(prepare).collect()
}

pub(crate) fn the_only(events: Vec<OutboxEvent>) -> Result<OutboxEvent, PublishError> {
    events.into_iter().next().ok_or_else(|| {
        let reason = "the event that was written did not come back".to_owned();
        StoreError::Query { operation: "publish", reason, transient: false }.into()
    })
}

/// Every connection that the documentation names is taken, and the future can move between threads.
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
