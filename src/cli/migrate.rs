//! `outbox migrate`

use std::io::Write;
use std::sync::Arc;

use super::output;
use super::progress::Progress;
use crate::error::StoreError;
use crate::settings::Settings;
use crate::store::Store;
use crate::store::migrate::Step;

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
  outbox migrate --database-url sqlite://outbox.db")]
pub(super) struct Args {
    /// Print the statements that would run, with what they cost those who use the table meanwhile, and run none.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(args: &Args, settings: &Settings, store: Arc<dyn Store>) -> anyhow::Result<()> {
    if args.dry_run {
        let plan = store.plan_migration().await?;
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
    Ok(())
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
