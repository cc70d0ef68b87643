//! Announces, sees and drops handlers.

use diesel_async::RunQueryDsl;
use futures_util::FutureExt;
use serde_json::json;
use tokio_postgres::types::Type;

use super::answers;
use crate::store::Announcement;
use crate::store::postgres::settle::{Parameter, durable};
use crate::store::postgres::{PostgresStore, Result};

/// Announces in the order of names, so that two processes never deadlock.
pub(in crate::store::postgres) async fn announce(store: &PostgresStore, handlers: &[Announcement]) -> Result<()> {
    let sql = format!(
        "WITH {} INSERT INTO outbox_handlers AS h (name, types, owed_for) \
            SELECT a.name, a.types, a.owed_for * interval '1 microsecond' \
            FROM durable, unnest($1, $2, $3) AS a(name, types, owed_for) ORDER BY a.name COLLATE \"C\" \
         ON CONFLICT (name) DO UPDATE SET types = excluded.types, owed_for = excluded.owed_for, \
            announced_at = clock_timestamp(), seen_at = clock_timestamp()",
        durable("")
    );
    let names: Vec<String> = handlers.iter().map(|handler| handler.name.clone()).collect();
    let types: Vec<_> = handlers.iter().map(|handler| json!(handler.types)).collect();
    let owed_for: Vec<i64> = handlers.iter().map(micros).collect();
    let parameters: Vec<Parameter> = vec![
        (Box::new(names), Type::TEXT_ARRAY),
        (Box::new(types), Type::JSONB_ARRAY),
        (Box::new(owed_for), Type::INT8_ARRAY),
    ];
    store.settling.write("announce handlers", sql, parameters).await.map(drop)
}

/// The duration in microseconds, at most a hundred years: added to a time it does not overflow.
fn micros(handler: &Announcement) -> i64 {
    const CENTURY: i64 = 100 * 365 * 86_400_000_000;
    i64::try_from(handler.owed_for.as_micros()).map_or(CENTURY, |micros| micros.min(CENTURY))
}

/// Writes rarely: each settle reads these rows, with all their versions while a snapshot is held. A locked row is being
/// announced or dropped.
pub(in crate::store::postgres) async fn see(store: &PostgresStore, names: &[String]) -> Result<()> {
    let names = names.to_vec();
    store
        .run("mark handlers as seen", |conn| {
            diesel::sql_query(
                "UPDATE outbox_handlers h SET seen_at = clock_timestamp() FROM (\
                    SELECT name FROM outbox_handlers WHERE name = ANY ($1) \
                        AND seen_at < now() - least(owed_for / 20, interval '1 minute') FOR UPDATE SKIP LOCKED) old \
                 WHERE h.name = old.name",
            )
            .bind::<diesel::sql_types::Array<diesel::sql_types::Text>, _>(names)
            .execute(conn)
            .boxed()
        })
        .await
        .map(drop)
}

/// The number of deliveries that end in one statement.
const BATCH: i64 = 1_000;

/// Settles that read the announcement before may still write deliveries: these have its generation, and end as dropped.
pub(in crate::store::postgres) async fn drop_handler(store: &PostgresStore, name: &str) -> Result<usize> {
    let sql = format!(
        "WITH {}, dropped AS (DELETE FROM outbox_handlers h USING durable WHERE h.name = $1 RETURNING h.generation) \
         SELECT coalesce((SELECT generation FROM dropped), (SELECT last_value FROM outbox_handler_generations)) AS up_to",
        durable("")
    );
    let rows = store.settling.query("drop a handler", sql, vec![(Box::new(name.to_owned()), Type::TEXT)]).await?;
    let up_to = rows.as_slice().first().map_or(0, |row| row.get("up_to"));
    let mut ended = 0;
    loop {
        match answers::end(store, name, 0, up_to, BATCH).await? {
            0 => return Ok(ended),
            batch => ended += batch,
        }
    }
}
