//! Events: those that applications publish, and those that the outbox stores.

mod data;
mod json;
pub(crate) mod template;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

pub use data::{DataError, TypedEvent};

use crate::error::InvalidEvent;

/// The state of an event.
///
/// ```text
///             accepted, handled
///  pending ────────────────────────▶ published
///     │  ▲                               ▲
///     │  └── retried by an operator      │
///     │                  retries spent   │
///     ├─ rejected ─▶ retry ───────────┐  │
///     │                │  └───────────┼──┘
///     └─ rejected ─────┼──────────────▼
///        for good      └──────────▶ failed
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// Waits until it is due and the earlier events of its key are settled.
    Pending,
    /// Was sent, and handlers of other processes still have to answer; without `published_at`: set by another writer.
    Processing,
    /// Was rejected, or still has handlers to run; waits for `retry_at`.
    Retry,
    /// The backend has accepted the event and every handler has run.
    Published,
    /// Was rejected permanently, or as often as `max_retries` allows.
    Failed,
}

impl Status {
    /// Every status.
    pub(crate) const ALL: [Self; 5] = [Self::Pending, Self::Processing, Self::Retry, Self::Published, Self::Failed];

    /// The value of the table's column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Processing => "processing",
            Self::Retry => "retry",
            Self::Published => "published",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Status {
    type Err = InvalidEvent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| InvalidEvent::new("status", "is not one of pending, processing, retry, published, failed"))
    }
}

/// JSON as the database's text, parsed on demand only.
///
/// `Debug` prints the length only: payloads stay out of logs.
#[derive(Clone, PartialEq, Eq)]
pub struct JsonText(Cow<'static, str>);

impl JsonText {
    /// Wraps text that is known to be JSON: it came from a JSON column or a serializer.
    pub(crate) fn new(text: String) -> Self {
        Self(Cow::Owned(text))
    }

    pub(crate) fn empty_object() -> Self {
        Self(Cow::Borrowed("{}"))
    }

    /// Checks that text is JSON: only its writer could have ensured it.
    #[cfg(any(feature = "mysql", feature = "sqlite", feature = "_adapters"))]
    pub(crate) fn checked(text: &str) -> Result<Self, &'static str> {
        match serde_json::from_str::<&serde_json::value::RawValue>(text) {
            Ok(_) => Ok(Self::new(text.trim().to_owned())),
            Err(_) => Err("is not valid JSON"),
        }
    }

    /// Checks that text is a JSON object. JSON null, which Django writes for `None`, and an empty array, which PHP writes for
    /// an empty object, are read as an object without members.
    #[cfg(any(feature = "mysql", feature = "sqlite", feature = "_adapters"))]
    pub(crate) fn checked_object(text: &str) -> Result<Self, &'static str> {
        let json = Self::checked(text)?;
        match json.as_str() {
            "null" | "[]" => Ok(Self::empty_object()),
            text if text.starts_with('{') => Ok(json),
            _ => Err("is not a JSON object"),
        }
    }

    /// The JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Parses the text.
    ///
    /// # Errors
    /// If the JSON does not have the shape of `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(&self.0)
    }
}

impl fmt::Debug for JsonText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JsonText({} bytes)", self.0.len())
    }
}

