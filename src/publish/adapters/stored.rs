//! Stored events as the databases without arrays return them, compared here with the caller's events of the same ids.

use chrono::DateTime;
use serde::Deserialize;

use super::batch::Repeated;
use super::errors::unexpected;
use crate::error::PublishError;
use crate::event::{JsonText, OutboxEvent};
use crate::publish::ValidEvent;
use crate::store::{Written, first_difference_with_data};

/// The error for the first event that differs from its row.
pub(super) fn conflict(repeated: &Repeated<'_>, rows: &[String]) -> Option<PublishError> {
    rows.iter().find_map(|row| differs(repeated, row).unwrap_or_else(|reason| Some(unexpected(reason).into())))
}

fn differs(repeated: &Repeated<'_>, row: &str) -> Result<Option<PublishError>, String> {
    let stored: Stored = serde_json::from_str(row).map_err(|_| "a stored event cannot be read".to_owned())?;
    let place = stored.place;
    let given = repeated.given(place).ok_or("the comparison named an unknown event")?;
    let stored =
        stored.into_event(given).map_err(|reason| format!("the event {} cannot be read: {reason}", given.id))?;
    Ok(first_difference_with_data(given, &stored).and_then(|field| repeated.conflict(place, field)))
}

/// A row, as an object of JSON.
#[derive(Deserialize)]
struct Stored {
    place: usize,
    event_type: String,
    source: String,
    cloud_event_id: String,
    subject: String,
    data: Option<String>,
    /// In hexadecimal digits.
    data_binary: Option<String>,
    data_schema: String,
    data_content_type: String,
    extensions: String,
    partition_key: String,
    publisher_backend: String,
    publisher_config: String,
    created_at: i64,
    scheduled_at: i64,
    event_time: Option<i64>,
    max_retries: i32,
}

impl Stored {
    /// The stored event, as far as it is compared: its other values are those of a new event.
    fn into_event(self, given: &ValidEvent) -> Result<OutboxEvent, String> {
        let time = |column: &str, micros| {
            DateTime::from_timestamp_micros(micros).ok_or_else(|| format!("{column} is out of range"))
        };
        let object =
            |column: &str, text: &str| JsonText::checked_object(text).map_err(|problem| format!("{column} {problem}"));
        let created_at = time("created_at", self.created_at)?;
        let scheduled_at = time("scheduled_at", self.scheduled_at)?;
        let data = self.data.as_deref().map(JsonText::checked).transpose();
        Ok(OutboxEvent {
            event_type: self.event_type,
            source: self.source,
            cloud_event_id: self.cloud_event_id,
            subject: self.subject,
            data: data.map_err(|problem| format!("data {problem}"))?,
            data_binary: self.data_binary.as_deref().map(bytes).transpose()?,
            data_schema: self.data_schema,
            data_content_type: self.data_content_type,
            extensions: object("extensions", &self.extensions)?,
            partition_key: self.partition_key,
            publisher_backend: self.publisher_backend,
            publisher_config: object("publisher_config", &self.publisher_config)?,
            event_time: self.event_time.map(|micros| time("event_time", micros)).transpose()?,
            max_retries: self.max_retries,
            ..given.clone().stored(Written { id: given.id, created_at, scheduled_at, seq: 0 })
        })
    }
}

fn bytes(hex: &str) -> Result<Vec<u8>, String> {
    let byte = |digits: &[u8]| {
        let digits = std::str::from_utf8(digits).ok()?;
        u8::from_str_radix(digits, 16).ok()
    };
    let bytes: Option<_> = hex.as_bytes().chunks(2).map(byte).collect();
    bytes.ok_or_else(|| "data_binary is not a blob".to_owned())
}
