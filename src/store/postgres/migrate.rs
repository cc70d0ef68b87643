//! Creating and upgrading the tables.

use diesel::sql_types::{Integer, Nullable, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;
use uuid::Uuid;

use super::connect::Target;
use super::schema::Schema;
use super::schema_client::SchemaClient;
use super::statement::on_a_primary;
use super::{PostgresStore, Result, access, adopt};
use crate::store::migrate::{Migration, MigrationPlan, MigrationStep, ProgressFn, find_obstacle, find_pending};

/// The migrations that are applied again after the schema was renamed, with the functions whose search path they set.
const PLACES_FUNCTIONS: [(i32, &str); 4] = [
    (6, "'outbox_record_accepted', 'outbox_record_handled', 'outbox_record_rejected', 'outbox_fail'"),
    (7, PUBLISH_FUNCTIONS),
    // Replaces a function that 7 writes.
    (8, PUBLISH_FUNCTIONS),
    (9, "'outbox_delete_published', 'outbox_record_accepted', 'outbox_record_handled'"),
];

const PUBLISH_FUNCTIONS: &str = "'outbox_publish', 'outbox_publish_cloudevent', 'outbox_publish_many', 'outbox_wake'";

pub(super) const MIGRATIONS: [Migration; 10] = [
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
    Migration { version: 4, sql: include_str!("../../../migrations/postgres/0004_event_time_and_pauses.sql") },
    Migration { version: 5, sql: include_str!("../../../migrations/postgres/0005_audit.sql") },
    Migration { version: 6, sql: include_str!("../../../migrations/postgres/0006_schema.sql") },
    Migration {
        version: 7,
        sql: concat!(
            include_str!("../../../migrations/postgres/0007_publish/checks.sql"),
            "\n",
            include_str!("../../../migrations/postgres/0007_publish/functions.sql"),
        ),
    },
    Migration { version: 8, sql: include_str!("../../../migrations/postgres/0008_config_seq.sql") },
    Migration { version: 9, sql: include_str!("../../../migrations/postgres/0009_delete_at_settle.sql") },
    Migration { version: 10, sql: include_str!("../../../migrations/postgres/0010_published_index.sql") },
];

/// The indexes that are replaced on a table in use before the migration of a version, which would block writers meanwhile.
const REPLACED: [(i32, adopt::Replaced); 1] = [(
    10,
    adopt::Replaced {
        by: "CREATE INDEX outbox_events_published ON outbox_events (created_at) WHERE status = 'published'",
        name: "outbox_events_created",
    },
)];

/// The key of the lock that allows one migration at a time in a schema, in SQL.
pub(super) fn lock_key(schema: &Schema) -> String {
    const OUTBOX: i64 = 0x6f75_7462_6f78;
    format!("hashtextextended({}, {OUTBOX})", schema.literal())
}

/// The steps that [`migrate`] would run.
pub(super) async fn plan(target: &Target) -> Result<MigrationPlan> {
    let client = target.connect().await?;
    access::check_migration(target, &client).await?;
    let mut plan = adopt::plan(target, &client).await?;
    let failed = |error| target.driver_error("migrate", &error);
    let mut applied = find_applied(&client).await.map_err(failed)?;
    plan.steps.extend(adopt::plan_replaced(target, &client, &replaced(&applied)).await?);
    if plan.adopts {
        applied.push(1);
    }
    let create = create_schema(&client).await.map_err(failed)?;
    plan.steps.extend(steps(client.schema(), create, &applied));
    Ok(plan)
}

/// Adopts a table of django-broadcaster, if there is one, and applies the pending migrations.
pub(super) async fn migrate(target: &Target, watch: &ProgressFn) -> Result<MigrationPlan> {
    let client = target.connect().await?;
    access::check_migration(target, &client).await?;
    let mut plan = adopt::adopt(target, &client, watch).await?;
    let applied = find_applied(&client).await.map_err(|error| target.driver_error("migrate", &error))?;
    plan.steps.extend(adopt::replace_indexes(target, &client, &replaced(&applied), watch).await?);
    // An error drops the connection, and with it the transaction.
    let applied = apply(&client).await.map_err(|error| target.driver_error("migrate", &error))?;
    plan.steps.extend(applied);
    Ok(plan)
}

/// The indexes to replace before the pending migrations of a table that is there already.
fn replaced(applied: &[i32]) -> Vec<&'static adopt::Replaced> {
    let is_pending = |version| applied.contains(&1) && !applied.contains(&version);
    REPLACED.iter().filter(|(version, _)| is_pending(*version)).map(|(_, index)| index).collect()
}

