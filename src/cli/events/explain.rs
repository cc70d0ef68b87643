//! `outbox events explain`

use std::sync::Arc;

use uuid::Uuid;

use crate::cli::arguments::{self, Format};
use crate::cli::output;
use crate::explain::explain;
use crate::settings::Settings;
use crate::store::Store;

/// Explain why an event has not been sent, or when it was published.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox events explain 0197a3b2-0000-7000-8000-000000000001
  outbox events explain 0197a3b2-0000-7000-8000-000000000001 --format json | jq -r .reason")]
pub(in crate::cli) struct Args {
    /// The event's id.
    #[arg(value_name = "ID", value_parser = arguments::id)]
    id: Uuid,
    /// A sentence, or JSON (one object).
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(in crate::cli) async fn run(args: &Args, settings: &Settings, store: Arc<dyn Store>) -> anyhow::Result<()> {
    let explanation = explain(&*store, settings, args.id).await?;
    match args.format {
        Format::Json => output::json(&explanation),
        Format::Table => Ok(output::line(output::printable(&explanation.sentence))?),
    }
}
