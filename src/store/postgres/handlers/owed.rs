//! Deliveries that are owed to handlers.

use std::collections::HashMap;
use std::time::Duration;

use diesel::dsl::sql;
use diesel::sql_types::{BigInt, Bool, Nullable, Text};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;

use crate::store::postgres::statement::{Statement, Value};
use crate::store::postgres::{LONG_STATEMENT_LIMIT, PostgresStore, Result};
use crate::store::{MOST_COUNTED, NOT_COVERED, OwedHandler};

pub(in crate::store::postgres) async fn owed_before(
    store: &PostgresStore,
    lane: &str,
    keys: &[String],
) -> Result<HashMap<String, Vec<String>>> {
    let lane = || Value::Text(lane.to_owned());
    let values = [Value::Texts(keys.to_vec()), lane(), lane()];
    let query = Statement::<(Text, Text)>::new(store.target.can_cache_statements(), OWED_BEFORE, values);
    let rows =
        store.read("find handlers owed a key's events", |conn| query.load::<(String, String)>(conn).boxed()).await?;
    let mut owed: HashMap<String, Vec<String>> = HashMap::new();
    for (key, handler) in rows {
        owed.entry(key).or_default().push(handler);
    }
    Ok(owed)
}

/// The next handler name, so that the cost is one lookup for each handler, however much is owed.
macro_rules! next_owed {
    ($key:literal, $after:literal) => {
        concat!(
            "SELECT d.handler FROM outbox_handler_deliveries d WHERE d.lane = ? AND d.partition_key = ",
            $key,
            " AND d.partition_key <> ''",
            $after,
            " AND (d.generation = 0 OR EXISTS (SELECT FROM outbox_handlers h WHERE h.name = d.handler \
                AND h.generation = d.generation)) ORDER BY d.handler LIMIT 1"
        )
    };
}

const OWED_BEFORE: &str = concat!(
    "WITH RECURSIVE owed AS (SELECT k.key, f.handler FROM unnest(?) AS k(key) CROSS JOIN LATERAL (",
    next_owed!("k.key", ""),
    ") f UNION ALL SELECT o.key, n.handler FROM owed o CROSS JOIN LATERAL (",
    next_owed!("o.key", " AND d.handler > o.handler"),
    ") n) SELECT key, handler::text FROM owed ORDER BY key, handler"
);

type OwedRow = (String, Option<String>, i64, i64, Option<i64>, Option<i64>, i64, bool);

pub(in crate::store::postgres) async fn owed(store: &PostgresStore) -> Result<Vec<OwedHandler>> {
    let query =
        sql::<(Text, Nullable<Text>, BigInt, BigInt, Nullable<BigInt>, Nullable<BigInt>, BigInt, Bool)>(&owed_sql());
    let rows: Vec<OwedRow> =
        store.run_within(LONG_STATEMENT_LIMIT, "count owed deliveries", |conn| query.load(conn).boxed()).await?;
    Ok(rows.into_iter().map(handler).collect())
}

fn owed_sql() -> String {
    format!(
        "WITH RECURSIVE owing AS (\
            (SELECT handler FROM outbox_handler_deliveries ORDER BY handler LIMIT 1) \
            UNION ALL SELECT n.handler FROM owing o CROSS JOIN LATERAL (SELECT d.handler FROM outbox_handler_deliveries d \
                WHERE d.handler > o.handler ORDER BY d.handler LIMIT 1) n) \
         SELECT n.name::text, h.types::text, c.owed, c.not_covered, {oldest}, {seen_for}, \
            coalesce((extract(epoch FROM h.owed_for) * 1000000)::bigint, 0), \
            coalesce(h.seen_at + h.owed_for <= clock_timestamp(), false) \
         FROM (SELECT handler AS name FROM owing UNION SELECT name FROM outbox_handlers) n \
            LEFT JOIN outbox_handlers h ON h.name = n.name \
            CROSS JOIN LATERAL (SELECT count(*) AS owed, min(d.created_at) AS since, \
                    count(*) FILTER (WHERE d.last_error = '{NOT_COVERED}') AS not_covered FROM (\
                SELECT d.created_at, d.last_error FROM outbox_handler_deliveries d WHERE d.handler = n.name \
                    AND (d.generation = 0 OR d.generation = h.generation) LIMIT {limit}) d) c \
         WHERE c.owed > 0 OR h.name IS NOT NULL ORDER BY n.name",
        oldest = "(extract(epoch FROM clock_timestamp() - c.since) * 1000000)::bigint",
        seen_for = "(extract(epoch FROM clock_timestamp() - h.seen_at) * 1000000)::bigint",
        limit = MOST_COUNTED + 1,
    )
}

fn handler((name, types, owed, not_covered, oldest, seen_for, owed_for, expired): OwedRow) -> OwedHandler {
    let span = |micros: i64| Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    OwedHandler {
        name,
        types: types.and_then(|types| serde_json::from_str(&types).ok()).unwrap_or_default(),
        owed: owed.min(MOST_COUNTED),
        more_owed: owed > MOST_COUNTED,
        not_covered,
        oldest: oldest.map(span),
        seen_for: seen_for.map(span),
        owed_for: span(owed_for),
        expired,
    }
}
