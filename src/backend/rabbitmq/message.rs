//! Events as messages, by the AMQP protocol binding of CloudEvents 1.0.2.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use crate::cloud_event::{attributes, to_json};
use crate::event::OutboxEvent;
use crate::settings::ContentMode;

/// On the disks of the broker's queues.
const PERSISTENT: u8 = 2;

/// What a frame and a header with its properties have besides the application's headers; generous.
const FRAME_OVERHEAD: usize = 1_500;

/// What an application's header has besides its name and value.
const HEADER_OVERHEAD: usize = 6;

/// What is published for one event.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: Vec<u8>,
    /// The most bytes of the frame with the properties, which cannot be divided.
    pub(super) header_size: usize,
}

impl Message {
    /// # Errors
    /// What of the event no message can carry.
    pub(super) fn new(mode: ContentMode, routing_key: &str, event: &OutboxEvent) -> Result<Self, String> {
        let routing_key =
            ShortString::try_new(event.fill(routing_key)).map_err(|_| "its routing key has more than 255 bytes")?;
        let mut headers = FieldTable::default();
        let mut header_size = FRAME_OVERHEAD;
        let mut add = |name: String, value: &str| -> Result<(), String> {
            header_size += name.len() + value.len() + HEADER_OVERHEAD;
            let name = ShortString::try_new(name).map_err(|_| "an attribute's name has more than 255 bytes")?;
            headers.insert(name, AMQPValue::LongString(LongString::from(value)));
            Ok(())
        };
        add("outbox-seq".to_owned(), &event.seq.to_string())?;
        let (content_type, body) = match mode {
            ContentMode::Binary => {
                for (name, value) in attributes(event) {
                    add(format!("cloudEvents:{name}"), &value)?;
                }
                (event.data_content_type.as_str(), data(event))
            }
            ContentMode::Structured | ContentMode::Batch => {
                ("application/cloudevents+json; charset=utf-8", to_json(event).into_bytes())
            }
        };
        let mut properties =
            BasicProperties::default().with_delivery_mode(PERSISTENT).with_message_id(id(event)).with_headers(headers);
        if let Ok(seconds) = u64::try_from(event.time().timestamp()) {
            properties = properties.with_timestamp(seconds);
        }
        // The type is in the CloudEvent too; one that is longer has no place here.
        if let Ok(event_type) = ShortString::try_new(event.event_type.as_str()) {
            properties = properties.with_type(event_type);
        }
        if !content_type.is_empty() {
            let problem = "its data_content_type has more than 255 bytes";
            properties = properties.with_content_type(ShortString::try_new(content_type).map_err(|_| problem)?);
        }
        Ok(Self { routing_key, properties, body, header_size })
    }
}

/// The id of the row, at every try: CloudEvents' ids are unique only with their sources.
fn id(event: &OutboxEvent) -> ShortString {
    ShortString::from(event.id.to_string())
}

fn data(event: &OutboxEvent) -> Vec<u8> {
    match (&event.data, &event.data_binary) {
        (Some(data), _) if data.as_str() != "null" => data.as_str().as_bytes().to_vec(),
        (_, Some(bytes)) => bytes.clone(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;
    use crate::event::JsonText;
    use crate::fixtures;

    fn header(message: &Message, name: &str) -> String {
        let headers = message.properties.headers().as_ref().unwrap();
        let AMQPValue::LongString(text) = &headers.inner()[name] else { panic!("{name}") };
        text.to_string()
    }

    #[test]
    fn binary_mode_has_the_attributes_as_headers_and_the_data_as_it_is() {
        let event = OutboxEvent {
            subject: "a ü".to_owned(),
            extensions: JsonText::new(r#"{"tenant": "x y", "attempt": 3}"#.to_owned()),
            ..fixtures::event(7, "k")
        };
        let message = Message::new(ContentMode::Binary, "{{type}}.{type}.{key}", &event).unwrap();
        assert_eq!(message.routing_key.as_str(), "{type}.t.k");
        for (name, value) in [
            ("outbox-seq", "7"),
            ("cloudEvents:id", &event.id.to_string()),
            ("cloudEvents:specversion", "1.0"),
            ("cloudEvents:subject", "a ü"),
            ("cloudEvents:partitionkey", "k"),
            ("cloudEvents:tenant", "x y"),
            ("cloudEvents:attempt", "3"),
        ] {
            assert_eq!(header(&message, name), value, "{name}");
        }
        assert_eq!(message.body, event.data.as_ref().unwrap().as_str().as_bytes());
        let properties = &message.properties;
        assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), event.id.to_string());
        assert_eq!((*properties.delivery_mode(), *properties.timestamp()), (Some(2), Some(0)));
        assert_eq!(properties.kind().as_ref().unwrap().as_str(), "t");
    }

    #[test]
    fn structured_mode_is_the_json_of_the_event() {
        let event = fixtures::event(1, "");
        let message = Message::new(ContentMode::Structured, "", &event).unwrap();
        assert_eq!(message.body, to_json(&event).into_bytes());
        let content_type = message.properties.content_type().as_ref().unwrap().as_str();
        assert!(content_type.starts_with("application/cloudevents+json"), "{content_type}");
    }

    #[test]
    fn texts_that_are_too_long_for_amqp_are_refused_or_left_out() {
        let long = "ü".repeat(200);
        let event = OutboxEvent { event_type: long.clone(), ..fixtures::event(1, &long) };
        assert!(Message::new(ContentMode::Structured, "{key}", &event).unwrap_err().contains("routing key"));
        let message = Message::new(ContentMode::Structured, "fixed", &event).unwrap();
        assert!(message.properties.kind().is_none());
        let typed = OutboxEvent { data_content_type: long, ..fixtures::event(1, "") };
        assert!(Message::new(ContentMode::Binary, "fixed", &typed).unwrap_err().contains("data_content_type"));
    }
}
