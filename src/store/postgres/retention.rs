//! Deletes old events.

use std::time::Duration;

use diesel::data_types::PgTimestamp;
use diesel::sql_types::{Array, BigInt, Bool, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, RunQueryDsl};
use futures_util::FutureExt;
use uuid::Uuid;

use super::admin::BY_INDEX;
use super::schema_connection::SchemaConnection;
use super::{PostgresStore, Result};
use crate::error::StoreError;
use crate::store::divide::MAX_STATEMENTS;
use crate::store::{
    CreatedCursor, ExpiredBatch, LaneName, RetentionCursor, RetentionCutoff, Settled, divide, warn_undeletable,
};

/// Deletes events past retention, oldest first. Events that are owed to a handler are kept. If the database refuses to delete
/// some of them, the others are deleted.
pub(super) async fn delete_expired(
    store: &PostgresStore,
    expiry: RetentionCutoff,
    failed_blocks: &[LaneName],
    after: RetentionCursor,
) -> Result<ExpiredBatch> {
    let delete = if after == RetentionCursor::default() { DELETE_OLDEST } else { DELETE_BEHIND };
    match run(store, delete, expiry, failed_blocks, Among::Behind(after)).await {
        Err(StoreError::Query { transient: false, .. }) => {
            let mut expired = run(store, FIND_BEHIND, expiry, failed_blocks, Among::Behind(after)).await?;
            expired.sort_unstable_by_key(|row| (row.has_failed, row.created_at.0, row.id));
            match delete_in_parts(store, &expired, expiry, failed_blocks).await? {
                // The next batch has those that were not tried, and no longer those that were deleted.
                Parts { deleted: deleted @ 1.., is_whole: false } => Ok(ExpiredBatch { deleted, next: after }),
                Parts { deleted, is_whole: true } => Ok(ExpiredBatch { deleted, next: behind(&expired, after) }),
                Parts { .. } => {
                    let few = &expired[..expired.len().min(FEW)];
                    let deleted = delete_in_parts(store, few, expiry, failed_blocks).await?.deleted;
                    Ok(ExpiredBatch { deleted, next: behind(few, after) })
                }
            }
        }
        deleted => Ok(ExpiredBatch { deleted: deleted?.len(), next: after }),
    }
}

/// So few that each of them is tried, whatever is refused.
const FEW: usize = MAX_STATEMENTS / 2;

/// The outcome of a batch that the database refused to delete as a whole.
struct Parts {
    deleted: usize,
    /// Whether each event was tried.
    is_whole: bool,
}

fn behind(expired: &[ExpiredRow], after: RetentionCursor) -> RetentionCursor {
    expired.iter().fold(after, |next, row| row.move_on(next))
}

