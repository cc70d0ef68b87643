//! Messages as events, by the NATS protocol binding of CloudEvents.

use std::sync::Arc;

use async_nats::HeaderMap;
use chrono::{DateTime, Utc};
use percent_encoding::percent_decode_str;

use crate::backend::event_source::{Content, EntryId};
use crate::event::OutboxEvent;

const OF_ATTRIBUTES: &str = "ce-";
const STRUCTURED: &str = "application/cloudevents+json";

pub(super) fn content(headers: &HeaderMap, payload: &[u8], id: EntryId) -> Content {
    let of_headers: usize = headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(|value| AsRef::<str>::as_ref(name).len() + value.as_str().len()))
        .sum();
    Content { bytes: of_headers + payload.len(), event: event(headers, payload, id).map(Arc::new) }
}

/// The event of a message that was stored at the time in this id.
pub(super) fn event(headers: &HeaderMap, payload: &[u8], id: EntryId) -> Result<OutboxEvent, String> {
    let seq = text_of(headers, "outbox-seq").and_then(|seq| seq.parse().ok()).unwrap_or(0);
    let stored = i64::try_from(id.millis).ok().and_then(DateTime::from_timestamp_millis);
    let stored: DateTime<Utc> = stored.unwrap_or_default();
    let attributes: Vec<(String, String)> = headers
        .iter()
        .filter_map(|(name, values)| Some((name.as_ref(), values.first()?)))
        .filter_map(|(name, value)| {
            let name: &str = name;
            let is_attribute = name.get(..OF_ATTRIBUTES.len())?.eq_ignore_ascii_case(OF_ATTRIBUTES);
            let name = is_attribute.then(|| name[OF_ATTRIBUTES.len()..].to_ascii_lowercase())?;
            Some((name, percent_decode_str(value.as_str()).decode_utf8_lossy().into_owned()))
        })
        .collect();
    let content_type = text_of(headers, "content-type").unwrap_or_default().to_ascii_lowercase();
    if attributes.is_empty() || content_type.starts_with(STRUCTURED) {
        let json = str::from_utf8(payload).map_err(|_| "its CloudEvent is not valid UTF-8")?;
        return OutboxEvent::from_stream(json, seq, stored);
    }
    OutboxEvent::from_attributes(attributes, payload, seq, stored)
}

/// A header's value, however its name is written.
pub(super) fn text_of<'h>(headers: &'h HeaderMap, wanted: &str) -> Option<&'h str> {
    let is_wanted = |name: &str| name.eq_ignore_ascii_case(wanted);
    let (_, values) = headers.iter().find(|(name, _)| is_wanted(AsRef::<str>::as_ref(name)))?;
    values.first().map(|value| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::nats::message::Message;
    use crate::backend::nats::subject::SubjectTemplate;
    use crate::event::JsonText;
    use crate::fixtures;
    use crate::settings::ContentMode;

    const ID: EntryId = EntryId { millis: 1_770_000_000_000, number: 7 };

    fn sent_and_received(mode: ContentMode, event: &OutboxEvent) -> OutboxEvent {
        let sent = Message::new(mode, &SubjectTemplate::new("events.{type}").unwrap(), event).unwrap();
        super::event(&sent.headers, &sent.payload, ID).unwrap()
    }

    #[test]
    fn an_event_is_received_as_it_was_sent_in_both_modes() {
        let plain = fixtures::event(7, "key");
        let odd = OutboxEvent {
            subject: "a \"b\" 100% ü\r\n".to_owned(),
            extensions: JsonText::new(r#"{"tenant":"x y"}"#.to_owned()),
            ..fixtures::event(8, "")
        };
        let bytes = OutboxEvent {
            data: None,
            data_binary: Some(vec![0, 255]),
            data_content_type: "application/octet-stream".to_owned(),
            ..fixtures::event(9, "k")
        };
        for event in [plain, odd, bytes] {
            for mode in [ContentMode::Binary, ContentMode::Structured] {
                let received = sent_and_received(mode, &event);
                assert_eq!(received.to_cloud_event_json(), event.to_cloud_event_json(), "{mode:?}");
                assert_eq!((received.seq, received.id), (event.seq, event.id));
            }
        }
    }

    #[test]
    fn what_is_no_event_is_refused_with_a_reason() {
        let mut headers = HeaderMap::new();
        assert_eq!(event(&headers, b"{", ID).unwrap_err(), "its CloudEvent is not a JSON object");
        assert_eq!(event(&headers, &[255], ID).unwrap_err(), "its CloudEvent is not valid UTF-8");
        headers.insert("CE-Type", "t");
        assert_eq!(event(&headers, b"", ID).unwrap_err(), "its CloudEvent has no `source`");
    }
}
