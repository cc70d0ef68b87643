//! `outbox events list`

use std::time::Duration;

use actix_outbox::admin::{EventFilter, ListRequest, OutboxAdmin, Unreadable};
use actix_outbox::{OutboxEvent, Status};
use serde::Serialize;

use crate::arguments::{self, Format};
use crate::output::{self, time};

const HEADER: &[&str] = &["ID", "TYPE", "STATUS", "BACKEND", "KEY", "SCHEDULED AT", "RETRIES", "LAST ERROR"];
const LONGEST_ERROR: usize = 60;

/// Events in one request.
const PAGE: usize = 1_000;

/// List events, newest first.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox events list --status failed
  outbox events list --type user.created --key user-7 --limit 5
  outbox events list --format json | jq -r '.[].id'")]
pub(crate) struct Args {
    /// Only events in this status: pending, processing, retry, published or failed.
    #[arg(long, value_name = "STATUS", value_parser = arguments::status)]
    status: Option<Status>,
    /// Only events of this type.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only events with this `publisher_backend`.
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Only events with this partition key.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// At most this many events.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// A table, or JSON (an array; the keys are the columns of `outbox_events`).
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(crate) async fn run(args: Args, admin: &OutboxAdmin) -> anyhow::Result<()> {
    let Args { status, event_type, backend, key, limit, format } = args;
    let filter =
        EventFilter { statuses: status.into_iter().collect(), event_type, backend, key, ..EventFilter::default() };
    let (limit, mut events, mut after) = (usize::try_from(limit)?, Vec::new(), None);
    loop {
        let request = ListRequest {
            after,
            limit: PAGE.min(limit - events.len()),
            scan_time: Duration::MAX,
            with_data: format == Format::Json,
            ..ListRequest::default()
        };
        let page = admin.list(&filter, &request).await?;
        events.extend(page.events);
        after = page.next;
        if after.is_none() || events.len() >= limit {
            break;
        }
    }
    match format {
        Format::Json => output::json(&events.iter().map(Listed::from).collect::<Vec<_>>()),
        Format::Table => Ok(output::table(HEADER, events.iter().map(cells))?),
    }
}

/// A row in JSON.
#[derive(Serialize)]
#[serde(untagged)]
enum Listed<'a> {
    Event(&'a OutboxEvent),
    Unreadable { id: String, unreadable: &'a str },
}

impl<'a> From<&'a Result<OutboxEvent, Unreadable>> for Listed<'a> {
    fn from(event: &'a Result<OutboxEvent, Unreadable>) -> Self {
        match event {
            Ok(event) => Self::Event(event),
            Err(Unreadable { id, reason, .. }) => Self::Unreadable { id: id.to_string(), unreadable: reason },
        }
    }
}

fn cells(event: &Result<OutboxEvent, Unreadable>) -> Vec<String> {
    let event = match event {
        Ok(event) => event,
        Err(Unreadable { id, reason, .. }) => {
            let mut cells = vec![String::new(); HEADER.len()];
            cells[0] = id.to_string();
            cells[HEADER.len() - 1] = format!("cannot be read: {}", output::shortened(reason, LONGEST_ERROR));
            return cells;
        }
    };
    vec![
        event.id.to_string(),
        output::printable(&event.event_type),
        event.status.to_string(),
        output::printable(&event.publisher_backend),
        output::printable(&event.partition_key),
        time(event.scheduled_at),
        format!("{}/{}", event.retry_count, event.max_retries),
        output::shortened(&event.last_error, LONGEST_ERROR),
    ]
}
