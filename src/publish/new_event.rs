//! An event before it is written.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::error::PublishError;
use crate::event::OutboxEvent;
use crate::settings::WorkerSettings;
use crate::trace::{self, TraceContext};

/// The largest event accepted unless [`NewEvent::max_bytes`] says otherwise: 1 MiB.
pub const DEFAULT_MAX_EVENT_BYTES: usize = 1 << 20;

/// An event to publish: what to say, and how it is to be delivered.
///
/// Rules are checked when it is published, so that building never fails:
///
/// ```
/// # use actix_outbox::NewEvent;
/// let event = NewEvent::new("user.created", "user-service")
///     .data(serde_json::json!({ "user_id": 42 }))
///     .subject("users/42")
///     .partition_key("user-42");
/// ```
///
/// Its `Debug` shows no payload.
#[derive(Clone)]
#[must_use = "an event is written when it is given to `publish`"]
pub struct NewEvent {
    pub(super) id: Option<Uuid>,
    pub(super) event_type: String,
    pub(super) source: String,
    pub(super) subject: String,
    pub(super) data_content_type: Option<String>,
    pub(super) data_schema: Option<String>,
    pub(super) data: Option<Result<String, String>>,
    pub(super) data_binary: Option<Vec<u8>>,
    pub(super) schedule: Schedule,
    pub(super) max_retries: Option<i32>,
    /// Unless it says itself.
    pub(super) default_max_retries: i32,
    pub(super) publisher_backend: String,
    pub(super) publisher_config: Vec<(String, Value)>,
    pub(super) cloud_event_id: Option<String>,
    pub(super) extensions: Vec<(String, Value)>,
    pub(super) partition_key: String,
    pub(super) max_bytes: Option<usize>,
    /// Of the span in which it was made; that in which it is published goes before it.
    pub(super) trace: Option<TraceContext>,
}

/// The message that publishes an event in a transaction of its own; it is answered with the event as stored.
pub type PublishEvent = NewEvent;

impl actix::Message for NewEvent {
    type Result = Result<OutboxEvent, PublishError>;
}

/// When an event is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Schedule {
    At(DateTime<Utc>),
    /// Counted from the moment of writing, by the database's clock.
    In(Duration),
}

impl NewEvent {
    /// An event of this CloudEvents `type` and `source`, each 1 to 255 characters, due at once.
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
            max_retries: None,
            default_max_retries: WorkerSettings::default().max_retries,
            publisher_backend: String::new(),
            publisher_config: Vec::new(),
            cloud_event_id: None,
            extensions: Vec::new(),
            partition_key: String::new(),
            max_bytes: None,
            trace: trace::current(),
        }
    }

    /// Belongs to the trace of the span that the caller is in, where there is one.
    pub(crate) fn in_current_trace(mut self) -> Self {
        self.trace = trace::current().or(self.trace);
        self
    }

    /// JSON data. What serializes to `null` is no data; what cannot be serialized is an error when it is published.
    pub fn data(mut self, data: impl Serialize) -> Self {
        self.data = Some(serde_json::to_string(&data).map_err(|error| error.to_string()));
        self
    }

    /// JSON data that is text already. It is checked to be JSON and otherwise left as it is.
    pub fn data_json(mut self, text: impl Into<String>) -> Self {
        self.data = Some(Ok(text.into()));
        self
    }

    /// Binary data instead of JSON; CloudEvents `data_base64`.
    pub fn binary(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.data_binary = Some(data.into());
        self
    }

    /// CloudEvents `subject`, at most 255 characters; empty: none.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    /// CloudEvents `dataschema`: an absolute URI of at most 200 characters.
    pub fn data_schema(mut self, uri: impl Into<String>) -> Self {
        self.data_schema = Some(uri.into());
        self
    }

    /// CloudEvents `datacontenttype`, at most 100 characters; empty: none.
    ///
    /// Unless given it is `application/json`, or `application/octet-stream` for binary data.
    pub fn content_type(mut self, media_type: impl Into<String>) -> Self {
        self.data_content_type = Some(media_type.into());
        self
    }

    /// A CloudEvents extension attribute: a name of lower-case ASCII letters and digits, and a string, a boolean or an
    /// `i32`. Given again, the later value counts.
    pub fn extension(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        put(&mut self.extensions, name.into(), value.into());
        self
    }

    /// CloudEvents `partitionkey`, at most 255 characters: events of one key and backend keep their order; empty: none.
    pub fn partition_key(mut self, key: impl Into<String>) -> Self {
        self.partition_key = key.into();
        self
    }

    /// The name of the backend that delivers it, at most 100 of `a-z 0-9 _ . -`; empty: the worker's default backend.
    pub fn backend(mut self, name: impl Into<String>) -> Self {
        self.publisher_backend = name.into();
        self
    }

    /// Not to be delivered before this time, in the years 1 to 9999.
    pub fn scheduled_at(mut self, time: DateTime<Utc>) -> Self {
        self.schedule = Schedule::At(time);
        self
    }

    /// Not to be delivered before this much later than it is written, by the database's clock; at most 1000 years.
    pub fn scheduled_in(mut self, delay: Duration) -> Self {
        self.schedule = Schedule::In(delay);
        self
    }

    /// It fails with this rejection by a backend or a handler: 3 is the third. 0 or more; 0 is the first, as 1 is.
    ///
    /// Unless given it is `max_retries` under `[worker]` for an event that an [`Outbox`](crate::Outbox) or the command
    /// line writes, and 3 on a connection of the caller's own, which knows no settings.
    pub fn max_retries(mut self, times: i32) -> Self {
        self.max_retries = Some(times);
        self
    }

    /// An extra field of the stream entry, a string or a number; at most 100. Given again, the later value counts. A name
    /// that the entry has already, such as `source`, replaces what it holds there.
    pub fn publisher_config(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        put(&mut self.publisher_config, name.into(), value.into());
        self
    }

    /// Its id; a new UUID (version 7) unless given.
    ///
    /// The same id again is the same event if the content is the same too: the stored event is returned. With other content
    /// it is refused: [`PublishError::IdConflict`]. That holds for as long as retention keeps the event; afterwards its id is
    /// free, and the same id is a new event.
    pub fn id(mut self, id: Uuid) -> Self {
        self.id = Some(id);
        self
    }

    /// Another producer's CloudEvents `id` that is no UUID, 1 to 255 characters.
    ///
    /// Unless [`id`](Self::id) is given too, the row's id is derived from the source and this (see
    /// [`CLOUD_EVENT_NAMESPACE`](crate::CLOUD_EVENT_NAMESPACE)), so that the same event again is recognised.
    pub fn cloud_event_id(mut self, id: impl Into<String>) -> Self {
        self.cloud_event_id = Some(id.into());
        self
    }

    /// How many bytes its variable parts may take together, as [`OutboxEvent::size`] counts them.
    ///
    /// Unless given it is `max_event_bytes` under `[worker]` for an event that an [`Outbox`](crate::Outbox) or the command
    /// line writes, and [`DEFAULT_MAX_EVENT_BYTES`] on a connection of the caller's own. A worker does not deliver an event
    /// that is larger than its own `max_event_bytes`: it becomes `failed`.
    pub fn max_bytes(mut self, limit: usize) -> Self {
        self.max_bytes = Some(limit);
        self
    }

    /// Fills in what the event does not say itself.
    pub(crate) fn or_defaults(mut self, max_retries: i32, max_bytes: usize) -> Self {
        self.default_max_retries = max_retries;
        self.max_bytes.get_or_insert(max_bytes);
        self
    }
}

/// As a map would: a name that is there keeps its place and gets the new value.
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
