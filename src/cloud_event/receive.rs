//! CloudEvents in their JSON format, as a consumer receives them.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::attributes::object_pairs;
use super::derived_id;
use super::encode::push_string;
use crate::event::{JsonText, OutboxEvent, Status};

impl OutboxEvent {
    /// The event in an entry of a stream, `seq` being the entry's field of this name. An attribute that is `null` counts as
    /// missing. Lengths are not checked: the writer of the entry has published the event.
    ///
    /// Without a `time` of its own, the event's time is `written`.
    ///
    /// # Errors
    /// The reason why the text is not a CloudEvent, without its content.
    pub(crate) fn from_stream(json: &str, seq: i64, written: DateTime<Utc>) -> Result<Self, String> {
        let pairs = object_pairs(json).map_err(|_| "its CloudEvent is not a JSON object".to_owned())?;
        let mut event = received(seq, written);
        let (mut id, mut extensions) = (String::new(), String::new());
        for (name, value) in pairs {
            let raw = value.get();
            if raw == "null" {
                continue;
            }
            match name.as_ref() {
                "specversion" => event.spec_version = text(&name, raw)?,
                "type" => event.event_type = text(&name, raw)?,
                "source" => event.source = text(&name, raw)?,
                "id" => id = text(&name, raw)?,
                "time" => event.event_time = Some(time(&text(&name, raw)?)?).filter(|time| *time != written),
                "subject" => event.subject = text(&name, raw)?,
                "datacontenttype" => event.data_content_type = text(&name, raw)?,
                "dataschema" => event.data_schema = text(&name, raw)?,
                "partitionkey" => event.partition_key = text(&name, raw)?,
                "data" => event.data = Some(JsonText::new(raw.to_owned())),
                "data_base64" => event.data_binary = Some(bytes(&text(&name, raw)?)?),
                _ => {
                    extensions.push(if extensions.is_empty() { '{' } else { ',' });
                    push_string(&mut extensions, &name);
                    extensions.push(':');
                    extensions.push_str(raw);
                }
            }
        }
        if !extensions.is_empty() {
            extensions.push('}');
            event.extensions = JsonText::new(extensions);
        }
        event.identified_by(id)
    }

    /// The event in a message of the binary mode: its attributes, its content and its content type as headers, decoded.
    ///
    /// # Errors
    /// The reason why the message is not a CloudEvent, without its content.
    #[cfg(all(feature = "consumer", feature = "nats"))]
    pub(crate) fn from_attributes(
        attributes: impl IntoIterator<Item = (String, String)>,
        content: &[u8],
        seq: i64,
        written: DateTime<Utc>,
    ) -> Result<Self, String> {
        let mut event = received(seq, written);
        let (mut id, mut extensions) = (String::new(), serde_json::Map::new());
        for (name, value) in attributes {
            match name.as_str() {
                "specversion" => event.spec_version = value,
                "type" => event.event_type = value,
                "source" => event.source = value,
                "id" => id = value,
                "time" => event.event_time = Some(time(&value)?).filter(|time| *time != written),
                "subject" => event.subject = value,
                "datacontenttype" => event.data_content_type = value,
                "dataschema" => event.data_schema = value,
                "partitionkey" => event.partition_key = value,
                _ => drop(extensions.insert(name, value.into())),
            }
        }
        if !extensions.is_empty() {
            event.extensions = JsonText::new(serde_json::Value::Object(extensions).to_string());
        }
        match json_of(&event.data_content_type, content) {
            Some(json) => event.data = Some(json),
            None if content.is_empty() => {}
            None => event.data_binary = Some(content.to_vec()),
        }
        event.identified_by(id)
    }

    fn identified_by(mut self, id: String) -> Result<Self, String> {
        for (name, value) in [("type", &self.event_type), ("source", &self.source), ("id", &id)] {
            if value.is_empty() {
                return Err(format!("its CloudEvent has no `{name}`"));
            }
        }
        match Uuid::try_parse(&id) {
            Ok(uuid) if uuid.to_string() == id => self.id = uuid,
            Ok(uuid) if id.len() == uuid::fmt::Hyphenated::LENGTH => (self.id, self.cloud_event_id) = (uuid, id),
            _ => (self.id, self.cloud_event_id) = (derived_id(&self.source, &id), id),
        }
        Ok(self)
    }
}

/// An event of which nothing is known yet but that a worker has sent it.
fn received(seq: i64, written: DateTime<Utc>) -> OutboxEvent {
    OutboxEvent {
        id: Uuid::nil(),
        spec_version: "1.0".to_owned(),
        event_type: String::new(),
        source: String::new(),
        subject: String::new(),
        data_content_type: String::new(),
        data_schema: String::new(),
        data: None,
        data_binary: None,
        status: Status::Published,
        created_at: written,
        updated_at: written,
        scheduled_at: written,
        published_at: None,
        retry_count: 0,
        max_retries: 0,
        last_error: String::new(),
        publisher_backend: String::new(),
        publisher_config: JsonText::empty_object(),
        seq,
        retry_at: None,
        cloud_event_id: String::new(),
        extensions: JsonText::empty_object(),
        partition_key: String::new(),
        pending_handlers: None,
        errors: None,
        event_time: None,
    }
}

