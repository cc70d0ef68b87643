//! `outbox migrate`

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::output;
use crate::error::StoreError;
use crate::settings::Settings;
use crate::store::Store;
use crate::store::migrate::{Progress, Step};

const REDRAW: Duration = Duration::from_millis(100);

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
    let plan = store.migrate(&Bar::start().watch()).await?;
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

/// How far it is, on stderr; nothing where that is no terminal. It goes when it is dropped.
struct Bar(ProgressBar);

impl Bar {
    fn start() -> Self {
        let bar = ProgressBar::no_length();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {bar:30} {pos}/{len}, {elapsed}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    fn watch(self) -> impl Fn(Progress<'_>) + Send + Sync {
        move |progress| {
            if self.0.length().is_none() {
                self.0.enable_steady_tick(REDRAW);
            }
            self.0.set_message(progress.what.to_owned());
            self.0.set_length(progress.total);
            self.0.set_position(progress.done);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
