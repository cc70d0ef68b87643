//! Compares an event that is published again with the stored event of the same id.

use super::insert_outcome::SameData;
use super::json_equality::{are_equal, are_equal_without};
#[cfg(any(feature = "mysql", feature = "sqlite", feature = "_adapters"))]
use crate::event::JsonText;
use crate::event::OutboxEvent;
use crate::publish::ValidEvent;
use crate::trace::{TRACEPARENT, TRACESTATE};

/// The first column in which an event differs from the stored event of the same id.
///
/// Values left to the outbox are not compared: when it is due, unless a time or a delay was given; `event_time`,
/// `max_retries` and the backend, which a route may choose later, unless they were given. Neither is the trace context: it describes the call that published, not the event.
pub(super) fn first_difference(given: &ValidEvent, stored: &OutboxEvent, data: SameData) -> Option<&'static str> {
    let is_same_config = are_equal(&given.publisher_config, stored.publisher_config.as_str());
    let columns = [
        ("event_type", given.event_type == stored.event_type),
        ("source", given.source == stored.source),
        ("cloud_event_id", given.cloud_event_id == stored.cloud_event_id),
        ("subject", given.subject == stored.subject),
        ("data", data.json),
        ("data_binary", data.binary),
        ("data_schema", given.data_schema == stored.data_schema),
        ("data_content_type", given.data_content_type == stored.data_content_type),
        ("extensions", has_same_extensions(given, stored)),
        ("partition_key", given.partition_key == stored.partition_key),
        ("publisher_backend", !given.chose_backend || given.publisher_backend == stored.publisher_backend),
        ("publisher_config", is_same_config),
        ("scheduled_at", has_same_time(given, stored)),
        ("event_time", has_same_event_time(given, stored)),
        ("max_retries", !given.chose_max_retries || given.max_retries == stored.max_retries),
    ];
    columns.into_iter().find(|(_, is_same)| !is_same).map(|(column, _)| column)
}

/// The first column in which an event differs from a row that was read with its data.
#[cfg(feature = "_adapters")]
pub(crate) fn first_difference_with_data(given: &ValidEvent, stored: &OutboxEvent) -> Option<&'static str> {
    first_difference(given, stored, SameData::compare(given, stored))
}

#[cfg(any(feature = "mysql", feature = "sqlite", feature = "_adapters"))]
impl SameData {
    /// Compares with a row that was read with its data. JSON null, which other writers may store, means no data.
    pub(crate) fn compare(given: &ValidEvent, stored: &OutboxEvent) -> Self {
        let json = stored.data.as_ref().map(JsonText::as_str).filter(|text| *text != "null");
        let json = match (given.data.as_deref(), json) {
            (Some(given), Some(stored)) => are_equal(given, stored),
            (given, stored) => given == stored,
        };
        Self { json, binary: given.data_binary == stored.data_binary }
    }
}

fn has_same_extensions(given: &ValidEvent, stored: &OutboxEvent) -> bool {
    are_equal_without(&[TRACEPARENT, TRACESTATE], &given.extensions, stored.extensions.as_str())
}

fn has_same_event_time(given: &ValidEvent, stored: &OutboxEvent) -> bool {
    given.event_micros.is_none_or(|micros| stored.event_time.is_some_and(|time| time.timestamp_micros() == micros))
}

fn has_same_time(given: &ValidEvent, stored: &OutboxEvent) -> bool {
    match given.scheduled_micros {
        Some(micros) => micros == stored.scheduled_at.timestamp_micros(),
        None if given.delay_micros == 0 => true,
        None => {
            let delay = (stored.scheduled_at - stored.created_at).num_microseconds();
            // PostgreSQL multiplies intervals by floating-point numbers.
            delay.is_some_and(|delay| delay as f64 == given.delay_micros as f64)
        }
    }
}
