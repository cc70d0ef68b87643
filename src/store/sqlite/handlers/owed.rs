//! Deliveries that are owed to handlers.

use std::collections::HashMap;
use std::time::Duration;

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};

use crate::store::sqlite::clock::read_now;
use crate::store::{MOST_COUNTED, NOT_COVERED, OwedHandler};

/// Deliveries of a dropped handler do not count.
const CURRENT: &str = "(d.generation = 0 OR EXISTS (SELECT 1 FROM outbox_handlers h WHERE h.name = d.handler
    AND h.generation = d.generation))";

pub(in crate::store::sqlite) fn owed_before(
    connection: &mut SqliteConnection,
    lane: &str,
    keys: &[String],
) -> QueryResult<HashMap<String, Vec<String>>> {
    connection.transaction(|connection| {
        let mut owed: HashMap<String, Vec<String>> = HashMap::new();
        for key in keys {
            let mut last = String::new();
            while let Some(handler) = next_owed(connection, lane, key, &last)? {
                owed.entry(key.clone()).or_default().push(handler.clone());
                last = handler;
            }
        }
        Ok(owed)
    })
}

/// The next handler name, so that the cost is one lookup for each handler, however much is owed.
fn next_owed(connection: &mut SqliteConnection, lane: &str, key: &str, after: &str) -> QueryResult<Option<String>> {
    sql::<Text>(
        "SELECT d.handler FROM outbox_handler_deliveries d INDEXED BY outbox_handler_deliveries_keys
         WHERE d.partition_key <> '' AND d.lane = ",
    )
    .bind::<Text, _>(lane)
    .sql(" AND d.partition_key = ")
    .bind::<Text, _>(key)
    .sql(" AND d.handler > ")
    .bind::<Text, _>(after)
    .sql(&format!(" AND {CURRENT} ORDER BY d.handler LIMIT 1"))
    .get_result(connection)
    .optional()
}

pub(in crate::store::sqlite) fn owed(connection: &mut SqliteConnection) -> QueryResult<Vec<OwedHandler>> {
    connection.transaction(|connection| {
        let now = read_now(connection)?;
        let names: Vec<String> = sql::<Text>(
            "WITH RECURSIVE owing (handler) AS (
               SELECT min(handler) FROM outbox_handler_deliveries
               UNION ALL SELECT (SELECT min(d.handler) FROM outbox_handler_deliveries d WHERE d.handler > owing.handler)
                 FROM owing WHERE handler IS NOT NULL)
             SELECT handler FROM owing WHERE handler IS NOT NULL UNION SELECT name FROM outbox_handlers ORDER BY 1",
        )
        .load(connection)?;
        let handlers: QueryResult<Vec<_>> = names.into_iter().map(|name| owed_to(connection, name, now)).collect();
        Ok(handlers?.into_iter().filter(|handler| handler.owed > 0 || handler.seen_for.is_some()).collect())
    })
}

fn owed_to(connection: &mut SqliteConnection, name: String, now: i64) -> QueryResult<OwedHandler> {
    let announced = sql::<(Text, BigInt, BigInt)>("SELECT types, owed_for, seen_at FROM outbox_handlers WHERE name = ")
        .bind::<Text, _>(&name)
        .get_result::<(String, i64, i64)>(connection)
        .optional()?;
    let (owed, since, not_covered) = sql::<(BigInt, Nullable<BigInt>, BigInt)>(
        "SELECT count(*), min(created_at), count(*) FILTER (WHERE last_error = ",
    )
    .bind::<Text, _>(NOT_COVERED)
    .sql(
        ") FROM (
           SELECT d.created_at, d.last_error FROM outbox_handler_deliveries d INDEXED BY outbox_handler_deliveries_due
           WHERE d.handler = ",
    )
    .bind::<Text, _>(&name)
    .sql(&format!(" AND {CURRENT} LIMIT {})", MOST_COUNTED + 1))
    .get_result::<(i64, Option<i64>, i64)>(connection)?;
    let span = |micros: i64| Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    let (types, owed_for, seen_at) = announced.map_or((None, 0, None), |(types, owed_for, seen_at)| {
        (serde_json::from_str(&types).ok(), owed_for, Some(seen_at))
    });
    Ok(OwedHandler {
        name,
        types: types.unwrap_or_default(),
        owed: owed.min(MOST_COUNTED),
        more_owed: owed > MOST_COUNTED,
        not_covered,
        oldest: since.map(|since| span(now - since)),
        seen_for: seen_at.map(|seen_at| span(now - seen_at)),
        owed_for: span(owed_for),
        expired: seen_at.is_some_and(|seen_at| seen_at + owed_for <= now),
    })
}
