//! What people do to events.

use diesel::dsl::sql;
use diesel::sql_types::{Array, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;
use uuid::Uuid;

use super::{PostgresStore, Result};
use crate::store::Change;

pub(super) async fn change(store: &PostgresStore, change: &Change, ids: &[Uuid]) -> Result<Vec<Uuid>> {
    let (statement, reason) = match change {
        Change::Retry => (RETRY, ""),
        Change::Fail { reason } => (FAIL, reason.as_str()),
        Change::Replay => (REPLAY, ""),
    };
    let (ids, reason) = (ids.to_vec(), reason.to_owned());
    store
        .run("change events", |conn| {
            sql::<SqlUuid>(
                "WITH durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true)), \
                 given AS MATERIALIZED (SELECT unnest(",
            )
            .bind::<Array<SqlUuid>, _>(ids)
            .sql(") AS id, ")
            .bind::<Text, _>(reason)
            .sql(" AS reason) ")
            .sql(statement)
            .sql(" RETURNING e.id")
            .load(conn)
            .boxed()
        })
        .await
}

/// `scheduled_at` and `seq` stay, so it keeps its place; `published_at` too: what the backend has is not sent again.
const RETRY: &str = "UPDATE outbox_events e SET status = 'pending', retry_count = 0, retry_at = NULL, last_error = '', \
    updated_at = now() FROM given, durable WHERE e.id = given.id AND e.status <> 'published'";

/// A failed event with a `retry_at` was given up by a person: it holds no key.
const FAIL: &str = "UPDATE outbox_events e SET status = 'failed', retry_at = now(), last_error = given.reason, \
    updated_at = now() FROM given, durable WHERE e.id = given.id AND e.status <> 'published'";

/// A new `seq` makes it another event for journals and settles. They are drawn in the old order.
const REPLAY: &str = ", placed AS MATERIALIZED (\
        SELECT id, nextval('outbox_events_seq') AS seq FROM (SELECT o.id FROM outbox_events o JOIN given ON o.id = given.id \
            WHERE o.status = 'published' ORDER BY o.scheduled_at, o.seq FOR UPDATE OF o) old) \
    UPDATE outbox_events e SET status = 'pending', seq = placed.seq, published_at = NULL, pending_handlers = NULL, \
        retry_count = 0, retry_at = NULL, last_error = '', updated_at = now() \
    FROM placed, durable WHERE e.id = placed.id AND e.status = 'published'";
