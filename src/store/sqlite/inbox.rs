//! The inbox's table, next to the outbox's or in a file without an outbox.

use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::sqlite::Sqlite;
use diesel::{QueryResult, SqliteConnection};

use super::Result;
use super::connection::Location;
use super::error::describe_failure;
use crate::error::StoreError;
use crate::publish::Dialect;
use crate::store::inbox::{SQLITE_TABLE, TextQueries, delete_older as delete_statement, exists, find};
use crate::store::migrate::{MigrationPlan, MigrationStep, statements};

pub(super) const MIGRATE: &str = "migrate the inbox";

/// The plan for an empty database.
pub(super) fn plan_all() -> MigrationPlan {
    let steps = statements(SQLITE_TABLE).map(MigrationStep::new).collect();
    MigrationPlan { steps, ..MigrationPlan::default() }
}

/// The steps that [`migrate`] would run.
pub(super) fn plan(connection: &mut SqliteConnection, location: &Location) -> Result<MigrationPlan> {
    let found = Sqlite::texts_blocking(connection, find(Dialect::Sqlite));
    let found = found.map_err(|error| describe_failure(&location.target, MIGRATE, error))?;
    let unsuitable = |problem| StoreError::Unsuitable { target: location.target.to_string(), problem };
    Ok(if exists(&found).map_err(unsuitable)? { MigrationPlan::default() } else { plan_all() })
}

/// Creates the table if it does not exist, and nothing else.
pub(super) fn migrate(connection: &mut SqliteConnection, location: &Location) -> Result<MigrationPlan> {
    let plan = plan(connection, location)?;
    let create =
        |connection: &mut SqliteConnection| plan.steps.iter().try_for_each(|step| connection.batch_execute(&step.sql));
    let created: QueryResult<()> = connection.immediate_transaction(create);
    created.map_err(|error| describe_failure(&location.target, MIGRATE, error))?;
    Ok(plan)
}

/// Deletes a small batch of notes that are older than this; returns how many. `None`: there is no inbox.
pub(super) fn delete_older(connection: &mut SqliteConnection, kept: Duration) -> QueryResult<Option<usize>> {
    if Sqlite::texts_blocking(connection, find(Dialect::Sqlite))?.is_empty() {
        return Ok(None);
    }
    let deleted = connection.immediate_transaction(|connection| {
        Sqlite::texts_blocking(connection, delete_statement(Dialect::Sqlite, kept))
    });
    deleted.map(|rows| Some(rows.len()))
}
