//! Events as records, by the Kafka protocol binding of CloudEvents 1.0.2.

use actix_outbox::{ContentMode, OutboxEvent};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::FutureRecord;

/// What Kafka allows for the name of a topic.
const MAX_TOPIC: usize = 249;

/// What is produced for one event.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) topic: String,
    key: String,
    value: Vec<u8>,
    headers: OwnedHeaders,
    timestamp: i64,
}

impl Record {
    /// # Errors
    /// What of the event no record can carry.
    pub(crate) fn new(mode: ContentMode, topic: &str, event: &OutboxEvent) -> Result<Self, String> {
        let topic = event.fill(topic);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let is_name =
            (1..=MAX_TOPIC).contains(&topic.len()) && topic.chars().all(is_plain) && ![".", ".."].contains(&&*topic);
        if !is_name {
            return Err(
                "its topic is not a valid name: 1 to 249 of the characters a-z, A-Z, 0-9, `.`, `_` and `-`".to_owned()
            );
        }
        let mut headers = header(OwnedHeaders::new(), "outbox-seq", &event.seq.to_string());
        let value = match mode {
            ContentMode::Binary => {
                for (name, value) in event.cloud_event_attributes() {
                    headers = header(headers, &format!("ce_{name}"), &value);
                }
                if !event.data_content_type.is_empty() {
                    headers = header(headers, "content-type", &event.data_content_type);
                }
                data(event)
            }
            _ => {
                headers = header(headers, "content-type", "application/cloudevents+json; charset=utf-8");
                event.to_cloud_event_json().into_bytes()
            }
        };
        Ok(Self { topic, key: event.partition_key.clone(), value, headers, timestamp: event.time().timestamp_millis() })
    }

    /// As librdkafka takes it. A record without data has an empty value: none at all would delete its key in a compacted topic.
    pub(crate) fn future_record(&self) -> FutureRecord<'_, str, [u8]> {
        let record = FutureRecord::to(&self.topic)
            .payload(self.value.as_slice())
            .headers(self.headers.clone())
            .timestamp(self.timestamp);
        if self.key.is_empty() { record } else { record.key(self.key.as_str()) }
    }
}

fn header(headers: OwnedHeaders, name: &str, value: &str) -> OwnedHeaders {
    headers.insert(Header { key: name, value: Some(value) })
}

fn data(event: &OutboxEvent) -> Vec<u8> {
    match (&event.data, &event.data_binary) {
        (Some(data), _) if data.as_str() != "null" => data.as_str().as_bytes().to_vec(),
        (_, Some(bytes)) => bytes.clone(),
        _ => Vec::new(),
    }
}
