//! CloudEvents in their JSON format, as events to publish.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::attributes::object_pairs;
use crate::error::InvalidEvent;
use crate::publish::{NewEvent, escape_for_message};

impl NewEvent {
    /// Reads a CloudEvent 1.0 in the JSON format.
    ///
    /// - `data` keeps its text, `data_base64` is decoded.
    /// - `partitionkey` becomes the partition key; attributes that CloudEvents does not define become extensions.
    /// - A UUID in `id` becomes the event's id. Any other `id` is stored unchanged, next to a version 5 id that is
    ///   derived from `source` and `id` (see [`CLOUD_EVENT_NAMESPACE`](crate::CLOUD_EVENT_NAMESPACE)).
    /// - `time` is kept to the microsecond, in UTC; without it the event's time is when it is written.
    /// - An attribute that is `null` counts as missing.
    ///
    /// Lengths and similar limits are checked when the event is published.
    ///
    /// # Errors
    /// If the text is not a CloudEvent; the error's field is the attribute's name in CloudEvents.
    pub fn from_cloud_event_json(text: &str) -> Result<Self, InvalidEvent> {
        let pairs = object_pairs(text).map_err(|error| {
            let problem = if error.is_data() { "is JSON, but not an object".to_owned() } else { position(&error) };
            InvalidEvent::new("cloud_event", problem)
        })?;
        let mut event = Self::new("", "");
        let (mut spec_version, mut id) = (None, None);
        for (at, (name, value)) in pairs.iter().enumerate() {
            if pairs[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(InvalidEvent::new(escape_for_message(name), "is given twice"));
            }
            match (name.as_ref(), value.get()) {
                (_, "null") => {}
                ("specversion", raw) => spec_version = Some(text_of(name, raw)?),
                ("id", raw) => id = Some(text_of(name, raw)?),
                (_, raw) => event = event.with_attribute(name, raw)?,
            }
        }
        if event.data_binary.is_some() {
            // The producer gave no content type, so none is stored.
            event.data_content_type.get_or_insert_default();
        }
        version(spec_version)?;
        present("type", &event.event_type)?;
        present("source", &event.source)?;
        Ok(event.with_cloud_event_id(id.ok_or_else(|| InvalidEvent::new("id", "is missing"))?))
    }

    fn with_attribute(mut self, name: &str, raw: &str) -> Result<Self, InvalidEvent> {
        Ok(match name {
            "type" => {
                self.event_type = text_of(name, raw)?;
                self
            }
            "source" => {
                self.source = text_of(name, raw)?;
                self
            }
            "subject" => self.subject(text_of(name, raw)?),
            "datacontenttype" => self.content_type(text_of(name, raw)?),
            "dataschema" => self.data_schema(text_of(name, raw)?),
            "partitionkey" => self.partition_key(text_of(name, raw)?),
            "time" => self.time(timestamp(&text_of(name, raw)?)?),
            "data" => self.data_json(raw),
            "data_base64" => {
                let bytes = BASE64_STANDARD.decode(text_of(name, raw)?);
                self.binary(bytes.map_err(|_| InvalidEvent::new(name, "is not valid base64"))?)
            }
            _ => self.extension(name, extension_value(name, raw)?),
        })
    }

    /// Only the hyphenated form counts as a UUID; the producer's id is stored too if it is written in capitals.
    fn with_cloud_event_id(self, id: String) -> Self {
        match Uuid::try_parse(&id) {
            Ok(uuid) if id.len() == uuid::fmt::Hyphenated::LENGTH => self.id(uuid).cloud_event_id(id),
            _ => self.cloud_event_id(id),
        }
    }
}

fn position(error: &serde_json::Error) -> String {
    format!("is not valid JSON (line {}, column {})", error.line(), error.column())
}

fn version(given: Option<String>) -> Result<(), InvalidEvent> {
    match given.as_deref() {
        Some("1.0") => Ok(()),
        Some(version) if version.starts_with("1.0.") => Ok(()),
        Some(_) => Err(InvalidEvent::new("specversion", "is a version other than 1.0")),
        None => Err(InvalidEvent::new("specversion", "is missing")),
    }
}

fn present(name: &str, value: &str) -> Result<(), InvalidEvent> {
    if value.is_empty() { Err(InvalidEvent::new(name, "is missing")) } else { Ok(()) }
}

fn text_of(name: &str, raw: &str) -> Result<String, InvalidEvent> {
    let text: String = serde_json::from_str(raw).map_err(|_| InvalidEvent::new(name, "is not a string"))?;
    if text.is_empty() && name != "data_base64" {
        return Err(InvalidEvent::new(name, "is empty"));
    }
    Ok(text)
}

fn timestamp(text: &str) -> Result<DateTime<Utc>, InvalidEvent> {
    let time = DateTime::parse_from_rfc3339(text);
    time.map(|time| time.to_utc()).map_err(|_| InvalidEvent::new("time", "is not an RFC 3339 timestamp"))
}

