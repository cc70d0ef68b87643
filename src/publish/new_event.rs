//! An event before it is written.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::error::PublishError;
use crate::event::{OutboxEvent, TypedEvent};
use crate::settings::WorkerSettings;
use crate::trace::{self, TraceContext};

/// The largest event accepted unless [`NewEvent::max_bytes`] says otherwise: 1 MiB.
pub const DEFAULT_MAX_EVENT_BYTES: usize = 1 << 20;

/// An event to publish: its content and its delivery options.
///
/// Rules are checked when the event is published, so that building never fails:
///
/// ```
/// # use actix_outbox::NewEvent;
/// let event = NewEvent::new("user.created", "user-service")
///     .data(serde_json::json!({ "user_id": 42 }))
///     .subject("users/42")
///     .partition_key("user-42");
/// ```
///
/// `Debug` prints no payload.
#[derive(Clone)]
#[must_use = "an event is written when it is given to `publish`"]
pub struct NewEvent {
    pub(super) id: Option<Uuid>,
    pub(crate) event_type: String,
    pub(crate) source: String,
    pub(super) subject: String,
    pub(crate) data_content_type: Option<String>,
    pub(super) data_schema: Option<String>,
    pub(super) data: Option<Result<String, String>>,
    pub(crate) data_binary: Option<Vec<u8>>,
    pub(super) schedule: Schedule,
    pub(super) time: Option<DateTime<Utc>>,
    pub(super) max_retries: Option<i32>,
    /// Used if `max_retries` is not given.
    pub(super) default_max_retries: i32,
    pub(super) publisher_backend: String,
    /// The name is from a route of the settings, and not the caller's.
    pub(super) is_routed: bool,
    pub(super) publisher_config: Vec<(String, Value)>,
    pub(super) cloud_event_id: Option<String>,
    pub(super) extensions: Vec<(String, Value)>,
    pub(super) partition_key: String,
    pub(super) max_bytes: Option<usize>,
    /// The trace of the span in which the event was made; the span in which it is published takes precedence.
    pub(super) trace: Option<TraceContext>,
}

/// Another name of [`NewEvent`], for code that sends it as a message: the event is written in a transaction of its own, and
/// the reply is the stored event. [`Outbox::send`](crate::Outbox::send) does the same without an address.
///
/// ```no_run
/// # use actix_outbox::{Outbox, PublishError, PublishEvent};
/// # async fn publish(outbox: Outbox) -> Result<(), Box<dyn std::error::Error>> {
/// let stored = outbox.addr()?.send(PublishEvent::new("user.created", "user-service")).await??;
/// println!("{}", stored.id);
/// # Ok(()) }
/// ```
pub type PublishEvent = NewEvent;

impl actix::Message for NewEvent {
    type Result = Result<OutboxEvent, PublishError>;
}

/// When an event is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Schedule {
    At(DateTime<Utc>),
    /// Counted from the time of writing, by the database's clock.
    In(Duration),
}

impl NewEvent {
    /// An event with this CloudEvents `type` and `source`, each 1 to 255 characters, due immediately.
    pub fn new(event_type: impl Into<String>, source: impl Into<String>) -> Self {
        Self {
            id: None,
            event_type: event_type.into(),
            source: source.into(),
            subject: String::new(),
            data_content_type: None,
            data_schema: None,
            data: None,
            data_binary: None,
            schedule: Schedule::In(Duration::ZERO),
            time: None,
            max_retries: None,
            default_max_retries: WorkerSettings::default().max_retries,
            publisher_backend: String::new(),
            is_routed: false,
            publisher_config: Vec::new(),
            cloud_event_id: None,
            extensions: Vec::new(),
            partition_key: String::new(),
            max_bytes: None,
            trace: trace::current(),
        }
    }

    /// An event of a type of the application, with its data; due immediately.
    pub fn typed<T: TypedEvent + Serialize>(source: impl Into<String>, data: &T) -> Self {
        Self::new(T::TYPE, source).data(data)
    }

    /// The event as it would be stored: for tests that look at what the application made, or that give it to a handler. Its
    /// times are by this machine's clock, and its `seq` is 0.
    ///
    /// # Errors
    /// The event breaks a rule.
    #[cfg(feature = "testing")]
    pub fn preview(&self) -> Result<OutboxEvent, crate::error::InvalidEvent> {
        Ok(self.clone().into_valid()?.preview())
    }

    /// Adds the event to the trace of the caller's current span, if there is one.
    pub(crate) fn in_current_trace(mut self) -> Self {
        self.trace = trace::current().or(self.trace);
        self
    }

    /// Sets JSON data. `null` means no data; a value that cannot be serialized is an error when the event is published.
    pub fn data(mut self, data: impl Serialize) -> Self {
        self.data = Some(serde_json::to_string(&data).map_err(|error| error.to_string()));
        self
    }

    /// Sets JSON data from text. The text is checked to be JSON and otherwise unchanged.
    pub fn data_json(mut self, text: impl Into<String>) -> Self {
        self.data = Some(Ok(text.into()));
        self
    }

    /// Sets binary data instead of JSON; CloudEvents `data_base64`.
    pub fn binary(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.data_binary = Some(data.into());
        self
    }

    /// Sets CloudEvents `subject`, at most 255 characters; empty: none.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    /// Sets CloudEvents `dataschema`: an absolute URI of at most 200 characters.
    pub fn data_schema(mut self, uri: impl Into<String>) -> Self {
        self.data_schema = Some(uri.into());
        self
    }

