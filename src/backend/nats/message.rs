//! Events as messages, by the NATS protocol binding of CloudEvents.

use async_nats::HeaderMap;
use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::subject::SubjectTemplate;
use crate::cloud_event::{attributes, to_json};
use crate::event::OutboxEvent;
use crate::settings::ContentMode;

/// What a header's value does not contain as it is, by 3.1.3.2 of the binding.
pub(super) const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// The id by which a server refuses a message that it has, within the stream's duplicate window.
pub(super) const MESSAGE_ID: &str = "Nats-Msg-Id";

/// One message of a batch.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) subject: String,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

impl Message {
    /// # Errors
    /// What of the event no message can carry.
    pub(super) fn new(mode: ContentMode, subject: &SubjectTemplate, event: &OutboxEvent) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        // A replay has a `seq` of its own: it is another delivery.
        headers.insert(MESSAGE_ID, format!("{}-{}", event.id, event.seq));
        headers.insert("outbox-seq", event.seq.to_string());
        let payload = match mode {
            ContentMode::Binary => binary(event, &mut headers)?,
            ContentMode::Structured | ContentMode::Batch => {
                headers.insert("Content-Type", "application/cloudevents+json");
                Bytes::from(to_json(event))
            }
        };
        Ok(Self { subject: subject.subject(event), headers, payload })
    }

    /// Its bytes on the wire, as the server counts them against its limits; what a batch adds is included.
    pub(super) fn size(&self) -> usize {
        const OF_A_BATCH: usize = 160;
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, values)| {
                let name: &str = name.as_ref();
                values.iter().map(|value| name.len() + value.as_str().len() + 4).sum::<usize>()
            })
            .sum();
        headers + self.payload.len() + OF_A_BATCH
    }
}

/// The attributes become headers, also `datacontenttype`: a content type of its own means the structured mode.
fn binary(event: &OutboxEvent, headers: &mut HeaderMap) -> Result<Bytes, String> {
    for (name, value) in attributes(event) {
        insert(headers, &name, &value)?;
    }
    let body = match (&event.data, &event.data_binary) {
        (Some(data), _) if data.as_str() != "null" => Bytes::copy_from_slice(data.as_str().as_bytes()),
        (_, Some(bytes)) => Bytes::copy_from_slice(bytes),
        _ => return Ok(Bytes::new()),
    };
    if !event.data_content_type.is_empty() {
        insert(headers, "datacontenttype", &event.data_content_type)?;
    }
    Ok(body)
}

fn insert(headers: &mut HeaderMap, name: &str, value: &str) -> Result<(), String> {
    let cannot = || format!("the attribute {name:?} cannot be a header");
    let header: async_nats::HeaderName = format!("ce-{name}").parse().map_err(|_| cannot())?;
    let value: async_nats::HeaderValue =
        utf8_percent_encode(value, ENCODED).to_string().parse().map_err(|_| cannot())?;
    headers.insert(header, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::JsonText;
    use crate::fixtures;

    fn message(mode: ContentMode, event: &OutboxEvent) -> Message {
        Message::new(mode, &SubjectTemplate::new("events.{type}").unwrap(), event).unwrap()
    }

    #[test]
    fn binary_mode_has_every_attribute_as_a_header() {
        let event = OutboxEvent {
            subject: "a \"b\" 100% ü\r\n".to_owned(),
            extensions: JsonText::new(r#"{"tenant": "x y", "attempt": 3}"#.to_owned()),
            ..fixtures::event(7, "key")
        };
        let message = message(ContentMode::Binary, &event);
        let header = |name: &str| message.headers.get(name).unwrap().as_str();
        assert_eq!(header("ce-id"), event.id.to_string());
        assert_eq!(header("ce-subject"), "a%20%22b%22%20100%25%20%C3%BC%0D%0A");
        assert_eq!([header("ce-tenant"), header("ce-attempt"), header("ce-partitionkey")], ["x%20y", "3", "key"]);
        assert_eq!(header("ce-datacontenttype"), "application/json");
        assert_eq!([header("outbox-seq"), header(MESSAGE_ID)], ["7", &format!("{}-7", event.id)]);
        assert!(message.headers.get("Content-Type").is_none());
        assert_eq!(message.payload, event.data.as_ref().unwrap().as_str().to_owned());
    }

    #[test]
    fn structured_mode_is_the_json_of_the_event() {
        let event = fixtures::event(1, "");
        let message = message(ContentMode::Structured, &event);
        assert_eq!(message.payload, to_json(&event));
        assert_eq!(message.headers.get("Content-Type").unwrap().as_str(), "application/cloudevents+json");
        assert!(message.size() > message.payload.len() + 100);
    }
}
