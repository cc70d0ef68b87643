//! Removes benchmark schemas: the process's own, and those that a killed process left.

use actix_outbox::Secret;
use actix_outbox::bench_api::connect_postgres;
use anyhow::{Context, Result};
use tokio_postgres::Client;

use super::{BenchSchema, MEASURE, PREFIX, lock_of};

impl BenchSchema {
    /// Removes a schema on a connection of its own, because other connections may be broken or busy.
    pub(crate) async fn remove(database: &Secret, suffix: &str) -> Result<()> {
        let client = connect_postgres(database).await?;
        remove(&client, &format!("{PREFIX}{suffix}")).await.context(MEASURE)
    }
}

/// Removes the schemas of processes that have ended; returns their suffixes.
pub(crate) async fn remove_abandoned(database: &Secret) -> Result<Vec<String>> {
    let client = connect_postgres(database).await?;
    remove_unlocked(&client).await.context(MEASURE)
}

async fn remove_unlocked(client: &Client) -> std::result::Result<Vec<String>, tokio_postgres::Error> {
    let question = "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, $1) \
        AND nspname ~ '^[a-z_]+[0-9a-f]+$' AND pg_has_role(nspowner, 'USAGE')";
    let mut removed = Vec::new();
    for row in client.query(question, &[&PREFIX]).await? {
        let name: String = row.try_get(0)?;
        let lock = format!("SELECT {}", lock_of(&name, "pg_try_advisory_lock"));
        if !client.query_one(&lock, &[]).await?.try_get::<_, bool>(0)? {
            continue;
        }
        remove(client, &name).await?;
        client.batch_execute(&format!("SELECT {}", lock_of(&name, "pg_advisory_unlock"))).await?;
        removed.extend(name.strip_prefix(PREFIX).map(str::to_owned));
    }
    Ok(removed)
}

/// Ends the connections that still work in the schema: an abandoned statement would hold its tables.
async fn remove(client: &Client, name: &str) -> std::result::Result<(), tokio_postgres::Error> {
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE starts_with(application_name, $1) AND usename = current_user AND pid <> pg_backend_pid()";
    client.query(end, &[&name]).await?;
    client.batch_execute(&format!("DROP SCHEMA IF EXISTS {name} CASCADE")).await
}
