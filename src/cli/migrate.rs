//! `outbox migrate`

use std::io::Write;
use std::sync::Arc;

use super::output;
use crate::error::StoreError;
use crate::settings::Settings;
use crate::store::Store;

/// Create the outbox tables, or bring them up to date.
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
    /// Print the statements that would run, and run none.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(args: &Args, settings: &Settings, store: Arc<dyn Store>) -> anyhow::Result<()> {
    if args.dry_run {
        let statements = store.migrate(true).await?;
        if statements.is_empty() {
            drop(writeln!(std::io::stderr(), "already up to date: nothing would run"));
        }
        return Ok(output::lines(statements.iter().map(|statement| terminated(statement)))?);
    }
    let found = store.outbox_id().await;
    let ran = store.migrate(false).await?;
    let done = match found {
        _ if ran.is_empty() => "already up to date:",
        Err(StoreError::NotMigrated { state: "missing", .. }) => "created",
        _ => "upgraded",
    };
    Ok(output::line(format_args!("{done} the outbox tables in {}", settings.database.url))?)
}

fn terminated(statement: &str) -> String {
    format!("{};", statement.trim().trim_end_matches(';'))
}
