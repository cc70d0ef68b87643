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

/// Create the outbox tables, or bring them up to date.
///
/// A table that django-broadcaster made is taken over in place, while it is written to; stop its worker first.
///
/// Running it again changes nothing. It keeps books in a table of its own; the application's own migrations are not
/// touched.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox migrate
  outbox migrate --dry-run | less
  outbox migrate --notify-trigger
  outbox migrate --database-url sqlite://outbox.db")]
pub(super) struct Args {
    /// Print the statements that would run, with what they cost those who use the table meanwhile, and run none.
    #[arg(long)]
    dry_run: bool,
    /// Put a trigger on the table that wakes workers when a writer inserts who does not, such as Django or plain SQL.
    /// Costs every writer: transactions that insert events then commit one after the other. PostgreSQL only; stays until
    /// it is taken away.
    #[arg(long)]
    notify_trigger: bool,
    /// Take that trigger away.
    #[arg(long, conflicts_with = "notify_trigger")]
    no_notify_trigger: bool,
}

impl Args {
    /// Whether the trigger is to be there; `None`: it stays as it is.
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
            drop(writeln!(std::io::stderr(), "already up to date: nothing would run"));
        }
        return Ok(output::lines(plan.steps.iter().map(shown))?);
    }
    let found = store.outbox_id().await;
    let bar = Progress::steps();
    let plan = store.migrate(&move |far| bar.show(far.what, far.done, far.total)).await?;
    let done = match found {
        _ if plan.adopts => "took django-broadcaster's table over:",
        _ if plan.steps.is_empty() => "already up to date:",
        Err(StoreError::NotMigrated { state: "missing", .. }) => "created",
        _ => "upgraded",
    };
    output::line(format_args!("{done} the outbox tables in {}", settings.database.url))?;
    if plan.adopts {
        output::line(format_args!("left in processing by its worker and pending again: {}", plan.taken_up))?;
    }
    if let Some((notifications, wanted)) = trigger {
        let done = match (notifications.set_trigger(wanted).await?.steps.is_empty(), wanted) {
            (true, _) => "already so:",
            (false, true) => "created:",
            (false, false) => "taken away:",
        };
        output::line(format_args!("{done} the trigger that wakes workers when events are inserted"))?;
    }
    Ok(())
}

fn find_notify_store(store: &dyn Store) -> Result<&dyn NotifyStore, UsageError> {
    let nothing =
        || UsageError("--notify-trigger: this database wakes nobody; a worker finds events by polling".to_owned());
    store.notify_store().ok_or_else(nothing)
}

/// A statement with what it costs before it.
fn shown(step: &Step) -> String {
    let sql = format!("{};", step.sql.trim().trim_end_matches(';'));
    if step.cost.is_empty() {
        return sql;
    }
    let cost: String = step.cost.lines().map(|line| format!("-- {line}\n")).collect();
    format!("{cost}{sql}\n")
}
