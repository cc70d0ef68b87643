//! Validation rules for events: those of CloudEvents 1.0.2 and the limits of the outbox table.

use std::time::Duration;

use chrono::{DateTime, Datelike, Utc};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::jsonb_limits;
use super::new_event::{DEFAULT_MAX_EVENT_BYTES, NewEvent, Schedule};
use crate::cloud_event::{RESERVED_NAMES, derived_id};
use crate::error::InvalidEvent;
use crate::opaque_debug::opaque_debug;

const MAX_TEXT: usize = 255;
const MAX_CONTENT_TYPE: usize = 100;
const MAX_SCHEMA: usize = 200;
const MAX_BACKEND: usize = 100;
const MAX_CONFIG_PAIRS: usize = 100;
const MAX_DELAY: Duration = Duration::from_secs(1000 * 31_556_952);
/// The range of Python's datetime, which is smaller than that of the databases.
const YEARS: std::ops::RangeInclusive<i32> = 1..=9999;

/// An event that passes every rule, as the columns of its row.
#[derive(Clone, PartialEq, Eq)]
pub struct ValidEvent {
    pub(crate) id: Uuid,
    /// The id was just generated, so no other event can have it.
    pub(crate) is_new: bool,
    pub(crate) event_type: String,
    pub(crate) source: String,
    pub(crate) subject: String,
    pub(crate) data_content_type: String,
    pub(crate) data_schema: String,
    pub(crate) data: Option<String>,
    pub(crate) data_binary: Option<Vec<u8>>,
    /// Microseconds since 1970. `None`: `delay_micros` after the database's current time.
    pub(crate) scheduled_micros: Option<i64>,
    pub(crate) delay_micros: i64,
    /// The producer's time in microseconds since 1970.
    pub(crate) event_micros: Option<i64>,
    pub(crate) max_retries: i32,
    /// The caller gave a value.
    pub(crate) chose_max_retries: bool,
    /// The caller named the backend.
    pub(crate) chose_backend: bool,
    pub(crate) publisher_backend: String,
    /// A JSON object.
    pub(crate) publisher_config: String,
    pub(crate) cloud_event_id: String,
    /// A JSON object.
    pub(crate) extensions: String,
    pub(crate) partition_key: String,
}

opaque_debug!(ValidEvent);

impl NewEvent {
    /// The row's id: the one given, or the one derived from another producer's id, or a new one.
    pub(super) fn row_id(&self) -> Uuid {
        let derived = || self.cloud_event_id.as_ref().map(|id| derived_id(&self.source, id));
        self.id.or_else(derived).unwrap_or_else(Uuid::now_v7)
    }

    /// Checks every rule without changing anything.
    pub(crate) fn check(&self) -> Result<(), InvalidEvent> {
        required("event_type", &self.event_type)?;
        required("source", &self.source)?;
        attribute("subject", &self.subject, MAX_TEXT)?;
        attribute("partition_key", &self.partition_key, MAX_TEXT)?;
        self.cloud_event_id.as_ref().map_or(Ok(()), |id| required("cloud_event_id", id))?;
        attribute("data_content_type", self.data_content_type.as_deref().unwrap_or_default(), MAX_CONTENT_TYPE)?;
        self.data_schema.as_deref().map_or(Ok(()), schema)?;
        check_backend(&self.publisher_backend)?;
        schedule(self.schedule)?;
        self.time.map_or(Ok(()), |time| year("time", time))?;
        if self.max_retries.is_some_and(|times| times < 0) {
            return Err(InvalidEvent::new("max_retries", format!("is negative; it can be 0 to {}", i32::MAX)));
        }
        for (name, value) in &self.extensions {
            extension(name, value)?;
        }
        config(&self.publisher_config)?;
        let data = self.data_size()?;
        self.fits(data)
    }

    fn data_size(&self) -> Result<usize, InvalidEvent> {
        match (&self.data, &self.data_binary) {
            (Some(_), Some(_)) => Err(InvalidEvent::new("data", "is both JSON and binary; it can be one of them")),
            (Some(Err(problem)), None) => {
                Err(InvalidEvent::new("data", format!("cannot be written as JSON: {problem}")))
            }
            (Some(Ok(text)), None) => jsonb_limits::check(text).map_err(|problem| InvalidEvent::new("data", problem)),
            (None, Some(bytes)) => Ok(bytes.len()),
            (None, None) => Ok(0),
        }
    }

