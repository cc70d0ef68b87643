//! Deletes old events.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::sql_query;
use diesel::sql_types::{BigInt, Binary, Text};
use diesel::sqlite::Sqlite;
use uuid::Uuid;

use super::clock::{micros, read_now};
use super::delete::delete_row;
use super::error::is_transient;
use super::uuid_of;
use crate::store::{LaneName, RetentionCutoff, warn_undeletable};

/// Deletes events past retention, at most `limit`. Events that are owed to a handler are kept, and those that the database
/// refuses to delete. `together`: in one transaction, which a deferred foreign key can refuse.
pub(super) fn delete_expired(
    connection: &mut SqliteConnection,
    expiry: RetentionCutoff,
    failed_blocks: &[LaneName],
    together: bool,
) -> QueryResult<usize> {
    if together {
        return connection.immediate_transaction(|connection| {
            let expired = find(connection, expiry, failed_blocks)?;
            expired.into_iter().try_fold(0, |deleted, id| Ok(deleted + usize::from(delete_row(connection, id)?)))
        });
    }
    let mut deleted = 0;
    for id in find(connection, expiry, failed_blocks)? {
        // A deferred foreign key refuses the commit.
        match connection.immediate_transaction(|connection| delete_row(connection, id)) {
            Err(error) if !is_transient(&error) => warn_undeletable([id], &error.to_string()),
            is_deleted => deleted += usize::from(is_deleted?),
        }
    }
    Ok(deleted)
}

fn find(
    connection: &mut SqliteConnection,
    expiry: RetentionCutoff,
    failed_blocks: &[LaneName],
) -> QueryResult<Vec<Uuid>> {
    let now = read_now(connection)?;
    let mut expired = Vec::new();
    if let Some(age) = expiry.published {
        expired.extend(published(connection, now.saturating_sub(micros(age)), expiry.limit)?);
    }
    if let Some(age) = expiry.failed {
        let rest = expiry.limit - i64::try_from(expired.len()).unwrap_or(i64::MAX);
        expired.extend(failed(connection, now.saturating_sub(micros(age)), rest, failed_blocks)?);
    }
    expired.iter().map(|id| uuid_of(id)).collect()
}

/// No event is published before it is created, so a scan by `created_at` can end at the same time, and publishing needs no
/// index of its own.
fn published(connection: &mut SqliteConnection, until: i64, limit: i64) -> QueryResult<Vec<Vec<u8>>> {
    sql::<Binary>(
        "SELECT id FROM outbox_events INDEXED BY outbox_events_published
         WHERE status = 'published' AND created_at < ",
    )
    .bind::<BigInt, _>(until)
    .sql(" AND coalesce(published_at, updated_at) < ")
    .bind::<BigInt, _>(until)
    .sql(
        " AND NOT EXISTS (SELECT 1 FROM outbox_handler_deliveries d WHERE d.event_id = outbox_events.id)
         ORDER BY created_at LIMIT ",
    )
    .bind::<BigInt, _>(limit.max(0))
    .load(connection)
}

#[derive(QueryableByName)]
struct Expired {
    #[diesel(sql_type = Binary)]
    id: Vec<u8>,
}

fn failed(
    connection: &mut SqliteConnection,
    until: i64,
    limit: i64,
    failed_blocks: &[LaneName],
) -> QueryResult<Vec<Vec<u8>>> {
    let mut query: BoxedSqlQuery<'_, Sqlite, SqlQuery> = sql_query(
        "SELECT id FROM outbox_events INDEXED BY outbox_events_unpublished
         WHERE status = 'failed' AND status <> 'published' AND created_at < ? AND updated_at < ?
           AND NOT EXISTS (SELECT 1 FROM outbox_handler_deliveries d WHERE d.event_id = outbox_events.id)",
    )
    .into_boxed()
    .bind::<BigInt, _>(until)
    .bind::<BigInt, _>(until);
    for lane in failed_blocks {
        query = query
            .sql(" AND (partition_key = '' OR retry_at IS NOT NULL OR publisher_backend <> ?)")
            .bind::<Text, _>(&**lane);
    }
    let expired: Vec<Expired> =
        query.sql(" ORDER BY created_at LIMIT ?").bind::<BigInt, _>(limit.max(0)).load(connection)?;
    Ok(expired.into_iter().map(|row| row.id).collect())
}
