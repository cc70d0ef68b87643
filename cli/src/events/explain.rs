//! `outbox events explain`

use actix_outbox::admin::OutboxAdmin;
use uuid::Uuid;

use crate::arguments::{self, Format};
use crate::output;

/// Explain why an event has not been sent, or when it was published.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox events explain 0197a3b2-0000-7000-8000-000000000001
  outbox events explain 0197a3b2-0000-7000-8000-000000000001 --format json | jq -r .reason")]
pub(crate) struct Args {
    /// The event's id.
    #[arg(value_name = "ID", value_parser = arguments::id)]
    id: Uuid,
    /// A sentence, or JSON (one object).
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(crate) async fn run(args: &Args, admin: &OutboxAdmin) -> anyhow::Result<()> {
    let explanation = admin.explain(args.id).await?;
    match args.format {
        Format::Json => output::json(&explanation),
        Format::Table => Ok(output::line(output::printable(&explanation.sentence))?),
    }
}
