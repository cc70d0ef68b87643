//! `outbox migrate`

use std::io::Write;
use std::sync::Arc;

use super::exit::UsageError;
use super::output;
use super::progress::Progress;
use crate::error::StoreError;
use crate::settings::Settings;
use crate::store::migrate::Step;
use crate::store::{NotifyStore, Store};

/// Create the outbox tables, or upgrade them.
///
/// A table of django-broadcaster is adopted in place, while applications write to it; stop its worker first.
///
/// A second run changes nothing. The command records its migrations in a table of its own; the application's migrations
/// are not touched.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox migrate
  outbox migrate --dry-run | less
  outbox migrate --notify-trigger
  outbox migrate --database-url sqlite://outbox.db")]
pub(super) struct Args {
    /// Print the statements that would run, with their cost for concurrent users of the table, and run none.
    #[arg(long)]
    dry_run: bool,
    /// Add a trigger to the table that wakes workers when a writer inserts that does not wake them itself, such as Django
    /// or plain SQL. It slows every writer: transactions that insert events then commit one after the other. PostgreSQL
    /// only; stays until --no-notify-trigger removes it.
    #[arg(long)]
    notify_trigger: bool,
    /// Remove that trigger.
    #[arg(long, conflicts_with = "notify_trigger")]
    no_notify_trigger: bool,
}

impl Args {
    /// Whether the trigger should exist; `None`: it stays as it is.
    fn trigger(&self) -> Option<bool> {
        (self.notify_trigger || self.no_notify_trigger).then_some(self.notify_trigger)
    }
}

pub(super) async fn run(args: &Args, settings: &Settings, store: Arc<dyn Store>) -> anyhow::Result<()> {
    let trigger =
        args.trigger().map(|wanted| Ok::<_, UsageError>((find_notify_store(store.as_ref())?, wanted))).transpose()?;
    if args.dry_run {
        let mut plan = store.plan_migration().await?;
        if let Some((notifications, wanted)) = trigger {
            plan.steps.extend(notifications.plan_trigger(wanted).await?.steps);
        }
        if plan.steps.is_empty() {
            drop(writeln!(std::io::stderr(), "already up to date; no statement would run"));
        }
        return Ok(output::lines(plan.steps.iter().map(with_cost))?);
    }
    let found = store.outbox_id().await;
    let bar = Progress::steps();
    let plan = store.migrate(&move |far| bar.show(far.what, far.done, far.total)).await?;
    let done = match found {
        _ if plan.adopts => "adopted django-broadcaster's table:",
        _ if plan.steps.is_empty() => "already up to date:",
        Err(StoreError::NotMigrated { state: "missing", .. }) => "created",
        _ => "upgraded",
    };
    output::line(format_args!("{done} the outbox tables in {}", settings.database.url))?;
    if plan.adopts {
        output::line(format_args!("pending again, left in processing by its worker: {}", plan.taken_up))?;
    }
    if let Some((notifications, wanted)) = trigger {
        let done = match (notifications.set_trigger(wanted).await?.steps.is_empty(), wanted) {
            (true, _) => "unchanged:",
            (false, true) => "created:",
            (false, false) => "removed:",
        };
        output::line(format_args!("{done} the trigger that wakes workers when events are inserted"))?;
    }
    Ok(())
}

fn find_notify_store(store: &dyn Store) -> Result<&dyn NotifyStore, UsageError> {
    let unsupported =
        || UsageError("--notify-trigger: this database has no notifications; workers poll it for events".to_owned());
    store.notify_store().ok_or_else(unsupported)
}

/// A statement, with its cost in comments before it.
fn with_cost(step: &Step) -> String {
    let sql = format!("{};", step.sql.trim().trim_end_matches(';'));
    if step.cost.is_empty() {
        return sql;
    }
    let cost: String = step.cost.lines().map(|line| format!("-- {line}\n")).collect();
    format!("{cost}{sql}\n")
}
