use chrono::TimeZone;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
#[cfg(feature = "redis")]
use crate::backend::redis::stream::entry::{EntryFields, entry_fields, python_float};
use crate::event::Status;
use crate::publish::NewEvent;

fn stored(event: NewEvent) -> OutboxEvent {
    let ready = event.into_valid().unwrap();
    let time = Utc.with_ymd_and_hms(2025, 6, 24, 20, 27, 0).unwrap();
    OutboxEvent {
        id: ready.id,
        spec_version: "1.0".to_owned(),
        event_type: ready.event_type,
        source: ready.source,
        subject: ready.subject,
        data_content_type: ready.data_content_type,
        data_schema: ready.data_schema,
        data: ready.data.map(JsonText::new),
        data_binary: ready.data_binary,
        status: Status::Pending,
        created_at: time,
        updated_at: time,
        scheduled_at: time,
        published_at: None,
        retry_count: 0,
        max_retries: ready.max_retries,
        last_error: String::new(),
        publisher_backend: ready.publisher_backend,
        publisher_config: JsonText::new(ready.publisher_config),
        seq: 1,
        retry_at: None,
        cloud_event_id: ready.cloud_event_id,
        extensions: JsonText::new(ready.extensions),
        partition_key: ready.partition_key,
        pending_handlers: None,
        errors: None,
        event_time: ready.event_micros.and_then(DateTime::from_timestamp_micros),
    }
}

fn with_config(config: &str) -> OutboxEvent {
    OutboxEvent { publisher_config: JsonText::new(config.to_owned()), ..stored(NewEvent::new("t", "s")) }
}

const ID: Uuid = Uuid::from_u128(0x0197a3b2_0000_7000_8000_000000000001);

