//! Making the tables.

use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Binary, Bool, Integer};
use uuid::Uuid;

use super::uuid_of;
use crate::store::migrate::{Migration, find_obstacle, find_pending};

const MIGRATIONS: [Migration; 1] =
    [Migration { version: 1, sql: include_str!("../../../migrations/sqlite/0001_outbox.sql") }];

/// The statements that an empty database needs.
pub(super) fn list_all_statements() -> Vec<String> {
    MIGRATIONS.iter().flat_map(Migration::statements).map(str::to_owned).collect()
}

/// Runs what is still to run, all of it or nothing, and returns it; `dry_run` only returns it.
pub(super) fn migrate(connection: &mut SqliteConnection, dry_run: bool) -> QueryResult<Vec<String>> {
    connection.immediate_transaction(|connection| {
        let applied = find_applied(connection)?;
        let mut statements = Vec::new();
        for migration in find_pending(&MIGRATIONS, &applied) {
            for statement in migration.statements() {
                if !dry_run {
                    connection.batch_execute(statement)?;
                }
                statements.push(statement.to_owned());
            }
            if !dry_run {
                record_applied(connection, migration.version)?;
            }
        }
        Ok(statements)
    })
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
