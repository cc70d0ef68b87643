use chrono::{DateTime, TimeZone, Utc};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn event() -> NewEvent {
    NewEvent::new("user.created", "user-service")
}

fn refused(event: NewEvent) -> InvalidEvent {
    event.into_valid().map(|_| ()).expect_err("the event breaks a rule")
}

#[test]
fn an_event_that_says_little_gets_the_tables_defaults() {
    let ready = event().into_valid().unwrap();
    assert_eq!(ready.id.get_version_num(), 7);
    assert_eq!((ready.data, ready.data_binary, ready.scheduled_micros, ready.delay_micros), (None, None, None, 0));
    assert_eq!((ready.max_retries, ready.data_content_type.as_str()), (3, "application/json"));
    assert_eq!((ready.publisher_config.as_str(), ready.extensions.as_str()), ("{}", "{}"));
    assert_eq!((ready.partition_key.as_str(), ready.cloud_event_id.as_str()), ("", ""));
}

#[test]
fn lengths_are_counted_in_characters_up_to_the_limit() {
    type Set = fn(NewEvent, String) -> NewEvent;
    let fields: [(&str, usize, Set); 6] = [
        ("event_type", 255, |_, text| NewEvent::new(text, "s")),
        ("source", 255, |_, text| NewEvent::new("t", text)),
        ("subject", 255, NewEvent::subject),
        ("partition_key", 255, NewEvent::partition_key),
        ("cloud_event_id", 255, NewEvent::cloud_event_id),
        ("data_content_type", 100, NewEvent::content_type),
    ];
    for (field, limit, set) in fields {
        set(event(), "é".repeat(limit)).into_valid().unwrap_or_else(|error| panic!("{field}: {error}"));
        let error = refused(set(event(), "é".repeat(limit + 1)));
        assert_eq!((error.field.as_str(), error.problem.contains(&limit.to_string())), (field, true), "{error}");
        assert!(!error.to_string().contains('é'), "the value is shown: {error}");
        for text in ["a\0b", "a\nb", "a\u{85}b", "a\u{FFFE}b", "a\u{1FFFF}b", "a\u{FDD0}b"] {
            assert_eq!(refused(set(event(), text.to_owned())).field, field);
        }
    }
    for (field, event) in [
        ("event_type", NewEvent::new("", "s")),
        ("source", NewEvent::new("t", "")),
        ("cloud_event_id", event().cloud_event_id("")),
    ] {
        assert_eq!(refused(event).field, field);
    }
    assert!(event().publisher_backend_of_length(100).into_valid().is_ok());
    assert_eq!(refused(event().publisher_backend_of_length(101)).field, "publisher_backend");
}

impl NewEvent {
    fn publisher_backend_of_length(self, length: usize) -> Self {
        self.backend("b".repeat(length))
    }
}

#[test]
fn a_backend_is_a_lane_name() {
    assert!(event().backend("redis-2_a.b").into_valid().is_ok());
    for name in ["Redis", "a b", "a/b", "é"] {
        assert_eq!(refused(event().backend(name)).field, "publisher_backend");
    }
}

#[test]
fn a_schema_is_an_absolute_uri() {
    let of_length = |length: usize| format!("https://a.b/{}", "x".repeat(length - 12));
    for uri in ["https://example.com/s.json#part", "urn:example:schema", &of_length(200)] {
        assert_eq!(event().data_schema(uri).into_valid().unwrap().data_schema, uri);
    }
    for uri in ["", "schema.json", "//host/path", "https://a b/", &of_length(201)] {
        assert_eq!(refused(event().data_schema(uri)).field, "data_schema");
    }
}

#[test]
fn extensions_follow_cloudevents() {
    let ready = event()
        .extension("traceparent", "00-ab-cd-01")
        .extension("sampled", true)
        .extension("sequence2", i32::MIN)
        .extension("sequence2", i32::MAX)
        .into_valid()
        .unwrap();
    let extensions: Value = serde_json::from_str(&ready.extensions).unwrap();
    assert_eq!(extensions, json!({"traceparent": "00-ab-cd-01", "sampled": true, "sequence2": i32::MAX}));
    for name in
        ["", "Trace", "trace_parent", "trace-parent", "trâce", "data", "id", "partitionkey", "time", "data_base64"]
    {
        let error = refused(event().extension(name, "secret"));
        assert!(error.field.starts_with("extensions."), "{error}");
        assert!(!error.to_string().contains("secret"));
    }
    for value in [json!(null), json!(1.5), json!(i64::from(i32::MAX) + 1), json!([]), json!({}), json!("a\nb")] {
        assert_eq!(refused(event().extension("name", value)).field, "extensions.name");
    }
}

#[test]
fn config_fields_are_strings_and_numbers() {
    let ready =
        event().publisher_config("a", "1").publisher_config("b", 1.5).publisher_config("a", 2).into_valid().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&ready.publisher_config).unwrap(), json!({"a": 2, "b": 1.5}));
    for value in [json!(null), json!(true), json!([1]), json!({}), json!(f64::NAN), json!("a\0")] {
        assert_eq!(refused(event().publisher_config("name", value)).field, "publisher_config.name");
    }
    assert_eq!(refused(event().publisher_config("", 1)).field, "publisher_config.");
    assert_eq!(refused(event().publisher_config("seq", 1)).field, "publisher_config.seq");
    assert!(event().publisher_config("seq_", 1).publisher_config("Seq", 1).into_valid().is_ok());
    let fields = |count: usize| (0..count).fold(event(), |event, at| event.publisher_config(format!("f{at}"), at));
    assert!(fields(MAX_CONFIG_PAIRS).into_valid().is_ok());
    assert_eq!(refused(fields(MAX_CONFIG_PAIRS + 1)).field, "publisher_config");
}

