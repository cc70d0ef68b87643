//! Announces, sees and drops handlers.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text};
use serde_json::json;

use crate::store::Announcement;
use crate::store::sqlite::clock::{micros, read_now};

/// The longest duration, a hundred years: added to a time it does not overflow.
const CENTURY: i64 = 100 * 365 * 86_400_000_000;

pub(in crate::store::sqlite) fn announce(
    connection: &mut SqliteConnection,
    handlers: &[Announcement],
) -> QueryResult<()> {
    connection.immediate_transaction(|connection| {
        let now = read_now(connection)?;
        for handler in handlers {
            sql_query("UPDATE outbox_handler_generations SET value = value + 1").execute(connection)?;
            sql_query(
                "INSERT INTO outbox_handlers (name, types, owed_for, generation, announced_at, seen_at)
                 VALUES (?1, ?2, ?3, (SELECT value FROM outbox_handler_generations), ?4, ?4)
                 ON CONFLICT (name) DO UPDATE SET types = excluded.types, owed_for = excluded.owed_for,
                   announced_at = excluded.announced_at, seen_at = excluded.seen_at",
            )
            .bind::<Text, _>(&handler.name)
            .bind::<Text, _>(json!(handler.types).to_string())
            .bind::<BigInt, _>(micros(handler.owed_for).min(CENTURY))
            .bind::<BigInt, _>(now)
            .execute(connection)?;
        }
        Ok(())
    })
}

pub(in crate::store::sqlite) fn see(connection: &mut SqliteConnection, names: &[String]) -> QueryResult<()> {
    connection.immediate_transaction(|connection| {
        let now = read_now(connection)?;
        for name in names {
            sql_query("UPDATE outbox_handlers SET seen_at = ? WHERE name = ?")
                .bind::<BigInt, _>(now)
                .bind::<Text, _>(name)
                .execute(connection)?;
        }
        Ok(())
    })
}

/// Drops an announcement and returns the last generation that ends with it.
pub(in crate::store::sqlite) fn drop_announcement(connection: &mut SqliteConnection, name: &str) -> QueryResult<i64> {
    connection.immediate_transaction(|connection| {
        let generation = sql::<BigInt>("SELECT coalesce((SELECT generation FROM outbox_handlers WHERE name = ")
            .bind::<Text, _>(name)
            .sql("), (SELECT value FROM outbox_handler_generations))")
            .get_result(connection)?;
        sql_query("DELETE FROM outbox_handlers WHERE name = ?").bind::<Text, _>(name).execute(connection)?;
        Ok(generation)
    })
}
