//! Deletes old events.

use std::time::Duration;

use diesel::sql_types::{Array, BigInt, Nullable, Text, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, RunQueryDsl};
use futures_util::FutureExt;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::admin::BY_INDEX;
use super::schema_connection::SchemaConnection;
use super::settle::{Parameter, divide};
use super::{PostgresStore, Result};
use crate::error::StoreError;
use crate::store::{LaneName, RetentionCutoff, Settled, warn_undeletable};

/// Deletes events past retention, oldest first. Events that are owed to a handler are kept. If the database refuses to delete
/// some of them, the others are deleted.
pub(super) async fn delete_expired(
    store: &PostgresStore,
    expiry: RetentionCutoff,
    failed_blocks: &[LaneName],
) -> Result<usize> {
    let delete = format!("WITH {EXPIRED} DELETE FROM outbox_events e USING old WHERE e.id = old.id RETURNING e.id");
    match run(store, delete, expiry, failed_blocks).await {
        Err(StoreError::Query { transient: false, .. }) => {
            let find = format!("WITH {EXPIRED} SELECT id FROM old");
            delete_in_parts(store, run(store, find, expiry, failed_blocks).await?).await
        }
        deleted => deleted.map(|ids| ids.len()),
    }
}

async fn delete_in_parts(store: &PostgresStore, expired: Vec<Uuid>) -> Result<usize> {
    const DELETE_THESE: &str = "DELETE FROM outbox_events e USING unnest($1) AS s(id) \
        WHERE e.id = ANY (ARRAY[s.id]) AND e.status IN ('published', 'failed')";
    let outcomes: Vec<Settled> = divide(&expired, |ids| async move {
        let count = ids.len();
        let parameters: Vec<Parameter> = vec![(Box::new(ids), Type::UUID_ARRAY)];
        store.settling.write(DELETE, DELETE_THESE.to_owned(), parameters).await.map(|_| vec![Settled::Recorded; count])
    })
    .await?;
    let refused = expired.iter().zip(&outcomes).filter_map(|(id, outcome)| match outcome {
        Settled::Refused(reason) => Some((*id, reason)),
        _ => None,
    });
    let (refused, reasons): (Vec<Uuid>, Vec<&String>) = refused.unzip();
    if let [reason, ..] = reasons.as_slice() {
        warn_undeletable(refused, reason);
    }
    Ok(outcomes.iter().filter(|outcome| **outcome == Settled::Recorded).count())
}

const DELETE: &str = "delete old events";

/// Runs a statement that begins with [`EXPIRED`]; returns the ids.
async fn run(
    store: &PostgresStore,
    statement: String,
    expiry: RetentionCutoff,
    failed_blocks: &[LaneName],
) -> Result<Vec<Uuid>> {
    let micros = |age: Option<Duration>| age.map(|age| i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
    let (published, failed) = (micros(expiry.published), micros(expiry.failed));
    let holding: Vec<String> = failed_blocks.iter().map(ToString::to_string).collect();
    store
        .run(DELETE, |conn| {
            let statements = async move |conn: &mut SchemaConnection| {
                diesel::sql_query(BY_INDEX).execute(conn).await?;
                let rows: Vec<ExpiredRow> = diesel::sql_query(statement)
                    .bind::<Nullable<BigInt>, _>(published)
                    .bind::<Nullable<BigInt>, _>(failed)
                    .bind::<BigInt, _>(expiry.limit)
                    .bind::<Array<Text>, _>(holding)
                    .load(conn)
                    .await?;
                Ok(rows.into_iter().map(|row| row.id).collect())
            };
            conn.transaction(statements).boxed()
        })
        .await
}

#[derive(diesel::QueryableByName)]
struct ExpiredRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

/// The oldest events past retention, locked.
const EXPIRED: &str = "published AS MATERIALIZED (\
        SELECT id FROM outbox_events WHERE status = 'published' \
            AND created_at < now() - $1 * interval '1 microsecond' \
            AND published_at < now() - $1 * interval '1 microsecond' \
            AND NOT EXISTS (SELECT FROM outbox_handler_deliveries d WHERE d.event_id = outbox_events.id) \
            ORDER BY created_at LIMIT $3 FOR UPDATE SKIP LOCKED), \
     failed AS MATERIALIZED (\
        SELECT id FROM outbox_events WHERE status = 'failed' \
            AND created_at < now() - $2 * interval '1 microsecond' \
            AND updated_at < now() - $2 * interval '1 microsecond' \
            AND NOT (partition_key <> '' AND retry_at IS NULL AND publisher_backend = ANY ($4)) \
            AND NOT EXISTS (SELECT FROM outbox_handler_deliveries d WHERE d.event_id = outbox_events.id) \
            ORDER BY created_at LIMIT $3 FOR UPDATE SKIP LOCKED), \
     old AS MATERIALIZED (SELECT id FROM published UNION ALL SELECT id FROM failed LIMIT $3)";
