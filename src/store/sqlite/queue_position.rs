//! The position of one event in its queue.

use chrono::DateTime;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Text};
use uuid::Uuid;

use super::clock::read_now;
use super::{SHARD, uuid_of};
use crate::store::{MOST_AHEAD, Position, QueuePosition};

pub(super) fn queue_position(connection: &mut SqliteConnection, id: Uuid) -> QueryResult<Option<QueuePosition>> {
    connection.transaction(|connection| {
        let now = read_now(connection)?;
        // Values of another writer may be of any type.
        let event: Option<(String, i64, i64)> = sql::<(Text, BigInt, BigInt)>(
            "SELECT CAST(publisher_backend AS TEXT), CAST(scheduled_at AS INTEGER), CAST(coalesce(seq, 0) AS INTEGER)
             FROM outbox_events WHERE id = ",
        )
        .bind::<Binary, _>(id.as_bytes().as_slice())
        .get_result(connection)
        .optional()?;
        let Some((lane, scheduled_at, seq)) = event else { return Ok(None) };
        let owner: Option<Vec<u8>> = sql::<Binary>("SELECT owner FROM outbox_running_leases WHERE backend = ")
            .bind::<Text, _>(&lane)
            .get_result(connection)
            .optional()?;
        let ahead: i64 = sql::<BigInt>(
            "SELECT count(*) FROM (SELECT 1 FROM outbox_events INDEXED BY outbox_events_due
             WHERE status = 'pending' AND publisher_backend = ",
        )
        .bind::<Text, _>(&lane)
        .sql(" AND (scheduled_at, seq) < (")
        .bind::<BigInt, _>(scheduled_at)
        .sql(", ")
        .bind::<BigInt, _>(seq)
        .sql(&format!(") LIMIT {MOST_AHEAD})"))
        .get_result(connection)?;
        Ok(Some(QueuePosition {
            now: DateTime::from_timestamp_micros(now).unwrap_or_default(),
            position: Position { scheduled_at, seq },
            shard: SHARD,
            owner: owner.as_deref().map(uuid_of).transpose()?,
            ahead,
            more_ahead: ahead >= MOST_AHEAD,
        }))
    })
}
