//! The outbox in a SQLite file: one shard, times as integer microseconds, ids as blobs.
//!
//! Reads, writes and leases each have a connection, so that none waits for another within this process. The file is in WAL
//! mode, which is stored in the file: readers and the one writer do not block each other.

mod admin;
mod application;
mod audit;
mod change;
mod claimed;
mod clock;
mod connection;
mod data;
mod delete;
mod error;
mod fetch;
#[cfg(test)]
pub(crate) mod fixture;
mod handlers;
mod history;
mod inbox;
pub(crate) mod insert;
mod leases;
mod migrations;
mod order;
mod overview;
mod pauses;
#[cfg(test)]
mod prepared_tests;
#[cfg(test)]
mod publish_view_tests;
mod queue_position;
mod retention;
mod roles;
mod route;
pub(crate) mod row;
mod settle;
#[cfg(feature = "testing")]
mod testing;
#[cfg(test)]
mod tests;
mod waits;

use std::sync::Arc;
use std::time::Duration;

use diesel::QueryResult;
use uuid::Uuid;

use self::connection::Connection;
pub(crate) use self::connection::Location;
use self::row::Row;
use super::{FetchedRow, Result, Unreadable};
use crate::event::OutboxEvent;

/// The only shard of every lane.
const SHARD: i16 = 0;

/// How long a statement waits while another connection writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A renewal counts from before it was sent, so one that waited long is worth little: asking again is better.
const LEASES_BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// [`Store`] in a SQLite file.
pub(crate) struct SqliteStore {
    location: Location,
    reader: Connection,
    writer: Connection,
    /// The progress of the janitor's rounds.
    rounds: handlers::Rounds,
}

impl SqliteStore {
    /// A store in the file of `sqlite://path` or `sqlite:path`; the first use opens it.
    ///
    /// # Errors
    /// Not transient: the address is not valid, or it names a database in memory.
    pub(crate) fn connect(url: &str) -> Result<Self> {
        let location = Location::parse(url)?;
        Ok(Self {
            reader: Connection::new(&location, BUSY_TIMEOUT),
            writer: Connection::new(&location, BUSY_TIMEOUT),
            location,
            rounds: handlers::Rounds::default(),
        })
    }
}

impl SqliteStore {
    async fn load_columns(&self, columns: &'static str, ids: &[Uuid]) -> Result<Vec<Result<OutboxEvent, Unreadable>>> {
        let ids = ids.to_vec();
        let rows = self
            .reader
            .run("load events", move |connection| {
                let rows: QueryResult<Vec<_>> =
                    ids.iter().map(|id| admin::find_event(connection, columns, *id)).collect();
                rows
            })
            .await?;
        let decode = |row: Row| {
            let (id, status) = (row.id(), row.status());
            row.decode().map_err(|reason| Unreadable { id, status, reason })
        };
        Ok(rows.into_iter().flatten().map(decode).collect())
    }
}

fn to_fetched(row: Row) -> FetchedRow {
    FetchedRow {
        shard: SHARD,
        position: row.position(),
        id: row.id(),
        partition_key: row.partition_key().to_owned(),
        retry: row.is_retry(),
        in_range: false,
        retry_count: row.retry_count(),
        max_retries: row.max_retries(),
        updated_at: row.updated_at(),
        version: None,
        place: None,
        event: row.decode().map(Arc::new),
    }
}

fn uuid_of(blob: &[u8]) -> QueryResult<Uuid> {
    Uuid::from_slice(blob).map_err(|error| diesel::result::Error::DeserializationError(Box::new(error)))
}
