//! Many events as one statement of PostgreSQL, whose parameters are arrays of texts, for drivers other than diesel.

use uuid::Uuid;

use crate::error::{IdConflict, PublishError};
use crate::publish::ValidEvent;
use crate::publish::prepared::{MAX_RETRIES, PARAMS, PreparedEvent};

/// Writes the events of the arrays, except those whose id is in use, and returns the ids written, in their order.
pub(super) const INSERT: &str = "WITH common AS MATERIALIZED (SELECT clock_timestamp() AS now) \
    INSERT INTO outbox_events AS e (id, spec_version, event_type, source, subject, data_content_type, \
    data_schema, data, data_binary, status, created_at, updated_at, scheduled_at, retry_count, max_retries, last_error, \
    publisher_backend, publisher_config, cloud_event_id, extensions, partition_key, event_time) \
    SELECT n.id::uuid, '1.0', n.event_type, n.source, n.subject, n.content_type, n.schema, n.data::jsonb, \
    decode(n.bytes, 'hex'), 'pending', now, now, \
    coalesce(n.scheduled_at::timestamptz, now + n.delay::bigint * interval '1 microsecond'), 0, n.max_retries::integer, '', \
    n.backend, n.config::jsonb, n.cloud_event_id, n.extensions::jsonb, n.partition_key, n.event_time::timestamptz \
    FROM common CROSS JOIN unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], \
    $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], \
    $17::text[]) WITH ORDINALITY AS n(id, event_type, source, subject, content_type, schema, data, bytes, scheduled_at, delay, \
    event_time, max_retries, backend, config, cloud_event_id, extensions, partition_key, place) ORDER BY place \
    ON CONFLICT (id) DO NOTHING RETURNING e.id";

/// Whether [`WRITE_TO_LOG`] may be called.
pub(super) const MAY_WRITE_TO_LOG: &str = "SELECT coalesce(bool_and(has_function_privilege(oid, 'EXECUTE')), false) FROM pg_proc \
     WHERE proname = 'pg_logical_emit_message' AND pronamespace = 'pg_catalog'::regnamespace";

/// A repetition writes something, so that its commit waits for a synchronous standby: this, or a lock.
pub(super) const WRITE_TO_LOG: &str = "SELECT pg_logical_emit_message(true, 'actix-outbox', '')";

pub(super) const LOCK: &str =
    "SELECT FROM outbox_events e WHERE e.id = ANY ($1::text[]::uuid[]) ORDER BY e.id FOR KEY SHARE";

/// Compares events with the stored ones of the same ids, by the rules of `store::content`: the place of each that differs, and
/// the first column. A value that the event does not set is NULL.
pub(super) const COMPARE: &str = "SELECT place, field FROM (SELECT n.place, CASE \
    WHEN e.event_type <> n.event_type THEN 'event_type' \
    WHEN e.source <> n.source THEN 'source' \
    WHEN e.cloud_event_id <> n.cloud_event_id THEN 'cloud_event_id' \
    WHEN e.subject <> n.subject THEN 'subject' \
    WHEN nullif(e.data, 'null') IS DISTINCT FROM n.data::jsonb THEN 'data' \
    WHEN e.data_binary IS DISTINCT FROM decode(n.bytes, 'hex') THEN 'data_binary' \
    WHEN e.data_schema <> n.schema THEN 'data_schema' \
    WHEN e.data_content_type <> n.content_type THEN 'data_content_type' \
    WHEN e.extensions - 'traceparent' - 'tracestate' <> n.extensions::jsonb - 'traceparent' - 'tracestate' THEN 'extensions' \
    WHEN e.partition_key <> n.partition_key THEN 'partition_key' \
    WHEN e.publisher_backend <> n.backend THEN 'publisher_backend' \
    WHEN e.publisher_config <> n.config::jsonb THEN 'publisher_config' \
    WHEN e.scheduled_at <> n.scheduled_at::timestamptz THEN 'scheduled_at' \
    WHEN n.scheduled_at IS NULL AND n.delay <> '0' \
        AND e.scheduled_at - e.created_at <> n.delay::bigint * interval '1 microsecond' THEN 'scheduled_at' \
    WHEN n.event_time IS NOT NULL AND e.event_time IS DISTINCT FROM n.event_time::timestamptz THEN 'event_time' \
    WHEN e.max_retries <> n.max_retries::integer THEN 'max_retries' END AS field \
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], \
    $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], \
    $17::text[]) WITH ORDINALITY AS n(id, event_type, source, subject, content_type, schema, data, bytes, scheduled_at, delay, \
    event_time, max_retries, backend, config, cloud_event_id, extensions, partition_key, place) \
    JOIN outbox_events e ON e.id = n.id::uuid) AS compared WHERE field IS NOT NULL ORDER BY place LIMIT 1";

