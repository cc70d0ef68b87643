//! Deletes old events.

use std::time::Duration;

use diesel::sql_types::{Array, BigInt, Nullable, Text, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, RunQueryDsl};
use futures_util::FutureExt;
use uuid::Uuid;

use super::admin::BY_INDEX;
use super::schema_connection::SchemaConnection;
use super::{PostgresStore, Result};
use crate::error::StoreError;
use crate::store::{LaneName, RetentionCutoff, Settled, divide, warn_undeletable};

/// Deletes events past retention, oldest first. Events that are owed to a handler are kept. If the database refuses to delete
/// some of them, the others are deleted.
pub(super) async fn delete_expired(
    store: &PostgresStore,
    expiry: RetentionCutoff,
    failed_blocks: &[LaneName],
) -> Result<usize> {
    match run(store, DELETE_EXPIRED, expiry, failed_blocks, None).await {
        Err(StoreError::Query { transient: false, .. }) => {
            let expired = run(store, FIND_EXPIRED, expiry, failed_blocks, None).await?;
            delete_in_parts(store, expired, expiry, failed_blocks).await
        }
        deleted => deleted.map(|ids| ids.len()),
    }
}

/// Deletes those of the events that are still past retention, and leaves those that the database refuses to delete.
async fn delete_in_parts(
    store: &PostgresStore,
    expired: Vec<Uuid>,
    expiry: RetentionCutoff,
    failed_blocks: &[LaneName],
) -> Result<usize> {
    let outcomes: Result<Vec<Settled>> = divide(&expired, |ids| async move {
        let count = ids.len();
        match run(store, DELETE_EXPIRED, expiry, failed_blocks, Some(ids)).await {
            Err(StoreError::Query { operation, transient: false, reason }) => {
                Err(StoreError::Refused { operation, sqlstate: String::new(), reason })
            }
            deleted => deleted.map(|_| vec![Settled::Recorded; count]),
        }
    })
    .await;
    let outcomes = match outcomes {
        Err(StoreError::Refused { reason, .. }) => {
            warn_undeletable(expired, &reason);
            return Ok(0);
        }
        outcomes => outcomes?,
    };
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

/// Runs a statement about expired events, or about those `among` them; returns their ids.
async fn run(
    store: &PostgresStore,
    statement: &'static str,
    expiry: RetentionCutoff,
    failed_blocks: &[LaneName],
    among: Option<Vec<Uuid>>,
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
                    .bind::<Nullable<Array<SqlUuid>>, _>(among)
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
macro_rules! expired {
    ($then:literal) => {
        concat!(
            "WITH published AS MATERIALIZED (\
                SELECT id FROM outbox_events WHERE status = 'published' \
                    AND created_at < now() - $1 * interval '1 microsecond' \
                    AND published_at < now() - $1 * interval '1 microsecond' \
                    AND NOT EXISTS (SELECT FROM outbox_handler_deliveries d WHERE d.event_id = outbox_events.id) \
                    AND ($5 IS NULL OR id = ANY ($5)) \
                    ORDER BY created_at LIMIT $3 FOR UPDATE SKIP LOCKED), \
             failed AS MATERIALIZED (\
                SELECT id FROM outbox_events WHERE status = 'failed' \
                    AND created_at < now() - $2 * interval '1 microsecond' \
                    AND updated_at < now() - $2 * interval '1 microsecond' \
                    AND NOT (partition_key <> '' AND retry_at IS NULL AND publisher_backend = ANY ($4)) \
                    AND NOT EXISTS (SELECT FROM outbox_handler_deliveries d WHERE d.event_id = outbox_events.id) \
                    AND ($5 IS NULL OR id = ANY ($5)) \
                    ORDER BY created_at LIMIT $3 FOR UPDATE SKIP LOCKED), \
             old AS MATERIALIZED (SELECT id FROM published UNION ALL SELECT id FROM failed LIMIT $3) ",
            $then
        )
    };
}

const FIND_EXPIRED: &str = expired!("SELECT id FROM old");

const DELETE_EXPIRED: &str = expired!("DELETE FROM outbox_events e USING old WHERE e.id = old.id RETURNING e.id");
