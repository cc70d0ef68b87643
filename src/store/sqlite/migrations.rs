//! Creates and upgrades the tables.

use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Binary, Bool, Integer};
use uuid::Uuid;

use super::uuid_of;
use crate::store::migrate::{Migration, MigrationPlan, MigrationStep, find_obstacle, find_pending};

const MIGRATIONS: [Migration; 8] = [
    Migration { version: 1, sql: include_str!("../../../migrations/sqlite/0001_outbox.sql") },
    Migration { version: 2, sql: include_str!("../../../migrations/sqlite/0002_leases.sql") },
    Migration { version: 3, sql: include_str!("../../../migrations/sqlite/0003_handlers.sql") },
    Migration { version: 4, sql: include_str!("../../../migrations/sqlite/0004_event_time_and_pauses.sql") },
    Migration { version: 5, sql: include_str!("../../../migrations/sqlite/0005_audit.sql") },
    Migration { version: 6, sql: include_str!("../../../migrations/sqlite/0006_publish.sql") },
    Migration { version: 7, sql: include_str!("../../../migrations/sqlite/0007_config_seq.sql") },
    Migration { version: 8, sql: include_str!("../../../migrations/sqlite/0008_published_index.sql") },
];

/// The plan for an empty database.
pub(super) fn plan_all() -> MigrationPlan {
    MigrationPlan { steps: steps(&[]), ..MigrationPlan::default() }
}

/// The plan of the pending migrations.
pub(super) fn plan(connection: &mut SqliteConnection) -> QueryResult<MigrationPlan> {
    Ok(MigrationPlan { steps: steps(&find_applied(connection)?), ..MigrationPlan::default() })
}

/// Runs the pending migrations, all or none, and returns them.
pub(super) fn migrate(connection: &mut SqliteConnection) -> QueryResult<MigrationPlan> {
    connection.immediate_transaction(|connection| {
        let applied = find_applied(connection)?;
        for migration in find_pending(&MIGRATIONS, &applied) {
            for statement in migration.statements() {
                connection.batch_execute(statement)?;
            }
            record_applied(connection, migration.version)?;
        }
        Ok(MigrationPlan { steps: steps(&applied), ..MigrationPlan::default() })
    })
}

fn steps(applied: &[i32]) -> Vec<MigrationStep> {
    find_pending(&MIGRATIONS, applied).into_iter().flat_map(Migration::statements).map(MigrationStep::new).collect()
}

fn record_applied(connection: &mut SqliteConnection, version: i32) -> QueryResult<usize> {
    sql_query("INSERT INTO outbox_migrations (version) VALUES (?)").bind::<Integer, _>(version).execute(connection)
}

fn find_applied(connection: &mut SqliteConnection) -> QueryResult<Vec<i32>> {
    let table_exists =
        sql::<Bool>("SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'outbox_migrations')")
            .get_result::<bool>(connection)?;
    if !table_exists {
        return Ok(Vec::new());
    }
    sql::<Integer>("SELECT version FROM outbox_migrations ORDER BY version").load(connection)
}

/// The outbox's own id, or why the tables cannot be used.
pub(super) fn read_outbox_id(connection: &mut SqliteConnection) -> QueryResult<Result<Uuid, &'static str>> {
    connection.transaction(|connection| {
        if let Some(obstacle) = find_obstacle(&MIGRATIONS, &find_applied(connection)?) {
            return Ok(Err(obstacle));
        }
        let id = sql::<Binary>("SELECT id FROM outbox_meta").get_result::<Vec<u8>>(connection)?;
        uuid_of(&id).map(Ok)
    })
}