/// The columns that [`COMPARE`] names.
const FIELDS: [&str; 15] = [
    "event_type",
    "source",
    "cloud_event_id",
    "subject",
    "data",
    "data_binary",
    "data_schema",
    "data_content_type",
    "extensions",
    "partition_key",
    "publisher_backend",
    "publisher_config",
    "scheduled_at",
    "event_time",
    "max_retries",
];

/// An array for each parameter of [`INSERT`] and [`COMPARE`].
pub(super) type Columns<'a> = [Vec<Option<&'a str>>; PARAMS];

/// Events of one call, which one statement writes.
pub(super) struct Batch {
    events: Vec<BatchEvent>,
    pub(super) can_stand_alone: bool,
}

struct BatchEvent {
    prepared: PreparedEvent,
    is_new: bool,
    chose_max_retries: bool,
}

/// Events that were not written because their ids are in use, by their places in the batch.
pub(super) struct Repeated<'a>(Vec<(usize, &'a BatchEvent)>);

impl Batch {
    pub(super) fn new(events: Vec<ValidEvent>) -> Self {
        let can_stand_alone = events.len() <= 1 || events.iter().all(|event| event.is_new);
        let prepare = |event: ValidEvent| {
            let (is_new, chose_max_retries) = (event.is_new, event.chose_max_retries);
            BatchEvent { prepared: PreparedEvent::new(event), is_new, chose_max_retries }
        };
        Self { events: events.into_iter().map(prepare).collect(), can_stand_alone }
    }

    pub(super) fn ids(&self) -> Vec<Uuid> {
        self.events.iter().map(|event| event.prepared.id()).collect()
    }

    pub(super) fn columns(&self) -> Columns<'_> {
        std::array::from_fn(|n| self.events.iter().map(|event| event.prepared.params()[n].as_deref()).collect())
    }

    /// The events whose ids are not among those written, which are in the order given.
    pub(super) fn repeated(&self, written: &[Uuid]) -> Repeated<'_> {
        let mut written = written.iter().peekable();
        let is_repeated =
            |(_, event): &(usize, &BatchEvent)| written.next_if(|id| **id == event.prepared.id()).is_none();
        Repeated(self.events.iter().enumerate().filter(is_repeated).collect())
    }
}

impl<'a> Repeated<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A new id cannot exist already: something in the database, such as a trigger, kept the event out.
    pub(super) fn lost(&self) -> Option<Uuid> {
        self.0.iter().find(|(_, event)| event.is_new).map(|(_, event)| event.prepared.id())
    }

    pub(super) fn columns(&self) -> Columns<'a> {
        let value = |event: &'a BatchEvent, n: usize| {
            let is_set = n != MAX_RETRIES || event.chose_max_retries;
            event.prepared.params()[n].as_deref().filter(|_| is_set)
        };
        std::array::from_fn(|n| self.0.iter().map(|(_, event)| value(event, n)).collect())
    }

    /// The error for the event at this place, counted from 1, that differs in this column.
    pub(super) fn conflict(&self, place: i64, field: &str) -> Option<PublishError> {
        let field = FIELDS.into_iter().find(|known| *known == field)?;
        let (index, event) = self.0.get(usize::try_from(place).ok()?.checked_sub(1)?)?;
        let error = IdConflict { id: event.prepared.id(), field };
        Some(PublishError::IdConflictInBatch { index: index + 1, error })
    }
}