#[test]
fn data_is_json_or_bytes() {
    assert_eq!(event().data(json!({"a": 1})).into_valid().unwrap().data.as_deref(), Some("{\"a\":1}"));
    assert_eq!(event().data(()).into_valid().unwrap().data, None);
    assert_eq!(event().data_json(" null ").into_valid().unwrap().data, None);
    let binary = event().binary([1, 2]).into_valid().unwrap();
    assert_eq!((binary.data_binary, binary.data_content_type.as_str()), (Some(vec![1, 2]), "application/octet-stream"));
    assert_eq!(event().binary([1]).content_type("image/png").into_valid().unwrap().data_content_type, "image/png");
    for event in [
        event().data(1).binary([1]),
        event().data_json("{"),
        event().data("a\0b"),
        event().data(std::collections::HashMap::from([((1, 2), 3)])),
    ] {
        assert_eq!(refused(event).field, "data");
    }
}

#[test]
fn size_is_bounded() {
    let overhead = "user.created".len() + "user-service".len() + "{}{}".len();
    assert!(event().binary(vec![0; 1000 - overhead]).max_bytes(1000).into_valid().is_ok());
    let error = refused(event().binary(vec![0; 1001 - overhead]).max_bytes(1000));
    assert!(error.to_string().contains("1001 bytes large; the limit is 1000"), "{error}");
    assert!(refused(event().data("x".repeat(DEFAULT_MAX_EVENT_BYTES))).problem.contains("1048576"));
    assert!(event().data("x".repeat(DEFAULT_MAX_EVENT_BYTES)).or_defaults(3, 2 << 20).into_valid().is_ok());
    assert!(event().publisher_config("name", "x".repeat(2000)).max_bytes(1000).into_valid().is_err());
    assert!(event().extension("name", "x".repeat(2000)).max_bytes(1000).into_valid().is_err());
}

#[test]
fn times_and_counts_are_those_that_every_reader_knows() {
    let at = |year| Utc.with_ymd_and_hms(year, 6, 1, 0, 0, 0).unwrap();
    for year in [1, 2025, 9999] {
        let ready = event().scheduled_at(at(year)).into_valid().unwrap();
        assert_eq!(ready.scheduled_micros, Some(at(year).timestamp_micros()));
    }
    for time in [at(0), at(10_000), DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
        assert_eq!(refused(event().scheduled_at(time)).field, "scheduled_at");
    }
    let leap_second = DateTime::parse_from_rfc3339("9999-12-31T23:59:60Z").unwrap().to_utc();
    assert_eq!(refused(event().time(leap_second)).field, "time");
    assert_eq!(event().scheduled_in(Duration::from_millis(1500)).into_valid().unwrap().delay_micros, 1_500_000);
    assert!(event().scheduled_in(MAX_DELAY).into_valid().is_ok());
    assert_eq!(refused(event().scheduled_in(Duration::MAX)).field, "scheduled_at");
    assert!(event().max_retries(0).into_valid().is_ok() && event().max_retries(i32::MAX).into_valid().is_ok());
    assert_eq!(refused(event().max_retries(-1)).field, "max_retries");
    assert_eq!(event().or_defaults(7, 100).into_valid().unwrap().max_retries, 7);
    assert_eq!(event().max_retries(1).or_defaults(7, 100).into_valid().unwrap().max_retries, 1);
}

#[test]
fn another_producers_id_always_gives_the_same_row() {
    let id = |source: &str, id: &str| NewEvent::new("t", source).cloud_event_id(id).into_valid().unwrap();
    assert_eq!(id("a", "1").id, id("a", "1").id);
    assert_ne!(id("a", "1").id, id("b", "1").id);
    assert_ne!(id("a", "1").id, id("a", "2").id);
    assert_eq!((id("a", "1").id.get_version_num(), id("a", "1").cloud_event_id.as_str()), (5, "1"));
    // Fixed: rows that an earlier version wrote must still be found.
    assert_eq!(id("user-service", "A-1").id.to_string(), "991d4e79-4af2-5479-a0d0-d4e631dff0a4");
}

#[test]
fn debug_shows_no_payload() {
    let event = event().data("secret").publisher_config("token", "secret").extension("name", "secret");
    assert!(!format!("{event:?}").contains("secret"));
}

proptest! {
    #[test]
    fn whatever_is_accepted_fits_the_columns(event_type in ".{0,300}", key in ".{0,300}", data in ".{0,50}") {
        if let Ok(ready) = NewEvent::new(event_type, "s").partition_key(key).data(data).into_valid() {
            prop_assert!((1..=255).contains(&ready.event_type.chars().count()));
            prop_assert!(ready.partition_key.chars().count() <= 255);
            for text in [&ready.event_type, &ready.partition_key, &ready.publisher_config, ready.data.as_ref().unwrap()] {
                prop_assert!(!text.contains('\0'));
            }
        }
    }
}
