//! Events as requests, by the HTTP protocol binding of CloudEvents 1.0.2.

use std::borrow::Cow;

use hyper::HeaderMap;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::cloud_event::{attributes, to_json};
use crate::event::OutboxEvent;
use crate::settings::ContentMode;

/// What a header's value does not contain as it is; see 3.1.3.2 of the binding.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

const SEQ: HeaderName = HeaderName::from_static("outbox-seq");

/// What is sent for one event, or for several in mode `batch`.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Message {
    /// # Errors
    /// What of the event no request can carry.
    pub(super) fn new(mode: ContentMode, event: &OutboxEvent) -> Result<Self, String> {
        let message = match mode {
            ContentMode::Structured => Self::json("application/cloudevents+json; charset=utf-8", to_json(event)),
            ContentMode::Batch => return Ok(Self::batch(&[event])),
            ContentMode::Binary => Self::binary(event)?,
        };
        Ok(message.with_seq(&[event]))
    }

    pub(super) fn batch(events: &[&OutboxEvent]) -> Self {
        let all: Vec<String> = events.iter().map(|event| to_json(event)).collect();
        let message = Self::json("application/cloudevents-batch+json; charset=utf-8", format!("[{}]", all.join(",")));
        message.with_seq(events)
    }

    /// Adds the events' numbers in the outbox, by which a receiver tells a replay from a repetition.
    fn with_seq(mut self, events: &[&OutboxEvent]) -> Self {
        let numbers: Vec<String> = events.iter().map(|event| event.seq.to_string()).collect();
        if let Ok(value) = HeaderValue::try_from(numbers.join(", ")) {
            self.headers.insert(SEQ, value);
        }
        self
    }

    fn json(content_type: &'static str, body: String) -> Self {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
        Self { headers, body: body.into() }
    }

    fn binary(event: &OutboxEvent) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in attributes(event) {
            let cannot = |_| format!("the attribute {name:?} cannot be a header");
            let header = HeaderName::try_from(format!("ce-{name}")).map_err(|_| cannot(()))?;
            headers.append(header, header_value(&value).ok_or_else(|| cannot(()))?);
        }
        let body = match (&event.data, &event.data_binary) {
            (Some(data), _) if data.as_str() != "null" => Bytes::copy_from_slice(data.as_str().as_bytes()),
            (_, Some(bytes)) => Bytes::copy_from_slice(bytes),
            _ => return Ok(Self { headers, body: Bytes::new() }),
        };
        if !event.data_content_type.is_empty() {
            let problem = "its data_content_type cannot be a header";
            headers.insert(CONTENT_TYPE, HeaderValue::try_from(&event.data_content_type).map_err(|_| problem)?);
        }
        Ok(Self { headers, body })
    }
}

fn header_value(value: &str) -> Option<HeaderValue> {
    let encoded: Cow<'_, str> = utf8_percent_encode(value, ENCODED).into();
    HeaderValue::try_from(&*encoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::JsonText;
    use crate::fixtures;

    #[test]
    fn binary_mode_has_the_attributes_as_headers_and_the_data_as_it_is() {
        let event = OutboxEvent {
            subject: "a \"b\" 100% ü".to_owned(),
            extensions: JsonText::new(r#"{"tenant": "x y", "attempt": 3, "urgent": true}"#.to_owned()),
            data: Some(JsonText::new(r#"{"n": 1.50}"#.to_owned())),
            ..fixtures::event(1, "key")
        };
        let Message { headers, body } = Message::new(ContentMode::Binary, &event).unwrap();
        let header = |name: &str| headers.get(name).unwrap().to_str().unwrap();
        assert_eq!(header("ce-specversion"), "1.0");
        assert_eq!(header("ce-id"), event.id.to_string());
        assert_eq!(header("ce-type"), event.event_type);
        assert_eq!(header("ce-subject"), "a%20%22b%22%20100%25%20%C3%BC");
        assert_eq!([header("ce-tenant"), header("ce-attempt"), header("ce-urgent")], ["x%20y", "3", "true"]);
        assert_eq!(header("ce-partitionkey"), "key");
        assert_eq!(header("outbox-seq"), "1");
        assert_eq!(header("content-type"), "application/json");
        assert_eq!(body, r#"{"n": 1.50}"#.to_owned());
        assert!(headers.get("ce-datacontenttype").is_none() && headers.get("ce-data").is_none());

        let empty = OutboxEvent { data: None, ..event };
        let Message { headers, body } = Message::new(ContentMode::Binary, &empty).unwrap();
        assert!(body.is_empty() && headers.get("content-type").is_none());
    }

    #[test]
    fn structured_modes_are_the_json_of_the_event() {
        let event = fixtures::event(1, "");
        let message = Message::new(ContentMode::Structured, &event).unwrap();
        assert_eq!(message.body, to_json(&event));
        assert!(message.headers["content-type"].to_str().unwrap().starts_with("application/cloudevents+json"));
        assert_eq!(message.headers[SEQ], "1");
        let both = Message::batch(&[&event, &event]);
        assert_eq!(both.headers[SEQ], "1, 1");
        assert_eq!(both.body, format!("[{0},{0}]", to_json(&event)));
        assert!(both.headers["content-type"].to_str().unwrap().starts_with("application/cloudevents-batch+json"));
    }
}
