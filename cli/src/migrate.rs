//! `outbox migrate`

use std::io::Write;

use actix_outbox::admin::{AdminError, MigrationPlan, MigrationStep, OutboxAdmin};
use actix_outbox::{Settings, StoreError};

use super::exit::UsageError;
use super::output;
use super::progress::Progress;

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
  outbox migrate --inbox --database-url postgres://localhost/billing
  outbox migrate --database-url sqlite://outbox.db")]
pub(super) struct Args {
    /// Print the statements that would run, with their cost for concurrent users of the table, and run none.
    #[arg(long)]
    dry_run: bool,
    /// Create the inbox's table, in which consumers note what they have handled, and nothing else. The database needs no
    /// outbox.
    #[arg(long, conflicts_with_all = ["notify_trigger", "no_notify_trigger"])]
    inbox: bool,
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

pub(super) async fn run(args: &Args, settings: &Settings, admin: &OutboxAdmin) -> anyhow::Result<()> {
    if args.inbox {
        return migrate_inbox(args, settings, admin).await;
    }
    // Before anything else changes: it says whether the database has notifications.
    let trigger = match args.trigger() {
        Some(wanted) => Some((wanted, admin.plan_notify_trigger(wanted).await)),
        None => None,
    };
    if let Some((_, Err(AdminError::NoNotifications))) = &trigger {
        return Err(
            UsageError(format!("--notify-trigger and --no-notify-trigger: {}", AdminError::NoNotifications)).into()
        );
    }
    if args.dry_run {
        let mut plan = admin.plan_migration().await?;
        if let Some((_, steps)) = trigger {
            plan.steps.extend(steps?.steps);
        }
        return print(&plan);
    }
    migrate(settings, admin).await?;
    match trigger {
        Some((wanted, _)) => set_trigger(wanted, admin).await,
        None => Ok(()),
    }
}

async fn migrate(settings: &Settings, admin: &OutboxAdmin) -> anyhow::Result<()> {
    let found = admin.outbox_id().await;
    let bar = Progress::steps();
    let plan = admin.migrate(move |far| bar.show(far.what, far.done, far.total)).await?;
    let done = match found {
        _ if plan.adopts => "adopted django-broadcaster's table:",
        _ if plan.steps.is_empty() => "already up to date:",
        Err(StoreError::NotMigrated { state: "missing", .. }) => "created",
        _ => "upgraded",
    };
    output::line(format_args!("{done} the outbox tables in {}", place(settings, admin)))?;
    if plan.adopts {
        output::line(format_args!("pending again, left in processing by its worker: {}", plan.taken_up))?;
    }
    Ok(())
}

async fn migrate_inbox(args: &Args, settings: &Settings, admin: &OutboxAdmin) -> anyhow::Result<()> {
    if args.dry_run {
        return print(&admin.plan_inbox_migration().await?);
    }
    let is_new = !admin.migrate_inbox().await?.steps.is_empty();
    let done = if is_new { "created" } else { "already there:" };
    Ok(output::line(format_args!("{done} the inbox in {}", place(settings, admin)))?)
}

/// The schema and the database.
fn place(settings: &Settings, admin: &OutboxAdmin) -> String {
    let schema = admin.schema().map_or_else(String::new, |schema| format!("schema {} of ", output::printable(&schema)));
    format!("{schema}{}", settings.database.url)
}

fn print(plan: &MigrationPlan) -> anyhow::Result<()> {
    if plan.steps.is_empty() {
        drop(writeln!(std::io::stderr(), "already up to date; no statement would run"));
    }
    Ok(output::lines(plan.steps.iter().map(with_cost))?)
}

async fn set_trigger(wanted: bool, admin: &OutboxAdmin) -> anyhow::Result<()> {
    let done = match (admin.set_notify_trigger(wanted).await?.steps.is_empty(), wanted) {
        (true, _) => "unchanged:",
        (false, true) => "created:",
        (false, false) => "removed:",
    };
    Ok(output::line(format_args!("{done} the trigger that wakes workers when events are inserted"))?)
}

/// A statement, with its cost in comments before it.
fn with_cost(step: &MigrationStep) -> String {
    let sql = format!("{};", step.sql.trim().trim_end_matches(';'));
    if step.cost.is_empty() {
        return sql;
    }
    let cost: String = step.cost.lines().map(|line| format!("-- {line}\n")).collect();
    format!("{cost}{sql}\n")
}
