//! What a test expects of an event.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::event::{OutboxEvent, TypedEvent};

/// A condition, with its description for messages.
struct Condition {
    what: String,
    holds: Box<dyn Fn(&OutboxEvent) -> bool + Send + Sync>,
}

/// What a test expects of an event: every condition that it names.
///
/// ```
/// # use actix_outbox::testing::Expected;
/// let expected = Expected::new("user.created").key("Ada").data("has a name", |data| data["name"] == "Ada");
/// ```
///
/// A text is an event of this type: `Expected::from("user.created")`.
#[must_use]
pub struct Expected {
    conditions: Vec<Condition>,
}

impl Expected {
    /// An event of this CloudEvents type.
    pub fn new(event_type: impl Into<String>) -> Self {
        Self::any().equal("type", event_type, |event| &event.event_type)
    }

    /// Any event.
    pub fn any() -> Self {
        Self { conditions: Vec::new() }
    }

    /// An event of this type whose data has its shape and fulfils the condition.
    pub fn typed<T: TypedEvent + DeserializeOwned>(
        what: impl Into<String>,
        holds: impl Fn(T) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self::new(T::TYPE).matching(what, move |event| event.data_as().is_ok_and(&holds))
    }

    /// With this CloudEvents source.
    pub fn source(self, source: impl Into<String>) -> Self {
        self.equal("source", source, |event| &event.source)
    }

    /// With this CloudEvents subject.
    pub fn subject(self, subject: impl Into<String>) -> Self {
        self.equal("subject", subject, |event| &event.subject)
    }

    /// With this partition key.
    pub fn key(self, key: impl Into<String>) -> Self {
        self.equal("key", key, |event| &event.partition_key)
    }

    /// For this backend; empty: the default one.
    pub fn backend(self, name: impl Into<String>) -> Self {
        self.equal("backend", name, |event| &event.publisher_backend)
    }

    /// With data that fulfils the condition, which `what` describes in messages. Without JSON data it is `null`.
    pub fn data(self, what: impl Into<String>, holds: impl Fn(&Value) -> bool + Send + Sync + 'static) -> Self {
        self.matching(what, move |event| event.data_as::<Value>().is_ok_and(|data| holds(&data)))
    }

    /// With this data.
    pub fn data_is(self, data: Value) -> Self {
        self.matching(format!("data = {data}"), move |event| event.data_as().is_ok_and(|other: Value| other == data))
    }

    /// Fulfilling a condition of the test's own, which `what` describes in messages.
    pub fn matching(
        mut self,
        what: impl Into<String>,
        holds: impl Fn(&OutboxEvent) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.conditions.push(Condition { what: what.into(), holds: Box::new(holds) });
        self
    }

    fn equal(self, name: &str, value: impl Into<String>, field: fn(&OutboxEvent) -> &String) -> Self {
        let value = value.into();
        self.matching(format!("{name} = {value:?}"), move |event| *field(event) == value)
    }

    /// Whether the event is as expected.
    #[must_use]
    pub fn matches(&self, event: &OutboxEvent) -> bool {
        self.conditions.iter().all(|condition| (condition.holds)(event))
    }

    /// The conditions that the event does not fulfil.
    pub(super) fn missed_by(&self, event: &OutboxEvent) -> Vec<&str> {
        let missed = self.conditions.iter().filter(|condition| !(condition.holds)(event));
        missed.map(|condition| condition.what.as_str()).collect()
    }
}

impl<T: Into<String>> From<T> for Expected {
    fn from(event_type: T) -> Self {
        Self::new(event_type)
    }
}

impl fmt::Debug for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.conditions.is_empty() {
            return f.write_str("any event");
        }
        let conditions: Vec<&str> = self.conditions.iter().map(|condition| condition.what.as_str()).collect();
        f.write_str(&conditions.join(", "))
    }
}
