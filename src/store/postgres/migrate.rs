//! Creating and upgrading the tables.

use diesel::sql_types::{Integer, Nullable, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;
use tokio_postgres::Client;
use uuid::Uuid;

use super::connect::Target;
use super::{PostgresStore, Result};
use crate::store::migrate::{Migration, find_obstacle, find_pending};

const MIGRATIONS: [Migration; 1] =
    [Migration { version: 1, sql: include_str!("../../../migrations/postgres/0001_outbox.sql") }];

/// `outbox`, as a number: one migration at a time on a database.
const ADVISORY_LOCK: i64 = 0x6f75_7462_6f78;

/// Applies what is missing in one transaction, or says what it would apply.
pub(super) async fn migrate(target: &Target, dry_run: bool) -> Result<Vec<String>> {
    let client = target.connect().await?;
    // An error leaves with the connection, and so with the transaction.
    apply(&client, dry_run).await.map_err(|error| target.driver_error("migrate", &error))
}

async fn apply(client: &Client, dry_run: bool) -> std::result::Result<Vec<String>, tokio_postgres::Error> {
    let begin = format!("BEGIN; SET LOCAL lock_timeout = '10s'; SELECT pg_advisory_xact_lock({ADVISORY_LOCK})");
    client.batch_execute(&begin).await?;
    let applied = find_applied(client).await?;
    let mut statements = Vec::new();
    for migration in find_pending(&MIGRATIONS, &applied) {
        for statement in migration.statements() {
            if !dry_run {
                client.batch_execute(statement).await?;
            }
            statements.push(statement.to_owned());
        }
        if !dry_run {
            client.execute("INSERT INTO outbox_migrations (version) VALUES ($1)", &[&migration.version]).await?;
        }
    }
    client.batch_execute("COMMIT").await?;
    Ok(statements)
}

async fn find_applied(client: &Client) -> std::result::Result<Vec<i32>, tokio_postgres::Error> {
    let known: bool = client.query_one("SELECT to_regclass('outbox_migrations') IS NOT NULL", &[]).await?.try_get(0)?;
    if !known {
        return Ok(Vec::new());
    }
    let rows = client.query("SELECT version FROM outbox_migrations ORDER BY version", &[]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// The outbox's own id, where the tables are those of this version.
pub(super) async fn outbox_id(store: &PostgresStore) -> Result<Uuid> {
    let rows = store
        .run("read the outbox's id", |conn| {
            diesel::dsl::sql::<(SqlUuid, Nullable<Integer>)>(
                "SELECT m.id, a.version FROM outbox_meta m LEFT JOIN outbox_migrations a ON true",
            )
            .load::<(Uuid, Option<i32>)>(conn)
            .boxed()
        })
        .await?;
    let applied: Vec<i32> = rows.iter().filter_map(|(_, version)| *version).collect();
    match (find_obstacle(&MIGRATIONS, &applied), rows.as_slice()) {
        (None, [(id, _), ..]) => Ok(*id),
        (obstacle, _) => Err(store.target.not_migrated(obstacle.unwrap_or("missing"))),
    }
}
