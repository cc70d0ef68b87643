//! Creating and upgrading the tables.

use diesel::sql_types::{Integer, Nullable, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;
use tokio_postgres::Client;
use uuid::Uuid;

use super::connect::Target;
use super::statement::on_a_primary;
use super::{PostgresStore, Result, adopt};
use crate::store::migrate::{Migration, MigrationPlan, MigrationStep, ProgressFn, find_obstacle, find_pending};

pub(super) const MIGRATIONS: [Migration; 4] = [
    Migration {
        version: 1,
        sql: concat!(
            include_str!("../../../migrations/postgres/0001_outbox/events.sql"),
            "\n",
            include_str!("../../../migrations/postgres/0001_outbox/queue.sql"),
            "\n",
            include_str!("../../../migrations/postgres/0001_outbox/indexes.sql"),
            "\n",
            include_str!("../../../migrations/postgres/0001_outbox/books.sql"),
        ),
    },
    Migration { version: 2, sql: include_str!("../../../migrations/postgres/0002_leases.sql") },
    Migration { version: 3, sql: include_str!("../../../migrations/postgres/0003_handlers.sql") },
    Migration { version: 5, sql: include_str!("../../../migrations/postgres/0005_audit.sql") },
];

/// `outbox` as a number: the lock that allows one migration at a time in a database.
pub(super) const ADVISORY_LOCK: i64 = 0x6f75_7462_6f78;

/// The steps that [`migrate`] would run.
pub(super) async fn plan(target: &Target) -> Result<MigrationPlan> {
    let client = target.connect().await?;
    let mut plan = adopt::plan(target, &client).await?;
    let mut applied = find_applied(&client).await.map_err(|error| target.driver_error("migrate", &error))?;
    if plan.adopts {
        applied.push(1);
    }
    plan.steps.extend(steps(&applied));
    Ok(plan)
}

/// Adopts a table of django-broadcaster, if there is one, and applies the pending migrations.
pub(super) async fn migrate(target: &Target, watch: &ProgressFn) -> Result<MigrationPlan> {
    let client = target.connect().await?;
    let mut plan = adopt::adopt(target, &client, watch).await?;
    // An error drops the connection, and with it the transaction.
    let applied = apply(&client).await.map_err(|error| target.driver_error("migrate", &error))?;
    plan.steps.extend(applied);
    Ok(plan)
}

/// Applies all pending migrations in one transaction.
async fn apply(client: &Client) -> std::result::Result<Vec<MigrationStep>, tokio_postgres::Error> {
    let begin = format!("BEGIN; SET LOCAL lock_timeout = '10s'; SELECT pg_advisory_xact_lock({ADVISORY_LOCK})");
    client.batch_execute(&begin).await?;
    let applied = find_applied(client).await?;
    for migration in find_pending(&MIGRATIONS, &applied) {
        for statement in migration.statements() {
            client.batch_execute(statement).await?;
        }
        client.execute("INSERT INTO outbox_migrations (version) VALUES ($1)", &[&migration.version]).await?;
    }
    client.batch_execute("COMMIT").await?;
    Ok(steps(&applied))
}

fn steps(applied: &[i32]) -> Vec<MigrationStep> {
    find_pending(&MIGRATIONS, applied).into_iter().flat_map(Migration::statements).map(MigrationStep::new).collect()
}

async fn find_applied(client: &Client) -> std::result::Result<Vec<i32>, tokio_postgres::Error> {
    let known: bool = client.query_one("SELECT to_regclass('outbox_migrations') IS NOT NULL", &[]).await?.try_get(0)?;
    if !known {
        return Ok(Vec::new());
    }
    let rows = client.query("SELECT version FROM outbox_migrations ORDER BY version", &[]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// The outbox's own id, if the tables are those of this version.
pub(super) async fn outbox_id(store: &PostgresStore) -> Result<Uuid> {
    let rows = store
        .run("read the outbox's id", |conn| {
            diesel::dsl::sql::<(SqlUuid, Nullable<Integer>)>(concat!(
                "SELECT m.id, a.version FROM outbox_meta m LEFT JOIN outbox_migrations a ON true WHERE ",
                on_a_primary!()
            ))
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