/// A stored event; the fields are the table's columns.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxEvent {
    /// The event's own id; a UUID of version 7 if this library made it.
    pub id: Uuid,
    /// CloudEvents `specversion`.
    pub spec_version: String,
    /// CloudEvents `type`.
    pub event_type: String,
    /// CloudEvents `source`.
    pub source: String,
    /// CloudEvents `subject`; empty: none.
    pub subject: String,
    /// CloudEvents `datacontenttype`; empty: none.
    pub data_content_type: String,
    /// CloudEvents `dataschema`; empty: none.
    pub data_schema: String,
    /// CloudEvents `data`, if it is JSON.
    pub data: Option<JsonText>,
    /// CloudEvents `data_base64`, decoded.
    pub data_binary: Option<Vec<u8>>,
    /// The event's state.
    pub status: Status,
    /// When the event was written, by the database's clock.
    pub created_at: DateTime<Utc>,
    /// When the row was last changed.
    pub updated_at: DateTime<Utc>,
    /// The event is not sent before this time, which is also the first part of the order within a key.
    pub scheduled_at: DateTime<Utc>,
    /// When the backend's acceptance was recorded.
    pub published_at: Option<DateTime<Utc>>,
    /// The number of rejections by a backend or a handler.
    pub retry_count: i32,
    /// The event fails when `retry_count` reaches this; 0 means the same as 1.
    pub max_retries: i32,
    /// The reason of the last rejection; empty: none.
    pub last_error: String,
    /// The backend's name; empty: the worker's default backend.
    pub publisher_backend: String,
    /// A JSON object: extra fields of the stream entry.
    pub publisher_config: JsonText,
    /// The second part of the order within a key; a replay draws a new one. 0: none, as in events of django-broadcaster.
    pub seq: i64,
    /// When a `retry` is due.
    pub retry_at: Option<DateTime<Utc>>,
    /// Another producer's id that is not a UUID; empty: `id` is the CloudEvent's id.
    pub cloud_event_id: String,
    /// A JSON object: CloudEvents extension attributes.
    pub extensions: JsonText,
    /// CloudEvents `partitionkey`, the scope of order; empty: not ordered.
    pub partition_key: String,
    /// The local handlers that still have to run; `None`: all.
    pub pending_handlers: Option<Vec<String>>,
    /// The last ten failures with their times, a JSON array.
    pub errors: Option<JsonText>,
    /// CloudEvents `time`, if the producer gave one; else `created_at` is the event's time.
    pub event_time: Option<DateTime<Utc>>,
}

impl OutboxEvent {
    /// The CloudEvent's id: the producer's own id, or the row's.
    #[must_use]
    pub fn cloud_event_id(&self) -> String {
        if self.cloud_event_id.is_empty() { self.id.to_string() } else { self.cloud_event_id.clone() }
    }

    /// CloudEvents `time`: the producer's, or when the event was written.
    #[must_use]
    pub fn time(&self) -> DateTime<Utc> {
        self.event_time.unwrap_or(self.created_at)
    }

    /// The event as a CloudEvent 1.0 in the JSON format, as consumers of a stream receive it.
    #[must_use]
    pub fn to_cloud_event_json(&self) -> String {
        crate::cloud_event::to_json(self)
    }

    /// The attributes and extensions of the CloudEvent as texts, without `datacontenttype`: for the binary mode of a protocol,
    /// which has a place of its own for that.
    #[must_use]
    pub fn cloud_event_attributes(&self) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
        crate::cloud_event::attributes(self)
    }

    /// A text with its placeholders filled: `{type}`, `{source}`, `{key}` and `{backend}`. `{{type}}` becomes the text `{type}`;
    /// other braces stay.
    #[must_use]
    pub fn fill(&self, text: &str) -> String {
        template::fill(text, |filled, name| filled.push_str(template::value(name, self)))
    }

    /// The size in bytes of the event's variable-size parts, which `max_event_bytes` and `max_in_flight_bytes` limit.
    #[must_use]
    pub fn size(&self) -> usize {
        self.data.as_ref().map_or(0, |data| data.as_str().len())
            + self.data_binary.as_ref().map_or(0, Vec::len)
            + self.publisher_config.as_str().len()
            + self.extensions.as_str().len()
            + self.event_type.len()
            + self.source.len()
            + self.subject.len()
    }
}

/// Payload and configuration stay out of logs.
impl fmt::Debug for OutboxEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxEvent")
            .field("id", &self.id)
            .field("event_type", &self.event_type)
            .field("source", &self.source)
            .field("status", &self.status)
            .field("publisher_backend", &self.publisher_backend)
            .field("seq", &self.seq)
            .finish_non_exhaustive()
    }
}