fn extension_value(name: &str, raw: &str) -> Result<Value, InvalidEvent> {
    serde_json::from_str(raw).map_err(|_| InvalidEvent::new(escape_for_message(name), "cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud_event::derived_id;
    use crate::publish::ValidEvent;

    fn read(attributes: &str) -> Result<NewEvent, InvalidEvent> {
        NewEvent::from_cloud_event_json(&format!(
            r#"{{"specversion":"1.0","type":"t","source":"s","id":"A-1"{attributes}}}"#
        ))
    }

    fn ready(attributes: &str) -> ValidEvent {
        read(attributes).unwrap().into_valid().unwrap()
    }

    #[test]
    fn every_attribute_finds_its_column() {
        let event = ready(
            r#","subject":"x","time":"2025-06-24T20:27:00.5Z","datacontenttype":"text/json","dataschema":"urn:s",
               "partitionkey":"k","traceparent":"00","n":3,"sampled":true,"none":null,"data": {"b" : 1.50, "a":[]} "#,
        );
        assert_eq!((event.subject.as_str(), event.data_content_type.as_str()), ("x", "text/json"));
        assert_eq!((event.data_schema.as_str(), event.partition_key.as_str()), ("urn:s", "k"));
        assert_eq!(event.event_micros, Some(1_750_796_820_500_000));
        assert_eq!(event.data.as_deref(), Some(r#"{"b" : 1.50, "a":[]}"#));
        let extensions: Value = serde_json::from_str(&event.extensions).unwrap();
        assert_eq!(extensions, serde_json::json!({"traceparent": "00", "n": 3, "sampled": true}));
        assert_eq!((event.cloud_event_id.as_str(), event.id), ("A-1", derived_id("s", "A-1")));
    }

    #[test]
    fn a_uuid_becomes_the_rows_id() {
        let with_id = |id: &str| {
            let json = format!(r#"{{"specversion":"1.0","type":"t","source":"s","id":"{id}"}}"#);
            NewEvent::from_cloud_event_json(&json).unwrap().into_valid().unwrap()
        };
        let lower = with_id("0197a3b2-aaaa-7000-8000-000000000001");
        assert_eq!(
            (lower.id.to_string().as_str(), lower.cloud_event_id.as_str()),
            ("0197a3b2-aaaa-7000-8000-000000000001", "")
        );
        let upper = with_id("0197A3B2-AAAA-7000-8000-000000000001");
        assert_eq!((upper.id, upper.cloud_event_id.as_str()), (lower.id, "0197A3B2-AAAA-7000-8000-000000000001"));
        assert_eq!(with_id("0197a3b2aaaa70008000000000000001").id.get_version_num(), 5);
    }

    #[test]
    fn bytes_are_decoded_and_no_type_is_made_up_for_them() {
        let event = ready(r#","data_base64":"AP8=""#);
        assert_eq!((event.data_binary, event.data_content_type.as_str()), (Some(vec![0, 255]), ""));
        assert_eq!(ready(r#","data_base64":"","datacontenttype":"image/png""#).data_binary, Some(vec![]));
        assert_eq!(ready(r#","data":null"#).data, None);
    }

    #[test]
    fn what_is_wrong_is_named_and_not_shown() {
        for (text, field) in [
            ("", "cloud_event"),
            ("[1]", "cloud_event"),
            ("\"secret\"", "cloud_event"),
            ("{} {}", "cloud_event"),
            ("{}", "specversion"),
            (r#"{"specversion":"0.3"}"#, "specversion"),
            (r#"{"specversion":1.0}"#, "specversion"),
            (r#"{"specversion":"1.0","source":"s","id":"1"}"#, "type"),
            (r#"{"specversion":"1.0","type":"t","id":"1"}"#, "source"),
            (r#"{"specversion":"1.0","type":"t","source":"s"}"#, "id"),
            (r#"{"specversion":"1.0","type":"t","source":"s","id":null}"#, "id"),
            (r#"{"specversion":"1.0","type":"t","source":"s","id":""}"#, "id"),
            (r#"{"specversion":"1.0","type":["secret"],"source":"s","id":"1"}"#, "type"),
        ] {
            let error = NewEvent::from_cloud_event_json(text).unwrap_err();
            assert_eq!(error.field, field, "{text}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        for (attributes, field) in [
            (r#","subject":1"#, "subject"),
            (r#","subject":"""#, "subject"),
            (r#","id":"2""#, "id"),
            (r#","time":"yesterday""#, "time"),
            (r#","data_base64":"secret!""#, "data_base64"),
            (r#","partitionkey":7"#, "partitionkey"),
        ] {
            assert_eq!(read(attributes).unwrap_err().field, field);
        }
        for (attributes, field) in [
            (r#","Trace":"1""#, "extensions.Trace"),
            (r#","n":1.5"#, "extensions.n"),
            (r#","o":{"a":1}"#, "extensions.o"),
            (r#","data":1,"data_base64":"AA==""#, "data"),
            (r#","data":"\u0000""#, "data"),
        ] {
            assert_eq!(read(attributes).unwrap().check().unwrap_err().field, field);
        }
    }
}
