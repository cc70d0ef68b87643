//! Pauses of backends and of their hosts.

use diesel::data_types::PgTimestamp;
use diesel::dsl::sql;
use diesel::pg::Pg;
use diesel::query_builder::{QueryFragment, QueryId};
use diesel::sql_query;
use diesel::sql_types::{Nullable, Text, Timestamptz};
use diesel_async::{AsyncConnection, RunQueryDsl};
use futures_util::FutureExt;

use super::row::time;
use super::schema_connection::SchemaConnection;
use super::{PostgresStore, Result, audit};
use crate::error::StoreError;
use crate::store::{AuditRow, BackendPause, NewPause};

pub(super) async fn read(store: &PostgresStore) -> Result<Vec<BackendPause>> {
    const OPERATION: &str = "read pauses";
    let rows: Vec<(String, String, PgTimestamp, String, String)> = store
        .run(OPERATION, |conn| {
            sql::<(Text, Text, Timestamptz, Text, Text)>(
                "SELECT backend, host, paused_at, paused_by, reason FROM outbox_pauses ORDER BY backend, host",
            )
            .load(conn)
            .boxed()
        })
        .await?;
    let pause = |(backend, host, since, by, reason)| {
        Ok(BackendPause { backend, host, since: time("paused_at", since)?, by, reason })
    };
    let pauses: Result<Vec<BackendPause>, String> = rows.into_iter().map(pause).collect();
    pauses.map_err(|reason| StoreError::Query { operation: OPERATION, reason, transient: false })
}

/// Returns whether it was not paused before.
pub(super) async fn pause(store: &PostgresStore, pause: &NewPause, row: Option<AuditRow>) -> Result<bool> {
    let insert = sql_query(
        "WITH durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true)) \
         INSERT INTO outbox_pauses (backend, host, paused_by, reason) SELECT $1, $2, $3, $4 FROM durable \
         ON CONFLICT (backend, host) DO NOTHING",
    );
    let NewPause { backend, host, by, reason } = pause.clone();
    let insert = insert.bind::<Text, _>(backend).bind::<Text, _>(host).bind::<Text, _>(by).bind::<Text, _>(reason);
    change(store, insert, row).await
}

/// Ends the pause of a host, or of a backend and all of its hosts; returns whether there was one.
pub(super) async fn resume(store: &PostgresStore, backend: &str, host: Option<&str>, row: AuditRow) -> Result<bool> {
    let delete = sql_query("DELETE FROM outbox_pauses WHERE backend = $1 AND host = coalesce($2, host)");
    let (backend, host) = (backend.to_owned(), host.map(str::to_owned));
    change(store, delete.bind::<Text, _>(backend).bind::<Nullable<Text>, _>(host), Some(row)).await
}

async fn change<Q>(store: &PostgresStore, statement: Q, row: Option<AuditRow>) -> Result<bool>
where
    Q: QueryFragment<Pg> + QueryId + Send + 'static,
{
    store
        .run("pause or resume a backend", |conn| {
            let change = async move |conn: &mut SchemaConnection| {
                let changed = statement.execute(conn).await?;
                if changed > 0
                    && let Some(row) = row
                {
                    audit::write(conn, row).await?;
                }
                Ok(changed > 0)
            };
            conn.transaction(change).boxed()
        })
        .await
}