/// The content as JSON, if its type says that it is.
#[cfg(all(feature = "consumer", feature = "nats"))]
fn json_of(content_type: &str, content: &[u8]) -> Option<JsonText> {
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !["", "application/json", "text/json"].contains(&media_type.as_str()) && !media_type.ends_with("+json") {
        return None;
    }
    let text = str::from_utf8(content).ok()?;
    serde_json::from_str::<&serde_json::value::RawValue>(text).ok()?;
    Some(JsonText::new(text.to_owned()))
}

fn text(name: &str, raw: &str) -> Result<String, String> {
    let plain = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).filter(|text| !text.contains('\\'));
    match plain {
        Some(text) => Ok(text.to_owned()),
        None => {
            serde_json::from_str(raw).map_err(|_| format!("the attribute {name:?} of its CloudEvent is not a string"))
        }
    }
}

fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let time = DateTime::parse_from_rfc3339(text).map(|time| time.to_utc());
    time.map_err(|_| "the `time` of its CloudEvent is not an RFC 3339 timestamp".to_owned())
}

fn bytes(text: &str) -> Result<Vec<u8>, String> {
    BASE64_STANDARD.decode(text).map_err(|_| "the `data_base64` of its CloudEvent is not valid base64".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    fn written() -> DateTime<Utc> {
        "2026-01-31T12:00:00.5Z".parse().unwrap()
    }

    #[test]
    fn what_a_worker_wrote_is_read_back_as_it_was() {
        let sent = OutboxEvent {
            created_at: written(),
            subject: "Ada \"the\" first".to_owned(),
            data_schema: "urn:s".to_owned(),
            partition_key: "k\u{e9}".to_owned(),
            extensions: JsonText::new(r#"{"traceparent":"00-a-b-01","n":1.50}"#.to_owned()),
            event_time: Some("2025-06-24T20:27:00Z".parse().unwrap()),
            ..fixtures::event(7, "k")
        };
        let read = OutboxEvent::from_stream(&sent.to_cloud_event_json(), 7, written()).unwrap();
        assert_eq!(read.to_cloud_event_json(), sent.to_cloud_event_json());
        assert_eq!((read.id, read.seq, read.created_at, read.time()), (sent.id, 7, sent.created_at, sent.time()));
        assert_eq!((read.data, read.extensions), (sent.data, sent.extensions));
        let binary = OutboxEvent { data: None, data_binary: Some(vec![0, 255]), ..fixtures::event(0, "") };
        let read = OutboxEvent::from_stream(&binary.to_cloud_event_json(), 0, written()).unwrap();
        assert_eq!((read.data, read.data_binary), (None, Some(vec![0, 255])));
    }

    #[test]
    fn another_producers_id_is_kept_beside_the_derived_one() {
        let read = |id: &str| {
            let json = format!(r#"{{"specversion":"1.0","type":"t","source":"s","id":"{id}","data":null}}"#);
            OutboxEvent::from_stream(&json, 0, written()).unwrap()
        };
        let own = read("A-1");
        assert_eq!((own.id, own.cloud_event_id().as_str()), (derived_id("s", "A-1"), "A-1"));
        let capitals = read("0197A3B2-AAAA-7000-8000-000000000001");
        assert_eq!(capitals.cloud_event_id(), "0197A3B2-AAAA-7000-8000-000000000001");
        assert_eq!(capitals.id.to_string(), "0197a3b2-aaaa-7000-8000-000000000001");
        assert_eq!(read("0197a3b2-aaaa-7000-8000-000000000001").cloud_event_id, "");
    }

    #[test]
    fn what_is_not_a_cloud_event_is_named_and_not_shown() {
        for (json, reason) in [
            ("secret", "not a JSON object"),
            (r#"["secret"]"#, "not a JSON object"),
            (r#"{"type":"secret","source":"s"}"#, "no `id`"),
            (r#"{"type":"","source":"s","id":"secret"}"#, "no `type`"),
            (r#"{"type":["secret"]}"#, r#"the attribute "type""#),
            (r#"{"type":"t","source":"s","id":"1","time":"secret"}"#, "RFC 3339"),
            (r#"{"type":"t","source":"s","id":"1","data_base64":"secret!"}"#, "base64"),
        ] {
            let error = OutboxEvent::from_stream(json, 0, written()).unwrap_err();
            assert!(error.contains(reason) && !error.contains("secret"), "{json}: {error}");
        }
    }
}
