//! Publishing on plain diesel connections: the same as [`publish`](crate::publish()) without async.
//!
//! Any diesel connection to PostgreSQL, SQLite or MariaDB works, including a pool's guard; this crate itself needs neither
//! libpq nor libmysqlclient.

use diesel::connection::LoadConnection;
use diesel::result::QueryResult;

use crate::error::PublishError;
use crate::event::OutboxEvent;
#[cfg(feature = "sqlite")]
use crate::publish::into_parts;
use crate::publish::sealed::Insert;
use crate::publish::{InsertResult, NewEvent, OutboxDatabase, ValidEvent, all_stored, exactly_one, prepare_parts};

/// Writes an event on the caller's connection and returns it as stored.
///
/// The event exists if and only if the caller's transaction commits. A repeated id is treated as by
/// [`publish`](crate::publish()).
///
/// # Errors
/// [`PublishError::Invalid`] if the event breaks a rule, before anything is sent to the database;
/// [`PublishError::IdConflict`] if its id belongs to an event with other content; [`PublishError::Store`] if the database
/// refuses the event or cannot be reached.
pub fn publish<C>(conn: &mut C, event: NewEvent) -> Result<OutboxEvent, PublishError>
where
    C: LoadConnection,
    C::Backend: OutboxDatabase,
{
    exactly_one(C::Backend::insert_each_blocking(conn, vec![event.into_valid()?])?)
}

/// Writes events on the caller's connection, all or none, and returns them as stored, in the order given.
///
/// See [`publish_many`](crate::publish_many) for their order and their transaction.
///
/// # Errors
/// [`PublishError::InvalidInBatch`] names the first event that breaks a rule, [`PublishError::IdConflictInBatch`] the
/// first event whose id belongs to other content; [`PublishError::Store`] as for [`publish`].
pub fn publish_many<C>(
    conn: &mut C,
    events: impl IntoIterator<Item = NewEvent>,
) -> Result<Vec<OutboxEvent>, PublishError>
where
    C: LoadConnection,
    C::Backend: OutboxDatabase,
{
    let parts = prepare_parts::<C::Backend>(events)?;
    if parts.can_stand_alone {
        return all_stored(insert_parts(conn, parts.events)?);
    }
    conn.transaction(|conn| all_stored(insert_parts(conn, parts.events)?))
}

/// Writes independent events, in as many statements as they need.
#[cfg(feature = "sqlite")]
pub(crate) fn insert_ready<C>(conn: &mut C, events: Vec<ValidEvent>) -> QueryResult<Vec<InsertResult>>
where
    C: LoadConnection,
    C::Backend: OutboxDatabase,
{
    insert_parts(conn, into_parts::<C::Backend>(events))
}

fn insert_parts<C>(conn: &mut C, parts: Vec<Vec<ValidEvent>>) -> QueryResult<Vec<InsertResult>>
where
    C: LoadConnection,
    C::Backend: OutboxDatabase,
{
    let mut stored = Vec::new();
    for part in parts {
        stored.extend(C::Backend::insert_each_blocking(conn, part)?);
    }
    Ok(stored)
}