/// Applies all pending migrations in one transaction.
async fn apply(client: &SchemaClient) -> std::result::Result<Vec<MigrationStep>, tokio_postgres::Error> {
    let lock = format!("SELECT pg_advisory_xact_lock({})", lock_key(client.schema()));
    client.batch_execute(&format!("BEGIN; SET LOCAL lock_timeout = '10s'; {lock}")).await?;
    let applied = find_applied(client).await?;
    let create = create_schema(client).await?;
    if let Some(create) = &create {
        client.batch_execute(create).await?;
    }
    client.batch_execute(&client.schema().set_local()).await?;
    for migration in find_pending(&MIGRATIONS, &applied) {
        for statement in migration.statements() {
            client.batch_execute(statement).await?;
        }
        let record = "INSERT INTO outbox_migrations (version) VALUES ($1) ON CONFLICT DO NOTHING";
        client.execute(record, &[&migration.version]).await?;
    }
    client.batch_execute("COMMIT").await?;
    Ok(steps(client.schema(), create, &applied))
}

/// The pending statements, with those that create and enter the schema, as an operator would run them.
fn steps(schema: &Schema, create: Option<String>, applied: &[i32]) -> Vec<MigrationStep> {
    let pending = find_pending(&MIGRATIONS, applied);
    if pending.is_empty() {
        return Vec::new();
    }
    let statements = pending.into_iter().flat_map(Migration::statements).map(str::to_owned);
    create.into_iter().chain([schema.set_search_path()]).chain(statements).map(MigrationStep::new).collect()
}

/// The statement that creates the schema, if it is missing.
pub(super) async fn create_schema(client: &SchemaClient) -> std::result::Result<Option<String>, tokio_postgres::Error> {
    let find = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)";
    let is_there: bool = client.query_one(find, &[&client.schema().name()]).await?.try_get(0)?;
    Ok((!is_there).then(|| format!("CREATE SCHEMA {}", client.schema().quoted())))
}

async fn find_applied(client: &SchemaClient) -> std::result::Result<Vec<i32>, tokio_postgres::Error> {
    let known: bool = client.query_one("SELECT to_regclass('outbox_migrations') IS NOT NULL", &[]).await?.try_get(0)?;
    if !known {
        return Ok(Vec::new());
    }
    let applied = format!("SELECT version FROM outbox_migrations WHERE {} ORDER BY version", in_place(client.schema()));
    let rows = client.query(&applied, &[]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// The condition that a migration counts as applied: the functions' search path is this schema.
fn in_place(schema: &Schema) -> String {
    let schema = schema.literal();
    let in_place = PLACES_FUNCTIONS.map(|(version, functions)| {
        format!(
            "(version <> {version} OR NOT EXISTS (SELECT FROM pg_proc p \
                JOIN pg_namespace s ON s.oid = p.pronamespace AND s.nspname = {schema} \
                WHERE p.proname IN ({functions}) \
                    AND ('search_path=' || quote_ident({schema}) || ', pg_temp' = ANY (p.proconfig)) IS NOT TRUE))"
        )
    });
    in_place.join(" AND ")
}

/// The outbox's own id, if the tables are those of this version.
pub(super) async fn outbox_id(store: &PostgresStore) -> Result<Uuid> {
    let rows = store
        .run("read the outbox's id", |conn| {
            let in_place = in_place(conn.schema());
            diesel::dsl::sql::<(SqlUuid, Nullable<Integer>, Text)>(&format!(
                "SELECT m.id, a.version, getdatabaseencoding()::text FROM outbox_meta m \
                    LEFT JOIN outbox_migrations a ON {in_place} WHERE {}",
                on_a_primary!()
            ))
            .load::<(Uuid, Option<i32>, String)>(conn)
            .boxed()
        })
        .await?;
    if let Some((_, _, encoding)) = rows.as_slice().first() {
        store.target.check_encoding(encoding)?;
    }
    let applied: Vec<i32> = rows.iter().filter_map(|(_, version, _)| *version).collect();
    match (find_obstacle(&MIGRATIONS, &applied), rows.as_slice()) {
        (None, [(id, ..), ..]) => Ok(*id),
        (obstacle, _) => Err(store.target.not_migrated(obstacle.unwrap_or("missing"))),
    }
}