    /// The approximate size in memory in bytes.
    pub(crate) fn size(&self) -> usize {
        let json = self.data.as_ref().and_then(|data| data.as_ref().ok()).map_or(0, String::len);
        json + self.data_binary.as_ref().map_or(0, Vec::len) + self.attributes_size()
    }

    fn attributes_size(&self) -> usize {
        let attributes = self.event_type.len() + self.source.len() + self.subject.len();
        attributes + pairs_size(&self.publisher_config) + pairs_size(&self.extensions)
    }

    fn fits(&self, data: usize) -> Result<(), InvalidEvent> {
        let limit = self.max_bytes.unwrap_or(DEFAULT_MAX_EVENT_BYTES);
        let size = data + self.attributes_size();
        if size > limit {
            return Err(InvalidEvent::new("data", format!("makes the event {size} bytes large; the limit is {limit}")));
        }
        Ok(())
    }

    /// Checks every rule and converts the event to the columns of its row.
    pub(crate) fn into_valid(self) -> Result<ValidEvent, InvalidEvent> {
        let mut this = self.in_current_trace();
        if let Some(trace) = this.trace.take() {
            trace.add_to(&mut this.extensions);
        }
        this.into_columns()
    }

    fn into_columns(self) -> Result<ValidEvent, InvalidEvent> {
        self.check()?;
        let is_new = self.id.is_none() && self.cloud_event_id.is_none();
        let id = self.row_id();
        let default_type = if self.data_binary.is_some() { "application/octet-stream" } else { "application/json" };
        let (scheduled_micros, delay) = match self.schedule {
            Schedule::At(time) => (Some(time.timestamp_micros()), Duration::ZERO),
            Schedule::In(delay) => (None, delay),
        };
        // Not stored if it equals the row's id.
        let cloud_event_id = self.cloud_event_id.filter(|text| *text != id.to_string());
        Ok(ValidEvent {
            id,
            is_new,
            event_type: self.event_type,
            source: self.source,
            subject: self.subject,
            data_content_type: self.data_content_type.unwrap_or_else(|| default_type.to_owned()),
            data_schema: self.data_schema.unwrap_or_default(),
            data: self.data.and_then(Result::ok).filter(|text| text.trim() != "null"),
            data_binary: self.data_binary,
            scheduled_micros,
            delay_micros: i64::try_from(delay.as_micros()).unwrap_or(i64::MAX),
            event_micros: self.time.map(|time| time.timestamp_micros()),
            max_retries: self.max_retries.unwrap_or(self.default_max_retries),
            chose_max_retries: self.max_retries.is_some(),
            chose_backend: !self.publisher_backend.is_empty() && !self.is_routed,
            publisher_backend: self.publisher_backend,
            publisher_config: object(self.publisher_config),
            cloud_event_id: cloud_event_id.unwrap_or_default(),
            extensions: object(self.extensions),
            partition_key: self.partition_key,
        })
    }
}

fn required(field: &str, value: &str) -> Result<(), InvalidEvent> {
    if value.is_empty() {
        return Err(InvalidEvent::new(field, format!("is empty; it must have 1 to {MAX_TEXT} characters")));
    }
    attribute(field, value, MAX_TEXT)
}

fn attribute(field: &str, value: &str, limit: usize) -> Result<(), InvalidEvent> {
    let length = value.chars().count();
    if length > limit {
        return Err(InvalidEvent::new(field, format!("is {length} characters long; the limit is {limit}")));
    }
    string(value).map_err(|problem| InvalidEvent::new(field, problem))
}

/// Checks a value of the CloudEvents type String.
fn string(value: &str) -> Result<(), &'static str> {
    let is_noncharacter = |c: char| matches!(c, '\u{FDD0}'..='\u{FDEF}') || u32::from(c) & 0xFFFE == 0xFFFE;
    if value.chars().any(char::is_control) {
        return Err("contains a control character, which CloudEvents does not allow");
    }
    if value.chars().any(is_noncharacter) {
        return Err("contains a Unicode noncharacter, which CloudEvents does not allow");
    }
    Ok(())
}

