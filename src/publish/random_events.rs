//! Random events, for the tests of every way to publish.

use chrono::{DateTime, Utc};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::NewEvent;

/// What a caller gives, as texts.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) event_type: String,
    pub(crate) source: String,
    pub(crate) data: Option<String>,
    pub(crate) texts: [String; 4],
    pub(crate) scheduled_at: Option<DateTime<Utc>>,
    pub(crate) event_time: Option<DateTime<Utc>>,
    pub(crate) max_retries: i32,
    pub(crate) config: Value,
    pub(crate) extensions: Value,
}

impl Given {
    pub(crate) fn new() -> Self {
        Self {
            event_type: "t".to_owned(),
            source: "s".to_owned(),
            data: None,
            texts: ["", "", "", "application/json"].map(str::to_owned),
            scheduled_at: None,
            event_time: None,
            max_retries: 3,
            config: json!({}),
            extensions: json!({}),
        }
    }

    pub(crate) fn event(&self) -> NewEvent {
        let [subject, key, backend, content_type] = self.texts.clone();
        let mut event = NewEvent::new(&self.event_type, &self.source)
            .subject(subject)
            .partition_key(key)
            .backend(backend)
            .content_type(content_type)
            .max_retries(self.max_retries);
        event = self.data.iter().fold(event, NewEvent::data_json);
        event = self.scheduled_at.into_iter().fold(event, NewEvent::scheduled_at);
        event = self.event_time.into_iter().fold(event, NewEvent::time);
        for (name, value) in self.config.as_object().unwrap() {
            event = event.publisher_config(name, value.clone());
        }
        for (name, value) in self.extensions.as_object().unwrap() {
            event = event.extension(name, value.clone());
        }
        event
    }

    pub(crate) fn cloud_event(&self, id: &str) -> String {
        let [subject, key, _, content_type] = &self.texts;
        let mut event = self.extensions.clone();
        let attributes = event.as_object_mut().unwrap();
        let time = self.event_time.map(|time| time.to_rfc3339());
        for (name, value) in [
            ("specversion", Some("1.0")),
            ("id", Some(id)),
            ("type", Some(&*self.event_type)),
            ("source", Some(&self.source)),
            ("subject", Some(subject).filter(|text| !text.is_empty()).map(|text| &**text)),
            ("partitionkey", Some(key).filter(|text| !text.is_empty()).map(|text| &**text)),
            ("datacontenttype", Some(content_type).filter(|text| !text.is_empty()).map(|text| &**text)),
            ("time", time.as_deref()),
        ] {
            attributes.extend(value.map(|value| (name.to_owned(), Value::from(value))));
        }
        attributes.extend(self.data.iter().map(|data| ("data".to_owned(), data.parse().unwrap())));
        event.to_string()
    }
}

prop_compose! {
    fn text(shortest: usize)(text in proptest::collection::vec("[a-zA-Zé😀'\"\\\\ {}$/:.-]", shortest..12)) -> String {
        text.concat()
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9_f64).prop_map(Value::from),
        text(0).prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map("[a-zé]{0,5}", inner, 0..4).prop_map(|map| json!(map))
        ]
    })
}

fn time() -> impl Strategy<Value = Option<DateTime<Utc>>> {
    let micros = -60_000_000_000_000_000..250_000_000_000_000_000_i64;
    proptest::option::of(micros.prop_map(|micros| DateTime::from_timestamp_micros(micros).unwrap()))
}

fn config_value() -> impl Strategy<Value = Value> {
    prop_oneof![text(0).prop_map(Value::from), any::<i64>().prop_map(Value::from)]
}

fn extension_value() -> impl Strategy<Value = Value> {
    prop_oneof![text(0).prop_map(Value::from), any::<i32>().prop_map(Value::from), any::<bool>().prop_map(Value::from)]
}

prop_compose! {
    pub(crate) fn given()(
        event_type in text(1),
        source in text(1),
        data in proptest::option::of(json_value().prop_map(|value| value.to_string())),
        texts in (text(0), text(0), "[a-z0-9_.-]{0,8}", text(0)),
        times in (time(), time()),
        max_retries in 0..i32::MAX,
        config in proptest::collection::hash_map(text(1), config_value(), 0..3),
        extensions in proptest::collection::hash_map("x[a-z0-9]{0,8}", extension_value(), 0..3),
    ) -> Given {
        Given {
            event_type, source, data, texts: [texts.0, texts.1, texts.2, texts.3], scheduled_at: times.0, event_time: times.1,
            max_retries, config: json!(config), extensions: json!(extensions),
        }
    }
}

/// The same events in each run.
pub(crate) fn random_events(count: usize) -> Vec<Given> {
    let mut runner = TestRunner::deterministic();
    (0..count).map(|_| given().new_tree(&mut runner).unwrap().current()).collect()
}