    /// Sets CloudEvents `datacontenttype`, at most 100 characters; empty: none.
    ///
    /// The default is `application/json`, or `application/octet-stream` for binary data.
    pub fn content_type(mut self, media_type: impl Into<String>) -> Self {
        self.data_content_type = Some(media_type.into());
        self
    }

    /// Sets a CloudEvents extension attribute: a name of lower-case ASCII letters and digits, and a string, a boolean or
    /// an `i32`. The last value for a name wins.
    pub fn extension(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        put(&mut self.extensions, name.into(), value.into());
        self
    }

    /// Sets CloudEvents `partitionkey`, at most 255 characters: events of one key and backend stay in order; empty: none.
    pub fn partition_key(mut self, key: impl Into<String>) -> Self {
        self.partition_key = key.into();
        self
    }

    /// Sets the backend that delivers the event: at most 100 of `a-z 0-9 _ . -`; empty: the worker's default backend.
    pub fn backend(mut self, name: impl Into<String>) -> Self {
        (self.publisher_backend, self.is_routed) = (name.into(), false);
        self
    }

    /// Sets CloudEvents `time`: when it happened, in the years 1 to 9999, to the microsecond. The default is the time of
    /// writing, by the database's clock. It changes neither when the event is due nor its order.
    pub fn time(mut self, time: DateTime<Utc>) -> Self {
        self.time = Some(time);
        self
    }

    /// Delays delivery until this time, in the years 1 to 9999.
    pub fn scheduled_at(mut self, time: DateTime<Utc>) -> Self {
        self.schedule = Schedule::At(time);
        self
    }

    /// Delays delivery by this duration after the event is written, by the database's clock; at most 1000 years.
    pub fn scheduled_in(mut self, delay: Duration) -> Self {
        self.schedule = Schedule::In(delay);
        self
    }

    /// Sets the number of rejections after which the event is marked failed; 0 means the same as 1.
    ///
    /// The default is `max_retries` under `[worker]` for an event that an [`Outbox`](crate::Outbox) or the command line
    /// writes, and 3 on a connection of the caller's own, which knows no settings.
    pub fn max_retries(mut self, times: i32) -> Self {
        self.max_retries = Some(times);
        self
    }

    /// Adds an extra field to the stream entry, a string or a number; at most 100 fields. The last value for a name wins.
    /// A name that the entry already has, such as `source`, replaces the entry's value; `seq` is refused.
    pub fn publisher_config(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        put(&mut self.publisher_config, name.into(), value.into());
        self
    }

    /// Sets the event's id; the default is a new UUID (version 7).
    ///
    /// If an event with this id is already stored, the same content returns the stored event, and other content is
    /// refused with [`PublishError::IdConflict`]. After retention deletes the event, its id is free, and an event with
    /// that id is new.
    pub fn id(mut self, id: Uuid) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets another producer's CloudEvents `id` that is not a UUID, 1 to 255 characters.
    ///
    /// Unless [`id`](Self::id) is given too, the row's id is derived from `source` and this id (see
    /// [`CLOUD_EVENT_NAMESPACE`](crate::CLOUD_EVENT_NAMESPACE)), so that a repetition of the event is recognised.
    pub fn cloud_event_id(mut self, id: impl Into<String>) -> Self {
        self.cloud_event_id = Some(id.into());
        self
    }

    /// Sets the largest total size of the event's variable-size parts in bytes, as [`OutboxEvent::size`] counts them.
    ///
    /// The default is `max_event_bytes` under `[worker]` for an event that an [`Outbox`](crate::Outbox) or the command
    /// line writes, and [`DEFAULT_MAX_EVENT_BYTES`] on a connection of the caller's own. A worker does not deliver an
    /// event that is larger than its own `max_event_bytes`: the event becomes `failed`.
    pub fn max_bytes(mut self, limit: usize) -> Self {
        self.max_bytes = Some(limit);
        self
    }

    pub(crate) fn names_backend(&self) -> bool {
        !self.publisher_backend.is_empty()
    }

    pub(crate) fn extension_value(&self, name: &str) -> Option<&Value> {
        self.extensions.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Sets the backend that a route gives.
    pub(crate) fn routed_to(mut self, publisher: String) -> Self {
        (self.publisher_backend, self.is_routed) = (publisher, true);
        self
    }

    /// Fills in the values that the event does not set.
    pub(crate) fn or_defaults(mut self, max_retries: i32, max_bytes: usize) -> Self {
        self.default_max_retries = max_retries;
        self.max_bytes.get_or_insert(max_bytes);
        self
    }
}

/// Inserts as a map does: a known name keeps its position and gets the new value.
fn put(pairs: &mut Vec<(String, Value)>, name: String, value: Value) {
    match pairs.iter_mut().find(|(known, _)| *known == name) {
        Some((_, old)) => *old = value,
        None => pairs.push((name, value)),
    }
}

/// Payload and configuration stay out of logs.
impl fmt::Debug for NewEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewEvent")
            .field("id", &self.id)
            .field("event_type", &self.event_type)
            .field("source", &self.source)
            .field("publisher_backend", &self.publisher_backend)
            .field("schedule", &self.schedule)
            .finish_non_exhaustive()
    }
}
