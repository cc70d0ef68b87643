//! An event as JSON: the keys are the table's columns.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::{JsonText, OutboxEvent, Status};

/// The keys are the table's columns; binary data is base64, and times are RFC 3339 in UTC with microseconds.
impl Serialize for OutboxEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        EventJson::from(self).serialize(serializer)
    }
}

#[derive(Debug, Serialize)]
struct EventJson<'a> {
    id: String,
    spec_version: &'a str,
    event_type: &'a str,
    source: &'a str,
    subject: &'a str,
    data_content_type: &'a str,
    data_schema: &'a str,
    data: Option<Json<'a>>,
    status: Status,
    created_at: String,
    updated_at: String,
    scheduled_at: String,
    published_at: Option<String>,
    retry_count: i32,
    max_retries: i32,
    last_error: &'a str,
    publisher_backend: &'a str,
    publisher_config: Json<'a>,
    seq: i64,
    retry_at: Option<String>,
    cloud_event_id: &'a str,
    extensions: Json<'a>,
    partition_key: &'a str,
    data_binary: Option<String>,
    pending_handlers: Option<&'a [String]>,
    errors: Option<Json<'a>>,
    event_time: Option<String>,
}

/// The unchanged text of a JSON column, so that no number changes; a JSON string if it is not valid JSON.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Json<'a> {
    Valid(&'a RawValue),
    Broken(&'a str),
}

impl<'a> From<&'a JsonText> for Json<'a> {
    fn from(text: &'a JsonText) -> Self {
        serde_json::from_str(text.as_str()).map_or(Self::Broken(text.as_str()), Self::Valid)
    }
}

impl<'a> From<&'a OutboxEvent> for EventJson<'a> {
    fn from(event: &'a OutboxEvent) -> Self {
        Self {
            id: event.id.to_string(),
            spec_version: &event.spec_version,
            event_type: &event.event_type,
            source: &event.source,
            subject: &event.subject,
            data_content_type: &event.data_content_type,
            data_schema: &event.data_schema,
            data: event.data.as_ref().map(Json::from),
            status: event.status,
            created_at: time(event.created_at),
            updated_at: time(event.updated_at),
            scheduled_at: time(event.scheduled_at),
            published_at: event.published_at.map(time),
            retry_count: event.retry_count,
            max_retries: event.max_retries,
            last_error: &event.last_error,
            publisher_backend: &event.publisher_backend,
            publisher_config: (&event.publisher_config).into(),
            seq: event.seq,
            retry_at: event.retry_at.map(time),
            cloud_event_id: &event.cloud_event_id,
            extensions: (&event.extensions).into(),
            partition_key: &event.partition_key,
            data_binary: event.data_binary.as_ref().map(|bytes| BASE64_STANDARD.encode(bytes)),
            pending_handlers: event.pending_handlers.as_deref(),
            errors: event.errors.as_ref().map(Json::from),
            event_time: event.event_time.map(time),
        }
    }
}

/// RFC 3339 in UTC with microseconds.
fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}
