//! Operators' pauses of backends.

use diesel::data_types::PgTimestamp;
use diesel::dsl::sql;
use diesel::pg::Pg;
use diesel::query_builder::{QueryFragment, QueryId};
use diesel::sql_query;
use diesel::sql_types::{Text, Timestamptz};
use diesel_async::{AsyncConnection, RunQueryDsl};
use futures_util::FutureExt;

use super::row::time;
use super::schema_connection::SchemaConnection;
use super::{PostgresStore, Result, audit};
use crate::error::StoreError;
use crate::store::{AuditRow, BackendPause};

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

/// Returns whether the backend was not paused before.
pub(super) async fn pause(store: &PostgresStore, backend: &str, row: AuditRow) -> Result<bool> {
    let insert = sql_query(
        "WITH durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true)) \
         INSERT INTO outbox_pauses (backend, paused_by, reason) SELECT $1, $2, $3 FROM durable \
         ON CONFLICT (backend, host) DO NOTHING",
    );
    let (backend, by, reason) = (backend.to_owned(), row.who().to_owned(), row.reason.clone());
    change(store, insert.bind::<Text, _>(backend).bind::<Text, _>(by).bind::<Text, _>(reason), row).await
}

/// Ends the pauses of a backend, also those of its hosts; returns whether there was one.
pub(super) async fn resume(store: &PostgresStore, backend: &str, row: AuditRow) -> Result<bool> {
    let delete = sql_query("DELETE FROM outbox_pauses WHERE backend = $1");
    change(store, delete.bind::<Text, _>(backend.to_owned()), row).await
}

async fn change<Q>(store: &PostgresStore, statement: Q, row: AuditRow) -> Result<bool>
where
    Q: QueryFragment<Pg> + QueryId + Send + 'static,
{
    store
        .run("pause or resume a backend", |conn| {
            let change = async move |conn: &mut SchemaConnection| {
                let changed = statement.execute(conn).await?;
                if changed > 0 {
                    audit::write(conn, row).await?;
                }
                Ok(changed > 0)
            };
            conn.transaction(change).boxed()
        })
        .await
}
