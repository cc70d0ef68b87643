//! `outbox doctor`

use std::time::Duration;

use actix_outbox::admin::{Finding, OutboxAdmin, Severity};

use super::arguments::{self, Format};
use super::output;

/// Look at the database, the backends and the workers for what endangers the outbox, and say what to do; exit with 1 if
/// something endangers a guarantee or keeps events from being delivered.
///
/// Run it with the settings of a worker, on the worker's machine. It changes nothing but that it tests a write to each
/// backend.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox doctor
  outbox doctor --format json | jq -r '.[] | select(.severity == \"danger\") | .problem'")]
pub(super) struct Args {
    /// A list, or JSON (one array).
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// How long a transaction may be open before it is a finding.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = arguments::duration)]
    long_transaction: Duration,
}

pub(super) async fn run(args: &Args, admin: &OutboxAdmin) -> anyhow::Result<()> {
    let found = admin.diagnose(args.long_transaction).await;
    match args.format {
        Format::Json => output::json(&found)?,
        Format::Table if found.is_empty() => output::line("nothing found")?,
        Format::Table => found.iter().try_for_each(print)?,
    }
    match found.iter().filter(|finding| finding.severity == Severity::Danger).count() {
        0 => Ok(()),
        1 => Err(anyhow::anyhow!("1 danger")),
        count => Err(anyhow::anyhow!("{count} dangers")),
    }
}

fn print(finding: &Finding) -> std::io::Result<()> {
    let severity = if finding.severity == Severity::Danger { "danger" } else { "advice" };
    let (part, problem) = (output::printable(&finding.part), output::printable(&finding.problem));
    output::line(format_args!("{severity}: {part}: {problem}\n        {}", output::printable(&finding.advice)))
}
