//! `outbox events show`

use actix_outbox::admin::OutboxAdmin;
use actix_outbox::{JsonText, OutboxEvent};
use uuid::Uuid;

use crate::arguments::{self, Format};
use crate::output::{self, time};

/// Show all columns of one event.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox events show 0197a3b2-0000-7000-8000-000000000001
  outbox events show 0197a3b2-0000-7000-8000-000000000001 --format json | jq .data")]
pub(crate) struct Args {
    /// The event's id.
    #[arg(value_name = "ID", value_parser = arguments::id)]
    id: Uuid,
    /// A list, or JSON (an object; the keys are the columns of `outbox_events`).
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(crate) async fn run(args: &Args, admin: &OutboxAdmin) -> anyhow::Result<()> {
    let event = admin.get(args.id).await?;
    match args.format {
        Format::Json => output::json(&event),
        Format::Table => Ok(output::line(list(&event))?),
    }
}

/// A line for each column that is not empty, in the table's order.
fn list(event: &OutboxEvent) -> String {
    let columns = columns(event);
    let shown: Vec<_> = columns.iter().filter(|(_, text)| !text.is_empty() && text != "{}").collect();
    let width = shown.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let indent = format!("\n{:width$}  ", "");
    let line = |(name, text): &&(&str, String)| format!("{name:width$}  {}", printable_lines(text, &indent));
    shown.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn columns(event: &OutboxEvent) -> [(&'static str, String); 27] {
    let json = |text: &JsonText| text.as_str().to_owned();
    [
        ("id", event.id.to_string()),
        ("spec_version", event.spec_version.clone()),
        ("event_type", event.event_type.clone()),
        ("source", event.source.clone()),
        ("subject", event.subject.clone()),
        ("data_content_type", event.data_content_type.clone()),
        ("data_schema", event.data_schema.clone()),
        ("data", event.data.as_ref().map(json).unwrap_or_default()),
        ("status", event.status.to_string()),
        ("created_at", time(event.created_at)),
        ("updated_at", time(event.updated_at)),
        ("scheduled_at", time(event.scheduled_at)),
        ("published_at", event.published_at.map(time).unwrap_or_default()),
        ("retry_count", event.retry_count.to_string()),
        ("max_retries", event.max_retries.to_string()),
        ("last_error", event.last_error.clone()),
        ("publisher_backend", event.publisher_backend.clone()),
        ("publisher_config", json(&event.publisher_config)),
        ("seq", event.seq.to_string()),
        ("retry_at", event.retry_at.map(time).unwrap_or_default()),
        ("cloud_event_id", event.cloud_event_id.clone()),
        ("extensions", json(&event.extensions)),
        ("partition_key", event.partition_key.clone()),
        ("data_binary", event.data_binary.as_ref().map(|bytes| format!("{} bytes", bytes.len())).unwrap_or_default()),
        ("pending_handlers", event.pending_handlers.as_ref().map(|names| names.join(", ")).unwrap_or_default()),
        ("errors", event.errors.as_ref().map(json).unwrap_or_default()),
        ("event_time", event.event_time.map(time).unwrap_or_default()),
    ]
}

/// Each line by itself: an error may have several.
fn printable_lines(text: &str, indent: &str) -> String {
    text.split('\n').map(output::printable).collect::<Vec<_>>().join(indent)
}
