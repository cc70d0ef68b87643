//! Events as CloudEvents in the JSON format, as other systems receive them.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, Datelike, Timelike, Utc};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::attributes::{RESERVED_NAMES, object_pairs};
use crate::event::{JsonText, OutboxEvent};

/// The event as a CloudEvent: compact JSON in django-broadcaster's order; `data` is the database's unchanged text.
pub(crate) fn to_json(event: &OutboxEvent) -> String {
    let mut out = String::with_capacity(320 + event.size() + event.data_binary.as_ref().map_or(0, Vec::len) / 3);
    out.push_str("{\"specversion\":");
    push_string(&mut out, &event.spec_version);
    push_attribute(&mut out, "type", &event.event_type);
    push_attribute(&mut out, "source", &event.source);
    if event.cloud_event_id.is_empty() {
        push_attribute(&mut out, "id", event.id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
    } else {
        push_attribute(&mut out, "id", &event.cloud_event_id);
    }
    out.push_str(",\"time\":\"");
    push_isoformat(&mut out, event.time());
    out.push('"');
    push_optional(&mut out, "subject", &event.subject);
    push_optional(&mut out, "datacontenttype", &event.data_content_type);
    push_optional(&mut out, "dataschema", &event.data_schema);
    push_optional(&mut out, "partitionkey", &event.partition_key);
    push_extensions(&mut out, event);
    push_data(&mut out, event);
    out.push('}');
    out
}

/// The attributes and extensions of the CloudEvent as texts, without what describes its data's form: for protocol bindings
/// that have a place of their own for that.
pub(crate) fn attributes(event: &OutboxEvent) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    let id = match event.cloud_event_id.as_str() {
        "" => Cow::Owned(event.id.to_string()),
        id => Cow::Borrowed(id),
    };
    let mut time = String::with_capacity(32);
    push_isoformat(&mut time, event.time());
    let own: [(&str, Cow<'_, str>); 8] = [
        ("specversion", Cow::Borrowed(&event.spec_version)),
        ("type", Cow::Borrowed(&event.event_type)),
        ("source", Cow::Borrowed(&event.source)),
        ("id", id),
        ("time", Cow::Owned(time)),
        ("subject", Cow::Borrowed(&event.subject)),
        ("dataschema", Cow::Borrowed(&event.data_schema)),
        ("partitionkey", Cow::Borrowed(&event.partition_key)),
    ];
    let own = own.into_iter().filter(|(_, value)| !value.is_empty());
    let mut all: Vec<_> = own.map(|(name, value)| (Cow::Borrowed(name), value)).collect();
    for (name, value) in extensions(event) {
        let value = match serde_json::from_str::<String>(value.get()) {
            Ok(text) => Cow::Owned(text),
            Err(_) => Cow::Borrowed(value.get()),
        };
        all.push((name, value));
    }
    all
}

fn push_data(out: &mut String, event: &OutboxEvent) {
    match event.data.as_ref().map(JsonText::as_str) {
        Some(data) if data != "null" => {
            out.push_str(",\"data\":");
            out.push_str(data);
        }
        _ => {
            if let Some(bytes) = &event.data_binary {
                out.push_str(",\"data_base64\":\"");
                BASE64_STANDARD.encode_string(bytes, out);
                out.push('"');
            }
        }
    }
}

fn push_extensions(out: &mut String, event: &OutboxEvent) {
    for (name, value) in extensions(event) {
        out.push(',');
        push_string(out, &name);
        out.push(':');
        out.push_str(value.get());
    }
}

/// The extensions, without those whose names another attribute has.
fn extensions(event: &OutboxEvent) -> impl Iterator<Item = (Cow<'_, str>, &RawValue)> {
    let pairs = object_pairs(event.extensions.as_str()).unwrap_or_default().into_iter();
    pairs.filter(|(name, _)| {
        let is_written =
            RESERVED_NAMES.contains(&name.as_ref()) || (name == "partitionkey" && !event.partition_key.is_empty());
        !is_written
    })
}

fn push_optional(out: &mut String, name: &str, value: &str) {
    if !value.is_empty() {
        push_attribute(out, name, value);
    }
}

fn push_attribute(out: &mut String, name: &str, value: &str) {
    out.push_str(",\"");
    out.push_str(name);
    out.push_str("\":");
    push_string(out, value);
}

pub(super) fn push_string(out: &mut String, value: &str) {
    if value.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        out.push('"');
        out.push_str(value);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(value).to_string());
    }
}

/// A time as Python's `datetime.isoformat()` writes it in UTC: without a fraction if it is zero.
pub(crate) fn push_isoformat(out: &mut String, time: DateTime<Utc>) {
    use fmt::Write;
    let (date, clock) = (time.date_naive(), time.time());
    // Writing to a String cannot fail.
    let _ = write!(out, "{:04}-", date.year());
    push_two(out, date.month());
    out.push('-');
    push_two(out, date.day());
    out.push('T');
    push_two(out, clock.hour());
    out.push(':');
    push_two(out, clock.minute());
    out.push(':');
    push_two(out, clock.second());
    // The nanoseconds of a leap second continue those of the second before.
    let micros = clock.nanosecond() % 1_000_000_000 / 1_000;
    if micros != 0 {
        let _ = write!(out, ".{micros:06}");
    }
    out.push_str("+00:00");
}

fn push_two(out: &mut String, number: u32) {
    out.extend([number / 10, number % 10].iter().filter_map(|digit| char::from_digit(*digit, 10)));
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
