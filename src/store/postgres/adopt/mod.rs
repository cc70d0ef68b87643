//! Adopts the table of django-broadcaster's migration while its writers continue.
//!
//! The adoption is a list of tasks, each of which can be interrupted and resumed: the catalog and the rows show the
//! progress. No task rewrites the table, and none blocks writers for longer than a short wait for a lock. Our own tables are
//! created last, in one transaction with the row in `outbox_migrations`, so no worker starts earlier.

use tokio_postgres::Error;

use super::Result;
use super::connect::Target;
use super::schema_client::SchemaClient;
use crate::store::migrate::{MigrationPlan, MigrationProgress, MigrationStep, ProgressFn, statements};

mod catalog;
mod check;
mod session;
mod task;

use session::UPGRADE_WAIT;
pub(super) use session::{AdoptSession, transaction};
use task::{Index, Task};

const INDEXES: &str = include_str!("../../../../migrations/postgres/0001_outbox/indexes.sql");

/// The steps that [`adopt`] would run.
pub(super) async fn plan(target: &Target, client: &SchemaClient) -> Result<MigrationPlan> {
    let mut plan = MigrationPlan::default();
    if is_needed(target, client).await? {
        plan.adopts = true;
        let tasks = list_tasks(target, client).await?;
        plan.steps = tasks.iter().map(|task| task.step(client.schema())).collect();
    }
    Ok(plan)
}

/// Adopts the table, if there is one that no migration of this program created.
pub(super) async fn adopt(target: &Target, client: &SchemaClient, watch: &ProgressFn) -> Result<MigrationPlan> {
    let mut plan = MigrationPlan::default();
    if !is_needed(target, client).await? {
        return Ok(plan);
    }
    let session = AdoptSession::begin(target, client).await?;
    // Another process may have adopted it while this one waited for the lock.
    if is_needed(target, client).await? {
        plan.adopts = true;
        let tasks = list_tasks(target, client).await?;
        plan.taken_up = run(&tasks, &session, watch).await?;
        plan.steps = tasks.iter().map(|task| task.step(client.schema())).collect();
    }
    session.end().await?;
    Ok(plan)
}

/// An index that takes the place of another one, on a table in use.
pub(super) struct Replaced {
    /// The statement that creates the new one.
    pub(super) by: &'static str,
    /// The name of the old one.
    pub(super) name: &'static str,
}

/// The steps of [`replace_indexes`].
pub(super) async fn plan_replaced(
    target: &Target,
    client: &SchemaClient,
    indexes: &[&Replaced],
) -> Result<Vec<MigrationStep>> {
    let tasks = list_replaced(target, client, indexes).await?;
    Ok(tasks.iter().map(|task| task.step(client.schema())).collect())
}

/// Builds the new indexes and drops the old ones while others write to the table; returns the steps.
pub(super) async fn replace_indexes(
    target: &Target,
    client: &SchemaClient,
    indexes: &[&Replaced],
    watch: &ProgressFn,
) -> Result<Vec<MigrationStep>> {
    if indexes.is_empty() {
        return Ok(Vec::new());
    }
    let session = AdoptSession::begin_within(UPGRADE_WAIT, target, client).await?;
    let tasks = list_replaced(target, client, indexes).await?;
    run(&tasks, &session, watch).await?;
    session.end().await?;
    Ok(tasks.iter().map(|task| task.step(client.schema())).collect())
}

async fn list_replaced(target: &Target, client: &SchemaClient, indexes: &[&Replaced]) -> Result<Vec<Task>> {
    if indexes.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |error: Error| target.driver_error("migrate", &error);
    let size = catalog::size(client).await.map_err(failed)?;
    let statements = indexes.iter().map(|index| index.by);
    let mut tasks = missing_indexes(client, statements, size).await.map_err(failed)?;
    for index in indexes {
        if catalog::is_built(client, index.name).await.map_err(failed)? {
            tasks.push(Task::DropIndex(index.name));
        }
    }
    Ok(tasks)
}

/// Runs tasks; returns the number of events that they reset from `processing`.
async fn run(tasks: &[Task], session: &AdoptSession<'_>, watch: &ProgressFn) -> Result<u64> {
    let mut taken_up = 0;
    for (task, done) in tasks.iter().zip(0..) {
        watch(MigrationProgress { what: &task.name(), done, total: tasks.len() as u64 });
        taken_up += task.run(session, watch).await?;
    }
    Ok(taken_up)
}

async fn is_needed(target: &Target, client: &SchemaClient) -> Result<bool> {
    catalog::is_foreign(client).await.map_err(|error| target.driver_error("migrate", &error))
}

/// The tasks that are left.
async fn list_tasks(target: &Target, client: &SchemaClient) -> Result<Vec<Task>> {
    let failed = |error: Error| target.driver_error("migrate", &error);
    let found = catalog::inspect(client).await.map_err(failed)?;
    let found = found.map_err(|objections| target.not_adoptable(objections))?;
    let mut tasks = Vec::new();
    if !found.has_columns {
        tasks.push(Task::AddColumns);
    }
    // Until the columns exist, rows are written without a `seq`, so a count of zero means nothing yet.
    if !found.has_columns || found.unplaced > 0 {
        tasks.push(Task::FillSeq { rows: found.unplaced, pages: found.pages });
    }
    let size = (found.pages, found.rows);
    tasks.extend(missing_indexes(client, statements(INDEXES), size).await.map_err(failed)?);
    tasks.push(Task::Finish { processing: found.processing });
    Ok(tasks)
}

/// The tasks that build the indexes that are missing on a table of this size, in pages and rows.
async fn missing_indexes(
    client: &SchemaClient,
    indexes: impl Iterator<Item = &'static str>,
    (table_pages, table_rows): (i64, i64),
) -> std::result::Result<Vec<Task>, Error> {
    let mut tasks = Vec::new();
    for statement in indexes {
        let name = index_name(statement);
        if !catalog::is_built(client, name).await? {
            let is_unfinished = catalog::is_unfinished(client, name).await?;
            tasks.push(Task::BuildIndex(Index { name, statement, is_unfinished, table_pages, table_rows }));
        }
    }
    Ok(tasks)
}

/// The name after `CREATE INDEX`.
fn index_name(statement: &str) -> &str {
    let behind = statement.split_once("CREATE INDEX ").map_or(statement, |(_, behind)| behind);
    behind.split_whitespace().next().unwrap_or(behind)
}