fn schema(uri: &str) -> Result<(), InvalidEvent> {
    attribute("data_schema", uri, MAX_SCHEMA)?;
    match url::Url::parse(uri) {
        Ok(_) if !uri.contains(char::is_whitespace) => Ok(()),
        _ => Err(InvalidEvent::new("data_schema", "is not an absolute URI such as `https://example.com/schema.json`")),
    }
}

/// Checks that events can have this `publisher_backend`.
pub(crate) fn check_backend(name: &str) -> Result<(), InvalidEvent> {
    attribute("publisher_backend", name, MAX_BACKEND)?;
    if name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-')) {
        return Ok(());
    }
    Err(InvalidEvent::new("publisher_backend", "contains a character other than a-z, 0-9, `_`, `.` and `-`"))
}

fn year(field: &str, time: DateTime<Utc>) -> Result<(), InvalidEvent> {
    // As it is stored: a leap second is the first second of the next minute.
    let stored = DateTime::from_timestamp_micros(time.timestamp_micros());
    if stored.is_some_and(|time| YEARS.contains(&time.year())) {
        return Ok(());
    }
    Err(InvalidEvent::new(field, "is out of range; it can be in the years 1 to 9999"))
}

fn schedule(schedule: Schedule) -> Result<(), InvalidEvent> {
    match schedule {
        Schedule::At(time) => year("scheduled_at", time),
        Schedule::In(delay) if delay > MAX_DELAY => {
            Err(InvalidEvent::new("scheduled_at", "is too far ahead; the limit is 1000 years"))
        }
        Schedule::In(_) => Ok(()),
    }
}

fn extension(name: &str, value: &Value) -> Result<(), InvalidEvent> {
    let refuse = |problem: &str| Err(InvalidEvent::new(format!("extensions.{}", escape_for_message(name)), problem));
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return refuse("has a name that is not lower-case ASCII letters and digits, at least one");
    }
    if RESERVED_NAMES.contains(&name) {
        return refuse("has a name that CloudEvents reserves");
    }
    if name == "partitionkey" {
        return refuse("is set by `partition_key`");
    }
    match value {
        Value::String(text) => string(text).or_else(refuse),
        Value::Bool(_) => Ok(()),
        Value::Number(number) if number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()) => Ok(()),
        _ => refuse("is not a string, a boolean or a 32-bit integer"),
    }
}

fn config(pairs: &[(String, Value)]) -> Result<(), InvalidEvent> {
    if pairs.len() > MAX_CONFIG_PAIRS {
        let problem = format!("has {} fields; the limit is {MAX_CONFIG_PAIRS}", pairs.len());
        return Err(InvalidEvent::new("publisher_config", problem));
    }
    for (name, value) in pairs {
        let refuse =
            |problem| Err(InvalidEvent::new(format!("publisher_config.{}", escape_for_message(name)), problem));
        let text = match value {
            Value::String(text) => text.as_str(),
            Value::Number(_) => "",
            _ => return refuse("is neither a string nor a number"),
        };
        if name.is_empty() {
            return refuse("has an empty name");
        }
        if name == "seq" {
            return refuse("is a field that the outbox sets");
        }
        if name.contains('\0') || text.contains('\0') {
            return refuse("contains U+0000, which databases cannot store");
        }
    }
    Ok(())
}

/// A name, shortened and escaped for a message.
pub(crate) fn escape_for_message(name: &str) -> String {
    name.chars().take(40).flat_map(char::escape_default).collect()
}

/// The approximate size in bytes of the JSON object of these pairs.
fn pairs_size(pairs: &[(String, Value)]) -> usize {
    let value_size = |value: &Value| value.as_str().map_or_else(|| value.to_string().len(), str::len);
    2 + pairs.iter().map(|(name, value)| name.len() + value_size(value) + 8).sum::<usize>()
}

fn object(pairs: Vec<(String, Value)>) -> String {
    Value::Object(pairs.into_iter().collect::<Map<_, _>>()).to_string()
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
