//! The statements for SQLite 3.41 or later. A batch is an array of JSON, so that one statement of constant text writes it.

use chrono::DateTime;
use serde::Deserialize;

use super::batch::{Batch, Repeated};
use super::errors::unexpected;
use super::write::Statement;
use crate::error::PublishError;
use crate::event::{JsonText, OutboxEvent};
use crate::publish::ValidEvent;
use crate::publish::prepared::unless_taken;
use crate::store::{Written, first_difference_with_data};

/// Writes the events of an array of arrays of texts, except those whose id is in use, and returns the ids written, in their
/// order.
///
/// SQLite reads its clock once per statement. Without `WHERE`, ON would begin a join's condition.
const INSERT: &str = "INSERT INTO outbox_events (id, spec_version, event_type, source, subject, data_content_type, \
    data_schema, data, data_binary, status, created_at, updated_at, scheduled_at, retry_count, max_retries, last_error, \
    publisher_backend, publisher_config, cloud_event_id, extensions, partition_key, event_time) \
    SELECT unhex(replace(n.value ->> 0, '-', '')), '1.0', n.value ->> 1, n.value ->> 2, n.value ->> 3, n.value ->> 4, \
    n.value ->> 5, n.value ->> 6, unhex(n.value ->> 7), 'pending', clock.now, clock.now, \
    coalesce(CAST(strftime('%s', substr(n.value ->> 8, 1, 19)) AS INTEGER) * 1000000 \
        + CAST(substr(n.value ->> 8, 21, 6) AS INTEGER), clock.now + CAST(n.value ->> 9 AS INTEGER)), \
    0, CAST(n.value ->> 11 AS INTEGER), '', n.value ->> 12, n.value ->> 13, n.value ->> 14, n.value ->> 15, n.value ->> 16, \
    CAST(strftime('%s', substr(n.value ->> 10, 1, 19)) AS INTEGER) * 1000000 + CAST(substr(n.value ->> 10, 21, 6) AS INTEGER) \
    FROM (SELECT CAST(strftime('%s', 'now') AS INTEGER) * 1000000 + \
        CAST(substr(strftime('%f', 'now'), 4) AS INTEGER) * 1000 AS now) AS clock \
    CROSS JOIN json_each(?1) AS n WHERE true ORDER BY n.key ON CONFLICT (id) DO NOTHING RETURNING lower(hex(id))";

/// Returns what is compared of the events of an array of ids, each with its place in the array.
const READ: &str = "SELECT json_object('place', n.key, 'event_type', e.event_type, 'source', e.source, \
    'cloud_event_id', e.cloud_event_id, 'subject', e.subject, 'data', e.data, 'data_binary', hex(e.data_binary), \
    'has_binary', iif(e.data_binary IS NULL, json('false'), json('true')), 'data_schema', e.data_schema, \
    'data_content_type', e.data_content_type, 'extensions', e.extensions, 'partition_key', e.partition_key, \
    'publisher_backend', e.publisher_backend, 'publisher_config', e.publisher_config, 'created_at', e.created_at, \
    'scheduled_at', e.scheduled_at, 'event_time', e.event_time, 'max_retries', e.max_retries) \
    FROM json_each(?1) AS n JOIN outbox_events e ON e.id = unhex(n.value) ORDER BY n.key";

pub(super) fn insert(batch: &Batch) -> Statement {
    match batch.events() {
        [only] => Statement { sql: unless_taken::SQLITE, params: only.prepared.params().to_vec() },
        events => {
            let events: Vec<_> = events.iter().map(|event| event.prepared.params()).collect();
            Statement { sql: INSERT, params: vec![serde_json::to_string(&events).ok()] }
        }
    }
}

pub(super) fn read(repeated: &Repeated<'_>) -> Statement {
    let ids: Vec<String> = repeated.ids().map(|id| id.simple().to_string()).collect();
    Statement { sql: READ, params: vec![serde_json::to_string(&ids).ok()] }
}

/// The error for the first event that differs from its row of [`read`].
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

/// A row of [`READ`].
#[derive(Deserialize)]
struct Stored {
    place: usize,
    event_type: String,
    source: String,
    cloud_event_id: String,
    subject: String,
    data: Option<String>,
    /// In hexadecimal digits; empty for no bytes and for NULL.
    data_binary: String,
    has_binary: bool,
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
            data_binary: self.has_binary.then(|| bytes(&self.data_binary)).transpose()?,
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
