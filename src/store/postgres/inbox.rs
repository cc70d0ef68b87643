//! The inbox's table, in the outbox's schema or in a database without an outbox.

use std::time::Duration;

use diesel::pg::Pg;
use futures_util::FutureExt;

use super::connect::Target;
use super::migrate::{create_schema, lock_key};
use super::schema::Schema;
use super::schema_client::SchemaClient;
use super::{PostgresStore, Result};
use crate::publish::Dialect;
use crate::store::inbox::{
    InboxStatement, POSTGRES_TABLE, TextQueries, delete_older as delete_statement, exists, find,
};
use crate::store::migrate::{MigrationPlan, MigrationStep, statements};

const MIGRATE: &str = "migrate the inbox";

/// The steps that [`migrate`] would run.
pub(super) async fn plan(target: &Target) -> Result<MigrationPlan> {
    let client = connect(target).await?;
    plan_with(target, &client).await
}

/// Creates the table if it does not exist, and nothing else.
pub(super) async fn migrate(target: &Target) -> Result<MigrationPlan> {
    let client = connect(target).await?;
    let failed = |error| target.driver_error(MIGRATE, &error);
    let lock = format!("SELECT pg_advisory_xact_lock({})", lock_key(client.schema()));
    client.batch_execute(&format!("BEGIN; SET LOCAL lock_timeout = '10s'; {lock}")).await.map_err(failed)?;
    // An error drops the connection, and with it the transaction.
    let plan = plan_with(target, &client).await?;
    for step in &plan.steps {
        client.batch_execute(&step.sql).await.map_err(failed)?;
    }
    client.batch_execute("COMMIT").await.map_err(failed)?;
    Ok(plan)
}

/// Whether this role may delete old notes; no row if there is no inbox.
const MAY_DELETE: &str = "SELECT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'DELETE'))::text \
    FROM (SELECT to_regclass('outbox_inbox') AS oid) t WHERE oid IS NOT NULL";

/// The result of deleting.
enum Deleted {
    Notes(usize),
    NoInbox,
    Forbidden,
}

/// Deletes a small batch of notes that are older than this; returns how many.
pub(super) async fn delete_older(store: &PostgresStore, kept: Duration) -> Result<usize> {
    let deleted = store
        .run("delete old notes of the inbox", |conn| {
            async move {
                let may_delete = InboxStatement::query(MAY_DELETE);
                match Pg::texts(conn, may_delete).await?.first().map(String::as_str) {
                    None => Ok(Deleted::NoInbox),
                    Some("true") => {
                        let rows = Pg::texts(conn, delete_statement(Dialect::Postgres, kept)).await?;
                        Ok(Deleted::Notes(rows.len()))
                    }
                    Some(_) => Ok(Deleted::Forbidden),
                }
            }
            .boxed()
        })
        .await?;
    match deleted {
        Deleted::Notes(notes) => Ok(notes),
        Deleted::NoInbox => Err(store.target.no_inbox()),
        Deleted::Forbidden => {
            let problem = "this role needs SELECT and DELETE on outbox_inbox, to delete old notes: see docs/inbox.md";
            Err(store.target.unsuitable(problem))
        }
    }
}

async fn connect(target: &Target) -> Result<SchemaClient> {
    let client = target.connect().await?;
    let failed = |error| target.driver_error(MIGRATE, &error);
    let row = client.query_one("SELECT getdatabaseencoding()::text", &[]).await.map_err(failed)?;
    target.check_encoding(row.try_get(0).map_err(failed)?)?;
    Ok(client)
}

async fn plan_with(target: &Target, client: &SchemaClient) -> Result<MigrationPlan> {
    let failed = |error| target.driver_error(MIGRATE, &error);
    let rows = client.query(find(Dialect::Postgres).sql, &[]).await.map_err(failed)?;
    let found: std::result::Result<Vec<String>, _> = rows.iter().map(|row| row.try_get(0)).collect();
    if exists(&found.map_err(failed)?).map_err(|problem| target.unsuitable(problem))? {
        return Ok(MigrationPlan::default());
    }
    let create = create_schema(client).await.map_err(failed)?;
    Ok(MigrationPlan { steps: steps(client.schema(), create), ..MigrationPlan::default() })
}

fn steps(schema: &Schema, create: Option<String>) -> Vec<MigrationStep> {
    let table = statements(POSTGRES_TABLE).map(str::to_owned);
    create.into_iter().chain([schema.set_search_path()]).chain(table).map(MigrationStep::new).collect()
}
