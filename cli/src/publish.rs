//! `outbox publish`

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use actix_outbox::NewEvent;
use actix_outbox::admin::OutboxAdmin;
use anyhow::Context;
use chrono::{DateTime, Utc};
use serde::de::IgnoredAny;
use uuid::Uuid;

use super::arguments::{self, Pair};
use super::exit::UsageError;
use super::{output, publish_batch, text_input};

/// Write an event, or a batch, into the outbox and print the ids.
///
/// A worker delivers an event when it is due. A repeated --id with the same content is the same event: nothing is written
/// twice. With other content it is an error.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox publish user.created --source user-service --data '{\"id\": 7}'
  outbox publish report.due --source cron --at 2030-01-31T06:00:00Z --data @report.json
  jq -c . order.json | outbox publish order.paid --source shop --key order-17 --data -
  outbox publish --batch events.jsonl

A batch is CloudEvents, one JSON object a line:
  {\"specversion\": \"1.0\", \"id\": \"a-1\", \"type\": \"user.created\", \"source\": \"user-service\", \
\"partitionkey\": \"user-7\", \"data\": {\"id\": 7}}
It is written in one transaction; if a line is invalid, the error names it and nothing is written.")]
pub(super) struct Args {
    #[command(flatten)]
    event: EventArgs,
    /// Publish the CloudEvents in this file, one JSON object a line, all or none; `-` reads stdin.
    #[arg(long, value_name = "FILE", conflicts_with = "EventArgs")]
    batch: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct EventArgs {
    /// The event's type, such as user.created.
    #[arg(value_name = "TYPE", required_unless_present = "batch")]
    event_type: Option<String>,
    /// The event's source, such as user-service.
    #[arg(long, value_name = "SOURCE", required_unless_present = "batch")]
    source: Option<String>,
    /// The data: JSON, or @FILE to read it from a file, or `-` to read it from stdin.
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    data: Option<String>,
    /// The event's subject: what in the source it is about.
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// The partition key: events with the same key keep their order.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// The publisher, by name [default: the worker's default publisher].
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// A CloudEvents extension attribute; may be repeated.
    #[arg(long = "extension", value_name = "NAME=VALUE", value_parser = arguments::pair)]
    extensions: Vec<Pair>,
    /// The data's media type [default: application/json].
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// An extra field of the stream entry; a JSON number is stored as a number. May be repeated.
    #[arg(long = "config-field", value_name = "NAME=VALUE", value_parser = arguments::pair)]
    config_fields: Vec<Pair>,
    /// When it happened, RFC 3339; the CloudEvent's time [default: when it is written].
    #[arg(long, value_name = "TIME", value_parser = arguments::time)]
    time: Option<DateTime<Utc>>,
    /// Not before this time, RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = arguments::time, conflicts_with = "delay")]
    at: Option<DateTime<Utc>>,
    /// Not before this much time has passed, such as 500ms, 5s, 10m or 7d.
    #[arg(long = "in", id = "delay", value_name = "TIME", value_parser = arguments::duration)]
    delay: Option<Duration>,
    /// Number of rejections after which the event is marked failed [default: `max_retries` under [worker], 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    max_retries: Option<i32>,
    /// The event's id [default: a new UUID of version 7].
    #[arg(long, value_name = "UUID", value_parser = arguments::id)]
    id: Option<Uuid>,
}

pub(super) async fn run(args: Args, admin: &OutboxAdmin) -> anyhow::Result<()> {
    if let Some(path) = args.batch {
        return publish_batch::run(&path, admin).await;
    }
    let event = admin.prepare(args.event.event()?)?;
    Ok(output::line(admin.publish(event).await?.id)?)
}

impl EventArgs {
    fn event(self) -> anyhow::Result<NewEvent> {
        // Both are present unless there is a batch; empty ones would be refused.
        let mut event = NewEvent::new(self.event_type.unwrap_or_default(), self.source.unwrap_or_default())
            .subject(self.subject.unwrap_or_default())
            .partition_key(self.key.unwrap_or_default())
            .backend(self.backend.unwrap_or_default());
        event = self.extensions.into_iter().fold(event, |event, pair| event.extension(pair.name, pair.value));
        event = self.config_fields.into_iter().fold(event, |event, pair| {
            let value = number_or_text(&pair.value);
            event.publisher_config(pair.name, value)
        });
        event = with(event, self.data.as_deref().map(json_data).transpose()?, NewEvent::data_json);
        event = with(event, self.content_type, NewEvent::content_type);
        event = with(event, self.time, NewEvent::time);
        event = with(event, self.at, NewEvent::scheduled_at);
        event = with(event, self.delay, NewEvent::scheduled_in);
        event = with(event, self.max_retries, NewEvent::max_retries);
        Ok(with(event, self.id, NewEvent::id))
    }
}

fn with<T>(event: NewEvent, value: Option<T>, set: impl FnOnce(NewEvent, T) -> NewEvent) -> NewEvent {
    match value {
        Some(value) => set(event, value),
        None => event,
    }
}

fn number_or_text(text: &str) -> serde_json::Value {
    match serde_json::from_str(text) {
        Ok(serde_json::Value::Number(number)) => number.into(),
        _ => text.into(),
    }
}

/// The JSON of `--data`, as its exact text.
fn json_data(argument: &str) -> anyhow::Result<String> {
    let (bytes, origin) = match (argument, argument.strip_prefix('@')) {
        ("-", _) => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).context("cannot read the data from stdin")?;
            (bytes, "stdin")
        }
        (_, Some(path)) => (std::fs::read(path).with_context(|| format!("cannot read the data from {path}"))?, path),
        _ => (argument.as_bytes().to_vec(), "the argument"),
    };
    let text = text_input::text(&bytes).map_err(|error| UsageError(format!("--data: {origin} {error}")))?;
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Ok(text.trim().to_owned()),
        Err(error) => Err(UsageError(format!("--data: {origin} is not valid JSON: {error}")).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_field_that_is_a_json_number_is_a_number() {
        for (text, value) in [
            ("5", serde_json::json!(5)),
            ("-1.5", serde_json::json!(-1.5)),
            ("05", serde_json::json!("05")),
            ("true", serde_json::json!("true")),
            ("", serde_json::json!("")),
        ] {
            assert_eq!(number_or_text(text), value);
        }
    }

    #[test]
    fn data_is_kept_as_the_text_it_is() {
        assert_eq!(json_data(" {\"b\": 1.50, \"a\": 1}\n").unwrap(), "{\"b\": 1.50, \"a\": 1}");
        let error = json_data("{oops").unwrap_err().to_string();
        assert!(error.starts_with("--data: the argument is not valid JSON: key must be a string"), "{error}");
    }
}
