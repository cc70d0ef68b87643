//! The entries in Redis' replies.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use redis::{Value, from_redis_value};

use crate::backend::event_source::{Content, EntryId, EntryRef, Received};
use crate::event::OutboxEvent;

/// The entries of each stream, in the reply of a read.
pub(super) fn by_stream(reply: Value) -> Result<Vec<(String, Vec<Value>)>, String> {
    if reply == Value::Nil {
        return Ok(Vec::new());
    }
    let streams: Result<Vec<(String, Vec<Value>)>, _> = from_redis_value(reply);
    streams.map_err(|error| format!("Redis: an answer to a read that cannot be read: {error}"))
}

/// New entries of a stream.
pub(super) fn new(stream: usize, name: &str, entries: Vec<Value>) -> Vec<Received> {
    let received = |entry: Value| {
        let Value::Array(parts) = entry else { return None };
        let [id, fields]: [Value; 2] = parts.try_into().ok()?;
        let id: String = from_redis_value(id).ok()?;
        received(EntryRef { stream, id: id.parse().ok()? }, name, 1, false, fields)
    };
    entries.into_iter().filter_map(received).collect()
}

/// Entries that were claimed, with their deliveries. Those that were trimmed are reported, and acknowledged already.
pub(super) fn claimed(stream: usize, name: &str, left: Vec<(String, u32, Value)>) -> Vec<Received> {
    let received = |(id, deliveries, fields): (String, u32, Value)| {
        received(EntryRef { stream, id: id.parse().ok()? }, name, deliveries, true, fields)
    };
    left.into_iter().filter_map(received).collect()
}

fn received(entry: EntryRef, name: &str, deliveries: u32, is_claimed: bool, fields: Value) -> Option<Received> {
    let Content { bytes, event } = content(entry.id, name, fields)?;
    Some(Received { entry, deliveries, is_claimed, lease: None, bytes, event })
}

/// What is in an entry; `None` if Redis answers with nothing in place of its fields: it was trimmed. Fields that are there may be
/// empty.
pub(super) fn content(id: EntryId, name: &str, fields: Value) -> Option<Content> {
    if !matches!(fields, Value::Array(_) | Value::Map(_)) {
        tracing::warn!(stream = name, entry = %id, "an entry was trimmed before it was handled");
        crate::metrics::consumer_trimmed(name);
        return None;
    }
    let mut pairs = Pairs::default();
    pairs.read(fields);
    Some(Content { bytes: pairs.bytes, event: pairs.event(id).map(Arc::new) })
}

/// The event in an entry that is not delivered.
pub(super) fn event(id: EntryId, fields: Vec<(Vec<u8>, Value)>) -> Result<Arc<OutboxEvent>, String> {
    let mut pairs = Pairs::default();
    pairs.read(Value::Array(fields.into_iter().flat_map(|(name, value)| [Value::BulkString(name), value]).collect()));
    pairs.event(id).map(Arc::new)
}

/// What an event is made of.
#[derive(Default)]
struct Pairs {
    cloud_event: Option<Vec<u8>>,
    seq: Option<Vec<u8>>,
    timestamp: Option<Vec<u8>>,
    /// The size of all fields.
    bytes: usize,
}

impl Pairs {
    fn read(&mut self, fields: Value) {
        let texts: Vec<Value> = match fields {
            Value::Array(texts) => texts,
            Value::Map(pairs) => pairs.into_iter().flat_map(|(name, value)| [name, value]).collect(),
            _ => return,
        };
        let mut texts = texts.into_iter();
        while let (Some(Value::BulkString(name)), Some(Value::BulkString(value))) = (texts.next(), texts.next()) {
            self.bytes += name.len() + value.len();
            match name.as_slice() {
                b"cloud_event" => self.cloud_event = Some(value),
                b"seq" => self.seq = Some(value),
                b"timestamp" => self.timestamp = Some(value),
                _ => {}
            }
        }
    }

    /// Without a `timestamp` the event was written when the entry was added.
    fn event(self, id: EntryId) -> Result<OutboxEvent, String> {
        let json = self.cloud_event.ok_or("the entry has no field `cloud_event`")?;
        let json = str::from_utf8(&json).map_err(|_| "its CloudEvent is not valid UTF-8")?;
        let seq = self.seq.and_then(|seq| str::from_utf8(&seq).ok()?.parse().ok()).unwrap_or(0);
        let written = self.timestamp.and_then(|time| DateTime::parse_from_rfc3339(str::from_utf8(&time).ok()?).ok());
        let added = || DateTime::from_timestamp_millis(i64::try_from(id.millis).ok()?);
        let written: DateTime<Utc> = written.map(|time| time.to_utc()).or_else(added).unwrap_or_default();
        OutboxEvent::from_stream(json, seq, written)
    }
}
