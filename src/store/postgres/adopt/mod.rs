//! Adopting the table that django-broadcaster's migration made, while its writers go on.
//!
//! A list of tasks, each of which can be interrupted and taken up again: what is done is seen from the catalog and from
//! the rows. None writes the table anew, and none holds writers up for longer than a short wait for a lock. The tables of
//! our own come last, in one transaction with the row in `outbox_migrations`, so no worker starts before.

use tokio_postgres::{Client, Error};

use super::Result;
use super::connect::Target;
use crate::store::migrate::{MigrationPlan, Progress, ProgressFn, statements};

mod catalog;
mod check;
mod session;
mod task;

pub(super) use session::{AdoptSession, transaction};
use task::{Index, Task};

const INDEXES: &str = include_str!("../../../../migrations/postgres/0001_outbox/indexes.sql");

/// What [`adopt`] would run.
pub(super) async fn plan(target: &Target, client: &Client) -> Result<MigrationPlan> {
    let mut plan = MigrationPlan::default();
    if is_needed(target, client).await? {
        plan.adopts = true;
        plan.steps = list_tasks(target, client).await?.iter().map(Task::step).collect();
    }
    Ok(plan)
}

/// Adopts the table, where there is one that no migration of this program made.
pub(super) async fn adopt(target: &Target, client: &Client, watch: &ProgressFn) -> Result<MigrationPlan> {
    let mut plan = MigrationPlan::default();
    if !is_needed(target, client).await? {
        return Ok(plan);
    }
    let session = AdoptSession::begin(target, client).await?;
    // Another may have adopted it while this one waited for its turn.
    if is_needed(target, client).await? {
        plan.adopts = true;
        let tasks = list_tasks(target, client).await?;
        for (task, done) in tasks.iter().zip(0..) {
            watch(Progress { what: &task.name(), done, total: tasks.len() as u64 });
            plan.taken_up += task.run(&session, watch).await?;
            plan.steps.push(task.step());
        }
    }
    session.end().await?;
    Ok(plan)
}

async fn is_needed(target: &Target, client: &Client) -> Result<bool> {
    catalog::is_foreign(client).await.map_err(|error| target.driver_error("migrate", &error))
}

/// What is still to be done.
async fn list_tasks(target: &Target, client: &Client) -> Result<Vec<Task>> {
    let failed = |error: Error| target.driver_error("migrate", &error);
    let found = catalog::look(client).await.map_err(failed)?;
    let found = found.map_err(|objections| target.not_adoptable(objections))?;
    let mut tasks = Vec::new();
    if !found.has_columns {
        tasks.push(Task::AddColumns);
    }
    // Until the columns are there rows are written without a seq, so a count of none says nothing yet.
    if !found.has_columns || found.unplaced > 0 {
        tasks.push(Task::FillSeq { rows: found.unplaced, pages: found.pages });
    }
    for statement in statements(INDEXES) {
        let name = index_name(statement);
        if !catalog::is_built(client, name).await.map_err(failed)? {
            let is_unfinished = catalog::is_unfinished(client, name).await.map_err(failed)?;
            let (table_pages, table_rows) = (found.pages, found.rows);
            tasks.push(Task::BuildIndex(Index { name, statement, is_unfinished, table_pages, table_rows }));
        }
    }
    tasks.push(Task::Finish { processing: found.processing });
    Ok(tasks)
}

/// What stands behind `CREATE INDEX`.
fn index_name(statement: &str) -> &str {
    let behind = statement.split_once("CREATE INDEX ").map_or(statement, |(_, behind)| behind);
    behind.split_whitespace().next().unwrap_or(behind)
}
