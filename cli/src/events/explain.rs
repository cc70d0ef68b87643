//! `outbox events explain`

use actix_outbox::admin::{Explanation, OutboxAdmin};
use serde::Serialize;
use uuid::Uuid;

use crate::arguments::{self, Format};
use crate::output;

/// Explain why an event has not been sent, or when it was published and what consumer groups have done with it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox events explain 0197a3b2-0000-7000-8000-000000000001
  outbox events explain 0197a3b2-0000-7000-8000-000000000001 --format json | jq -r .reason")]
pub(crate) struct Args {
    /// The event's id.
    #[arg(value_name = "ID", value_parser = arguments::id)]
    id: Uuid,
    /// Sentences, or JSON (one object).
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(crate) async fn run(args: &Args, admin: &OutboxAdmin) -> anyhow::Result<()> {
    let explanation = admin.explain(args.id).await?;
    #[cfg(feature = "consumer")]
    let groups = admin.event_groups(args.id).await?;
    #[cfg(not(feature = "consumer"))]
    let groups = None::<String>;
    match args.format {
        Format::Json => output::json(&Explained { explanation, groups }),
        Format::Table => {
            output::line(output::printable(&explanation.sentence))?;
            let sentences = groups.map(|groups| groups.to_string()).unwrap_or_default();
            Ok(output::lines(sentences.lines().map(output::printable))?)
        }
    }
}

/// Both as one object.
#[derive(Serialize)]
struct Explained<G> {
    #[serde(flatten)]
    explanation: Explanation,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<G>,
}
