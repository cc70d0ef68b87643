//! Deletes old events.

use diesel::prelude::*;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::result::Error;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Binary, Text};
use diesel::sqlite::Sqlite;
use uuid::Uuid;

use super::clock::{micros, read_now};
use super::delete::delete_row;
use super::error::is_transient;
use super::uuid_of;
use crate::store::{CreatedCursor, ExpiredBatch, LaneName, RetentionCursor, RetentionCutoff, warn_undeletable};

/// Deletes events past retention, at most `limit`, oldest first. Events that are owed to a handler are kept, and those that the
/// database refuses to delete. `together`: in one transaction, which a deferred foreign key can refuse.
pub(super) fn delete_expired(
    connection: &mut SqliteConnection,
    expiry: RetentionCutoff,
    failed_blocks: &[LaneName],
    after: RetentionCursor,
    together: bool,
) -> QueryResult<ExpiredBatch> {
    if together {
        return connection.immediate_transaction(|connection| {
            let expired = Expired::find(connection, expiry, failed_blocks, after)?;
            let deleted = expired
                .ids()
                .try_fold(0, |deleted, id| Ok::<_, Error>(deleted + usize::from(delete_row(connection, id)?)))?;
            Ok(expired.batch(deleted, after))
        });
    }
    let expired = Expired::find(connection, expiry, failed_blocks, after)?;
    let mut deleted = 0;
    for id in expired.ids() {
        // A deferred foreign key refuses the commit.
        match connection.immediate_transaction(|connection| delete_row(connection, id)) {
            Err(error) if !is_transient(&error) => warn_undeletable([id], &error.to_string()),
            is_deleted => deleted += usize::from(is_deleted?),
        }
    }
    Ok(expired.batch(deleted, after))
}

/// Events past retention, oldest first.
struct Expired {
    published: Vec<CreatedCursor>,
    failed: Vec<CreatedCursor>,
}

impl Expired {
    fn find(
        connection: &mut SqliteConnection,
        expiry: RetentionCutoff,
        failed_blocks: &[LaneName],
        after: RetentionCursor,
    ) -> QueryResult<Self> {
        let now = read_now(connection)?;
        let (mut published, mut failed) = (Vec::new(), Vec::new());
        if let Some(age) = expiry.published {
            published = find_published(connection, now.saturating_sub(micros(age)), after.published, expiry.limit)?;
        }
        if let Some(age) = expiry.failed {
            let rest = expiry.limit - i64::try_from(published.len()).unwrap_or(i64::MAX);
            failed = find_failed(connection, now.saturating_sub(micros(age)), after.failed, rest, failed_blocks)?;
        }
        Ok(Self { published, failed })
    }

    fn ids(&self) -> impl Iterator<Item = Uuid> {
        self.published.iter().chain(&self.failed).map(|event| event.id)
    }

    /// The next batch begins behind this one only if some of it is left.
    fn batch(&self, deleted: usize, after: RetentionCursor) -> ExpiredBatch {
        let Self { published, failed } = self;
        if deleted == published.len() + failed.len() {
            return ExpiredBatch { deleted, next: after };
        }
        let next = RetentionCursor {
            published: published.last().copied().or(after.published),
            failed: failed.last().copied().or(after.failed),
        };
        ExpiredBatch { deleted, next }
    }
}

/// An event's id and the time of its creation.
#[derive(QueryableByName)]
struct ExpiredRow {
    #[diesel(sql_type = Binary)]
    id: Vec<u8>,
    #[diesel(sql_type = BigInt)]
    created_at: i64,
}

fn places(rows: Vec<ExpiredRow>) -> QueryResult<Vec<CreatedCursor>> {
    rows.into_iter().map(|row| Ok(CreatedCursor { created_at: row.created_at, id: uuid_of(&row.id)? })).collect()
}

/// The values of a cursor in a comparison.
fn place(after: Option<CreatedCursor>) -> (i64, Vec<u8>) {
    after.map_or((i64::MIN, Vec::new()), |after| (after.created_at, after.id.as_bytes().to_vec()))
}

/// No event is published before it is created, so a scan by `created_at` can end at the same time, and publishing needs no
/// index of its own.
fn find_published(
    connection: &mut SqliteConnection,
    until: i64,
    after: Option<CreatedCursor>,
    limit: i64,
) -> QueryResult<Vec<CreatedCursor>> {
    let (created_at, id) = place(after);
    let expired = sql_query(
        "SELECT id, created_at FROM outbox_events INDEXED BY outbox_events_published
         WHERE status = 'published' AND created_at < ? AND coalesce(published_at, updated_at) < ? AND (created_at, id) > (?, ?)
           AND NOT EXISTS (SELECT 1 FROM outbox_handler_deliveries d WHERE d.event_id = outbox_events.id)
         ORDER BY created_at, id LIMIT ?",
    )
    .bind::<BigInt, _>(until)
    .bind::<BigInt, _>(until)
    .bind::<BigInt, _>(created_at)
    .bind::<Binary, _>(id)
    .bind::<BigInt, _>(limit.max(0))
    .load(connection)?;
    places(expired)
}

fn find_failed(
    connection: &mut SqliteConnection,
    until: i64,
    after: Option<CreatedCursor>,
    limit: i64,
    failed_blocks: &[LaneName],
) -> QueryResult<Vec<CreatedCursor>> {
    let (created_at, id) = place(after);
    let mut query: BoxedSqlQuery<'_, Sqlite, SqlQuery> = sql_query(
        "SELECT id, created_at FROM outbox_events INDEXED BY outbox_events_unpublished
         WHERE status = 'failed' AND status <> 'published' AND created_at < ? AND updated_at < ? AND (created_at, id) > (?, ?)
           AND NOT EXISTS (SELECT 1 FROM outbox_handler_deliveries d WHERE d.event_id = outbox_events.id)",
    )
    .into_boxed()
    .bind::<BigInt, _>(until)
    .bind::<BigInt, _>(until)
    .bind::<BigInt, _>(created_at)
    .bind::<Binary, _>(id);
    for lane in failed_blocks {
        query = query
            .sql(" AND (partition_key = '' OR retry_at IS NOT NULL OR publisher_backend <> ?)")
            .bind::<Text, _>(&**lane);
    }
    places(query.sql(" ORDER BY created_at, id LIMIT ?").bind::<BigInt, _>(limit.max(0)).load(connection)?)
}
