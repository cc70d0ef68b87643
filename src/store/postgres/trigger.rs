//! The trigger that sends notifications for writers that send none.

use super::Result;
use super::adopt::{AdoptSession, transaction};
use super::connect::Target;
use super::schema::Schema;
use super::schema_client::SchemaClient;
use crate::store::migrate::{MigrationPlan, MigrationStep};

const CREATE: &str = include_str!("../../../migrations/postgres/notify/create.sql");
const DROP: &str = include_str!("../../../migrations/postgres/notify/drop.sql");

/// Whether the trigger exists, and whether it is current: a copied database may have been given another id.
const FIND: &str = "SELECT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = to_regclass('outbox_events') \
        AND t.tgname = 'outbox_events_notify'), \
    EXISTS (SELECT FROM pg_trigger t, outbox_meta m WHERE t.tgrelid = to_regclass('outbox_events') \
        AND t.tgname = 'outbox_events_notify' AND t.tgenabled = 'O' \
        AND encode(t.tgargs, 'escape') = 'outbox_' || replace(m.id::text, '-', '') || '\\000')";

/// The steps that [`set`] would run. If the tables do not exist yet, neither does the trigger.
pub(super) async fn plan(target: &Target, wanted: bool) -> Result<MigrationPlan> {
    let client = target.connect().await?;
    plan_with(target, &client, wanted).await
}

/// Creates the trigger or drops it; if it is already as wanted, runs nothing.
pub(super) async fn set(target: &Target, wanted: bool) -> Result<MigrationPlan> {
    let client = target.connect().await?;
    let session = AdoptSession::begin(target, &client).await?;
    let plan = plan_with(target, &client, wanted).await?;
    if !plan.steps.is_empty() {
        session.transact(statements(wanted)).await?;
    }
    session.end().await?;
    Ok(plan)
}

async fn plan_with(target: &Target, client: &SchemaClient, wanted: bool) -> Result<MigrationPlan> {
    let is_done = is_as(client, wanted).await.map_err(|error| target.driver_error("find the trigger", &error))?;
    let steps = if is_done { Vec::new() } else { vec![step(client.schema(), wanted)] };
    Ok(MigrationPlan { steps, ..MigrationPlan::default() })
}

async fn is_as(client: &SchemaClient, wanted: bool) -> std::result::Result<bool, tokio_postgres::Error> {
    let known: bool = client.query_one("SELECT to_regclass('outbox_meta') IS NOT NULL", &[]).await?.try_get(0)?;
    if !known {
        return Ok(!wanted);
    }
    let found = client.query_one(FIND, &[]).await?;
    let (is_there, is_right): (bool, bool) = (found.try_get(0)?, found.try_get(1)?);
    Ok(if wanted { is_right } else { !is_there })
}

fn statements(wanted: bool) -> &'static str {
    if wanted { CREATE } else { DROP }
}

fn step(schema: &Schema, wanted: bool) -> MigrationStep {
    let cost = match wanted {
        true => {
            "From then on transactions that insert events commit one after the other: see docs/operations.md.\nBlocks \
             writes for a moment: if the lock is not acquired within 1.5 s, statements that wait behind it go first, and \
             it is retried."
        }
        false => {
            "ACCESS EXCLUSIVE for a moment: if the lock is not acquired within 1.5 s, statements that wait behind it go\nfirst, and \
             it is retried."
        }
    };
    MigrationStep { sql: transaction(schema, statements(wanted)), cost: cost.to_owned() }
}