#[test]
fn attributes_stand_in_the_order_that_consumers_know() {
    let event = NewEvent::new("user.created", "user-service").id(ID).data_json(r#"{"b": 1,  "a": 1.50}"#);
    assert_eq!(
        to_json(&stored(event.clone())),
        r#"{"specversion":"1.0","type":"user.created","source":"user-service","id":"0197a3b2-0000-7000-8000-000000000001","time":"2025-06-24T20:27:00+00:00","datacontenttype":"application/json","data":{"b": 1,  "a": 1.50}}"#
    );
    let happened = Utc.with_ymd_and_hms(2025, 6, 1, 12, 0, 0).unwrap();
    assert!(to_json(&stored(event.clone().time(happened))).contains(r#","time":"2025-06-01T12:00:00+00:00","#));
    let full = event
        .subject("say \"hé\"")
        .data_schema("urn:s")
        .partition_key("k")
        .extension("traceparent", "00")
        .cloud_event_id("A-1");
    assert_eq!(
        to_json(&stored(full)),
        r#"{"specversion":"1.0","type":"user.created","source":"user-service","id":"A-1","time":"2025-06-24T20:27:00+00:00","subject":"say \"hé\"","datacontenttype":"application/json","dataschema":"urn:s","partitionkey":"k","traceparent":"00","data":{"b": 1,  "a": 1.50}}"#
    );
}

#[test]
fn null_is_no_data_and_bytes_are_base64() {
    let null = OutboxEvent { data: Some(JsonText::new("null".to_owned())), ..stored(NewEvent::new("t", "s")) };
    assert!(!to_json(&null).contains("data\""));
    assert!(to_json(&stored(NewEvent::new("t", "s").binary([0, 255]))).ends_with(r#","data_base64":"AP8="}"#));
}

#[test]
fn extensions_of_another_writer_do_not_repeat_an_attribute() {
    let extensions = JsonText::new(r#"{"id": "x", "data": 1, "partitionkey": "p", "more": [1]}"#.to_owned());
    let event = OutboxEvent { extensions, ..stored(NewEvent::new("t", "s").partition_key("k")) };
    let json: Value = serde_json::from_str(&to_json(&event)).unwrap();
    assert_eq!((&json["partitionkey"], &json["more"], json.get("data")), (&json!("k"), &json!([1]), None));
    assert_eq!(json["id"], event.id.to_string());
}

#[test]
fn times_are_written_as_python_writes_them() {
    let at = |micros| {
        let mut out = String::new();
        push_isoformat(&mut out, DateTime::from_timestamp_micros(micros).unwrap());
        out
    };
    assert_eq!(at(1_750_796_820_123_456), "2025-06-24T20:27:00.123456+00:00");
    assert_eq!(at(1_750_796_820_000_000), "2025-06-24T20:27:00+00:00");
    assert_eq!(at(1_750_796_820_000_100), "2025-06-24T20:27:00.000100+00:00");
    assert_eq!(at(-62_135_596_800_000_000), "0001-01-01T00:00:00+00:00");
    assert_eq!(at(-1), "1969-12-31T23:59:59.999999+00:00");
}

#[test]
#[cfg(feature = "redis")]
fn floats_are_printed_as_python_prints_them() {
    for (number, text) in [
        (1.5, "1.5"),
        (1.0, "1.0"),
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (0.1, "0.1"),
        (1e-4, "0.0001"),
        (1.5e-4, "0.00015"),
        (1e-5, "1e-05"),
        (1e-7, "1e-07"),
        (1.25e-10, "1.25e-10"),
        (123456789.125, "123456789.125"),
        (1e15, "1000000000000000.0"),
        (9007199254740993.0, "9007199254740992.0"),
        (9999999999999998.0, "9999999999999998.0"),
        (1e16, "1e+16"),
        (1.2345e20, "1.2345e+20"),
        (1e22, "1e+22"),
        (1e100, "1e+100"),
        (-2.5e-300, "-2.5e-300"),
        (f64::MAX, "1.7976931348623157e+308"),
        (5e-324, "5e-324"),
        (f64::INFINITY, "inf"),
        (f64::NEG_INFINITY, "-inf"),
    ] {
        assert_eq!(python_float(number), text);
    }
}

#[test]
#[cfg(feature = "redis")]
fn an_entry_has_the_standard_fields_and_then_the_configured_ones() {
    let event = with_config(
        r#"{"s": "x\"yé", "plain": "é", "i": 123456789012345678901234567890, "f": 1e-7, "z": -0, "source": "mine", "s": "again"}"#,
    );
    let EntryFields { fields, ignores_seq } = entry_fields(&event).unwrap();
    let id = event.id.to_string();
    let json = to_json(&event);
    let expected = [
        ("event_id", id.as_str()),
        ("event_type", "t"),
        ("source", "mine"),
        ("timestamp", "2025-06-24T20:27:00+00:00"),
        ("cloud_event", json.as_str()),
        ("seq", "1"),
        ("s", "again"),
        ("plain", "é"),
        ("i", "123456789012345678901234567890"),
        ("f", "1e-07"),
        ("z", "0"),
    ];
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
    assert_eq!((fields.as_slice(), ignores_seq), (expected.as_slice(), false));
}

#[test]
#[cfg(feature = "redis")]
fn no_pair_changes_the_seq_of_an_entry() {
    for (seq, text) in [(0, "0"), (7, "7"), (i64::MAX, "9223372036854775807")] {
        for config in [r#"{"seq": 5, "x": 1}"#, r#"{"x": 1, "seq": null, "s\u0065q": "9"}"#] {
            let event = OutboxEvent { seq, ..with_config(config) };
            let EntryFields { fields, ignores_seq } = entry_fields(&event).unwrap();
            let behind: Vec<(&str, &str)> = fields[5..].iter().map(|(name, value)| (&**name, &**value)).collect();
            assert_eq!((behind, ignores_seq), (vec![("seq", text), ("x", "1")], true));
        }
    }
}

#[test]
#[cfg(feature = "redis")]
fn what_an_entry_cannot_hold_names_its_key() {
    for value in ["true", "null", "[]", "{}", r#""\ud800""#] {
        let problem = entry_fields(&with_config(&format!("{{\"the key\": {value}}}"))).unwrap_err();
        assert!(problem.contains("the key"), "{problem}");
    }
    let many =
        |count: usize| format!("{{{}}}", (0..count).map(|at| format!("\"{at}\":1")).collect::<Vec<_>>().join(","));
    assert_eq!(entry_fields(&with_config(&many(500))).unwrap().fields.len(), 506);
    assert!(entry_fields(&with_config(&many(501))).unwrap_err().contains("500"));
    assert!(entry_fields(&with_config("[]")).is_err());
}

proptest! {
    #[test]
    #[cfg(feature = "redis")]
    fn floats_come_back_from_what_is_printed(number in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL) {
        prop_assert_eq!(python_float(number).parse::<f64>().unwrap(), number);
    }

    #[test]
    fn a_cloud_event_comes_back_from_its_json(
        names in ("[^\\p{C}]{1,20}", "[^\\p{C}]{1,20}", "[^\\p{C}]{0,20}"),
        key in "[^\\p{C}]{0,20}",
        id in "[^\\p{C}]{1,20}",
        payload in "[^\0]{0,20}",
        number: f64,
        bytes: Option<Vec<u8>>,
        extension in "[a-z0-9]{1,10}",
        flag: bool,
        micros in -62_135_596_800_000_000_i64..253_402_300_800_000_000,
    ) {
        let event = NewEvent::new(&names.0, &names.1).subject(&names.2).partition_key(&key).cloud_event_id(&id);
        let event = event.time(DateTime::from_timestamp_micros(micros).unwrap());
        let event = match bytes {
            Some(bytes) => event.binary(bytes),
            None => event.data(json!({ payload: number })),
        };
        let event = match RESERVED_NAMES.contains(&extension.as_str()) {
            true => event,
            false => event.extension(extension, flag),
        };
        let event = stored(event);
        let again = stored(NewEvent::from_cloud_event_json(&to_json(&event)).unwrap());
        prop_assert!(event == again);
    }

    #[test]
    fn strings_are_escaped_as_json(text: String) {
        let mut out = String::new();
        push_string(&mut out, &text);
        prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
    }
}
