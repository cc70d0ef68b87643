//! Actions of operators on events.

use diesel::dsl::sql;
use diesel::sql_types::{Array, Text, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, RunQueryDsl};
use futures_util::FutureExt;
use uuid::Uuid;

use super::schema_connection::SchemaConnection;
use super::{PostgresStore, Result, audit};
use crate::store::{Action, AuditNote};

pub(super) async fn change(
    store: &PostgresStore,
    change: &Action,
    ids: &[Uuid],
    note: &AuditNote,
) -> Result<Vec<Uuid>> {
    let (statement, reason) = match change {
        Action::Retry => (RETRY, ""),
        Action::Fail { reason } => (FAIL, reason.as_str()),
        Action::Replay => (REPLAY, ""),
        // They need a claim.
        Action::Delete | Action::Move { .. } => return Ok(Vec::new()),
    };
    let (ids, reason, change, note) = (ids.to_vec(), reason.to_owned(), change.clone(), note.clone());
    store
        .run("change events", |conn| {
            let change_and_note = async move |conn: &mut SchemaConnection| {
                let changed: Vec<Uuid> = sql::<SqlUuid>(
                    "WITH durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true)), \
                     given AS MATERIALIZED (SELECT unnest(",
                )
                .bind::<Array<SqlUuid>, _>(ids)
                .sql(") AS id, ")
                .bind::<Text, _>(reason)
                .sql(" AS reason) ")
                .sql(statement)
                .load(conn)
                .await?;
                if !changed.is_empty() {
                    audit::write(conn, note.row(&change, &changed)).await?;
                }
                Ok(changed)
            };
            conn.transaction(change_and_note).boxed()
        })
        .await
}

/// Keeps `scheduled_at` and `seq`, so the position stays, and `published_at`: an event that the backend has accepted is not
/// sent again. An event that is only owed to handlers elsewhere stays unchanged; its deliveries are retried now.
const RETRY: &str = ", due AS (UPDATE outbox_handler_deliveries d SET attempts = 0, next_at = now(), last_error = '' \
        FROM given JOIN outbox_events o ON o.id = given.id WHERE o.status || '' = 'processing' AND o.published_at IS NOT NULL \
            AND d.event_id = o.id AND d.seq = o.seq) \
    UPDATE outbox_events e SET retry_count = 0, retry_at = NULL, last_error = '', updated_at = now(), \
        status = CASE WHEN e.status = 'processing' AND e.published_at IS NOT NULL THEN e.status ELSE 'pending' END \
    FROM given, durable WHERE e.id = given.id AND e.status <> 'published' RETURNING e.id";

/// The function drops the deliveries of the events.
const FAIL: &str = "SELECT e.id FROM (SELECT array_agg(id) AS ids, min(reason) AS reason FROM given, durable) g \
    CROSS JOIN LATERAL outbox_fail(g.ids, g.reason) AS e(id)";

/// Draws a new `seq`, which makes it another event for journals and settles, and ends the deliveries of the old one. New
/// `seq` values are drawn in the old order.
const REPLAY: &str = ", placed AS MATERIALIZED (\
        SELECT id, nextval('outbox_events_seq') AS seq FROM (SELECT o.id FROM outbox_events o JOIN given ON o.id = given.id \
            WHERE o.status = 'published' ORDER BY o.scheduled_at, o.seq FOR UPDATE OF o) old), \
    ended AS (DELETE FROM outbox_handler_deliveries d USING placed WHERE d.event_id = placed.id) \
    UPDATE outbox_events e SET status = 'pending', seq = placed.seq, published_at = NULL, pending_handlers = NULL, \
        retry_count = 0, retry_at = NULL, last_error = '', updated_at = now() \
    FROM placed, durable WHERE e.id = placed.id AND e.status = 'published' RETURNING e.id";
