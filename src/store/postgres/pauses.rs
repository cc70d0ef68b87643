//! Operators' pauses of backends.

use diesel::data_types::PgTimestamp;
use diesel::dsl::sql;
use diesel::sql_query;
use diesel::sql_types::{Text, Timestamptz};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;

use super::row::time;
use super::{PostgresStore, Result};
use crate::error::StoreError;
use crate::store::BackendPause;

pub(super) async fn read(store: &PostgresStore) -> Result<Vec<BackendPause>> {
    const OPERATION: &str = "read pauses";
    let rows: Vec<(String, PgTimestamp, String, String)> = store
        .run(OPERATION, |conn| {
            sql::<(Text, Timestamptz, Text, Text)>(
                "SELECT backend, paused_at, paused_by, reason FROM outbox_pauses WHERE host = '' ORDER BY backend",
            )
            .load(conn)
            .boxed()
        })
        .await?;
    let pause =
        |(backend, since, by, reason)| Ok(BackendPause { backend, since: time("paused_at", since)?, by, reason });
    let pauses: Result<Vec<BackendPause>, String> = rows.into_iter().map(pause).collect();
    pauses.map_err(|reason| StoreError::Query { operation: OPERATION, reason, transient: false })
}

pub(super) async fn pause(store: &PostgresStore, backend: &str, by: &str, reason: &str) -> Result<bool> {
    let (backend, by, reason) = (backend.to_owned(), by.to_owned(), reason.to_owned());
    let inserted = store
        .run("pause a backend", |conn| {
            sql_query(
                "WITH durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true)) \
                 INSERT INTO outbox_pauses (backend, paused_by, reason) SELECT $1, $2, $3 FROM durable \
                 ON CONFLICT (backend, host) DO NOTHING",
            )
            .bind::<Text, _>(backend)
            .bind::<Text, _>(by)
            .bind::<Text, _>(reason)
            .execute(conn)
            .boxed()
        })
        .await?;
    Ok(inserted > 0)
}

/// Ends the pauses of a backend, also those of its hosts.
pub(super) async fn resume(store: &PostgresStore, backend: &str) -> Result<bool> {
    let backend = backend.to_owned();
    let deleted = store
        .run("resume a backend", |conn| {
            sql_query("DELETE FROM outbox_pauses WHERE backend = $1").bind::<Text, _>(backend).execute(conn).boxed()
        })
        .await?;
    Ok(deleted > 0)
}
