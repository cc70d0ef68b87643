//! Publishing on plain diesel connections: the same as [`publish`](crate::publish()) without async.
//!
//! Any diesel connection to Postgres or SQLite will do, a pool's guard too; this crate itself brings no libpq.

use diesel::connection::LoadConnection;

use crate::error::PublishError;
use crate::event::OutboxEvent;
use crate::publish::sealed::Insert;
use crate::publish::{NewEvent, OutboxDatabase, prepare_all, the_only};

/// Writes an event on the caller's connection and returns it as stored.
///
/// The event exists if and only if the caller's transaction commits. An id that is already in the outbox is the same
/// event: what is stored under it is returned and nothing is written. The JSON of a new one comes back as it was given;
/// PostgreSQL keeps it in a form of its own.
///
/// # Errors
/// [`PublishError::Invalid`] for an event that breaks a rule, before anything is sent to the database;
/// [`PublishError::Store`] when the database refuses or cannot be reached.
pub fn publish<C>(conn: &mut C, event: NewEvent) -> Result<OutboxEvent, PublishError>
where
    C: LoadConnection,
    C::Backend: OutboxDatabase,
{
    the_only(C::Backend::insert_blocking(conn, vec![event.prepare()?])?)
}

/// Writes events on the caller's connection, all or none, and returns them as stored, in the order given.
///
/// That is also their order within a key, where `scheduled_at` does not say otherwise. See [`publish`].
///
/// # Errors
/// [`PublishError::InvalidInBatch`] names the first event that breaks a rule; [`PublishError::Store`] as for [`publish`].
pub fn publish_many<C>(
    conn: &mut C,
    events: impl IntoIterator<Item = NewEvent>,
) -> Result<Vec<OutboxEvent>, PublishError>
where
    C: LoadConnection,
    C::Backend: OutboxDatabase,
{
    C::Backend::insert_blocking(conn, prepare_all(events)?)
}
