//! Events for tests that need no database.

#[cfg(any(test, feature = "bench-api"))]
use std::sync::Arc;

use chrono::DateTime;
use uuid::Uuid;

use crate::event::{JsonText, OutboxEvent, Status};
#[cfg(any(test, feature = "bench-api"))]
use crate::store::{FetchedRow, Position};

pub(crate) fn event(seq: i64, key: &str) -> OutboxEvent {
    let time = DateTime::UNIX_EPOCH;
    OutboxEvent {
        id: Uuid::now_v7(),
        spec_version: "1.0".to_owned(),
        event_type: "t".to_owned(),
        source: "s".to_owned(),
        subject: String::new(),
        data_content_type: "application/json".to_owned(),
        data_schema: String::new(),
        data: Some(JsonText::new(format!("{{\"n\": {seq}}}"))),
        data_binary: None,
        status: Status::Pending,
        created_at: time,
        updated_at: time,
        scheduled_at: time,
        published_at: None,
        retry_count: 0,
        max_retries: 3,
        last_error: String::new(),
        publisher_backend: "orders".to_owned(),
        publisher_config: JsonText::empty_object(),
        seq,
        retry_at: None,
        cloud_event_id: String::new(),
        extensions: JsonText::empty_object(),
        partition_key: key.to_owned(),
        pending_handlers: None,
        errors: None,
        event_time: None,
    }
}

/// The row of an event that is scheduled at this microsecond.
#[cfg(any(test, feature = "bench-api"))]
pub(crate) fn fetched(shard: i16, scheduled_at: i64, key: &str) -> FetchedRow {
    let event = event(scheduled_at, key);
    FetchedRow {
        shard,
        position: Position { scheduled_at, seq: event.seq },
        id: event.id,
        partition_key: key.to_owned(),
        retry: false,
        in_range: true,
        retry_count: 0,
        max_retries: 3,
        updated_at: 0,
        version: None,
        place: None,
        event: Ok(Arc::new(event)),
    }
}