/// Deletes those of the events that are still past retention, and leaves those that the database refuses to delete.
async fn delete_in_parts(
    store: &PostgresStore,
    expired: &[ExpiredRow],
    expiry: RetentionCutoff,
    failed_blocks: &[LaneName],
) -> Result<Parts> {
    let expired: Vec<Uuid> = expired.iter().map(|row| row.id).collect();
    let outcomes: Result<Vec<Settled>> = divide(&expired, |ids| async move {
        let count = ids.len();
        match run(store, DELETE_OLDEST, expiry, failed_blocks, Among::These(ids)).await {
            Err(StoreError::Query { operation, transient: false, reason }) => {
                Err(StoreError::Refused { operation, sqlstate: String::new(), reason })
            }
            deleted => deleted.map(|_| vec![Settled::Recorded; count]),
        }
    })
    .await;
    let outcomes = match outcomes {
        Err(StoreError::Refused { reason, .. }) => {
            let is_whole = expired.len() <= FEW;
            if is_whole {
                warn_undeletable(expired, &reason);
            }
            return Ok(Parts { deleted: 0, is_whole });
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
    let count = |of: Settled| outcomes.iter().filter(|outcome| **outcome == of).count();
    Ok(Parts { deleted: count(Settled::Recorded), is_whole: count(Settled::Untried) == 0 })
}

const DELETE: &str = "delete old events";

/// Which of the expired events a statement is about.
enum Among {
    Behind(RetentionCursor),
    These(Vec<Uuid>),
}

/// Runs a statement about expired events; returns them.
async fn run(
    store: &PostgresStore,
    statement: &'static str,
    expiry: RetentionCutoff,
    failed_blocks: &[LaneName],
    among: Among,
) -> Result<Vec<ExpiredRow>> {
    let micros = |age: Option<Duration>| age.map(|age| i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
    let (published, failed) = (micros(expiry.published), micros(expiry.failed));
    let holding: Vec<String> = failed_blocks.iter().map(ToString::to_string).collect();
    let (after, among) = match among {
        Among::Behind(after) => (after, None),
        Among::These(ids) => (RetentionCursor::default(), Some(ids)),
    };
    let place = |cursor: Option<CreatedCursor>| {
        cursor.map_or((PgTimestamp(i64::MIN), Uuid::nil()), |cursor| (PgTimestamp(cursor.created_at), cursor.id))
    };
    let [(published_at, published_id), (failed_at, failed_id)] = [after.published, after.failed].map(place);
    store
        .run(DELETE, |conn| {
            let statements = async move |conn: &mut SchemaConnection| {
                diesel::sql_query(BY_INDEX).execute(conn).await?;
                diesel::sql_query(statement)
                    .bind::<Nullable<BigInt>, _>(published)
                    .bind::<Nullable<BigInt>, _>(failed)
                    .bind::<BigInt, _>(expiry.limit)
                    .bind::<Array<Text>, _>(holding)
                    .bind::<Nullable<Array<SqlUuid>>, _>(among)
                    .bind::<Timestamptz, _>(published_at)
                    .bind::<SqlUuid, _>(published_id)
                    .bind::<Timestamptz, _>(failed_at)
                    .bind::<SqlUuid, _>(failed_id)
                    .load(conn)
                    .await
            };
            conn.transaction(statements).boxed()
        })
        .await
}

#[derive(diesel::QueryableByName)]
struct ExpiredRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Timestamptz)]
    created_at: PgTimestamp,
    #[diesel(sql_type = Bool)]
    has_failed: bool,
}

impl ExpiredRow {
    /// The cursor behind this row.
    fn move_on(&self, mut cursor: RetentionCursor) -> RetentionCursor {
        let place = Some(CreatedCursor { created_at: self.created_at.0, id: self.id });
        let of_kind = if self.has_failed { &mut cursor.failed } else { &mut cursor.published };
        *of_kind = place.max(*of_kind);
        cursor
    }
}

/// The oldest events past retention, locked.
macro_rules! expired {
    ($order:literal, $then:literal) => {
        concat!(
            "WITH published AS MATERIALIZED (\
                SELECT id, created_at, false AS has_failed FROM outbox_events WHERE status = 'published' \
                    AND created_at < now() - $1 * interval '1 microsecond' \
                    AND published_at < now() - $1 * interval '1 microsecond' \
                    AND (created_at, id) > ($6, $7) \
                    AND NOT EXISTS (SELECT FROM outbox_handler_deliveries d WHERE d.event_id = outbox_events.id) \
                    AND ($5 IS NULL OR id = ANY ($5)) \
                    ORDER BY ",
            $order,
            " LIMIT $3 FOR UPDATE SKIP LOCKED), \
             failed AS MATERIALIZED (\
                SELECT id, created_at, true AS has_failed FROM outbox_events WHERE status = 'failed' \
                    AND created_at < now() - $2 * interval '1 microsecond' \
                    AND updated_at < now() - $2 * interval '1 microsecond' \
                    AND (created_at, id) > ($8, $9) \
                    AND NOT (partition_key <> '' AND retry_at IS NULL AND publisher_backend = ANY ($4)) \
                    AND NOT EXISTS (SELECT FROM outbox_handler_deliveries d WHERE d.event_id = outbox_events.id) \
                    AND ($5 IS NULL OR id = ANY ($5)) \
                    ORDER BY ",
            $order,
            " LIMIT $3 FOR UPDATE SKIP LOCKED), \
             old AS MATERIALIZED (SELECT * FROM published UNION ALL SELECT * FROM failed LIMIT $3) ",
            $then
        )
    };
}

/// Events that were created at one moment are in no order, so that they need no sorting.
const DELETE_OLDEST: &str = expired!(
    "created_at",
    "DELETE FROM outbox_events e USING old WHERE e.id = old.id RETURNING e.id, e.created_at, old.has_failed"
);

const DELETE_BEHIND: &str = expired!(
    "created_at, id",
    "DELETE FROM outbox_events e USING old WHERE e.id = old.id RETURNING e.id, e.created_at, old.has_failed"
);

const FIND_BEHIND: &str = expired!("created_at, id", "SELECT * FROM old");
