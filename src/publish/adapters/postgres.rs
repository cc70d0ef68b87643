//! The statements for PostgreSQL. A batch is an array for each column, as the text of an array: drivers encode texts alike.

use super::batch::{Batch, Column, Repeated, numbers};
use super::write::Statement;
use crate::error::PublishError;
use crate::publish::prepared::unless_taken;

/// Whether [`WRITE_TO_LOG`] may be called.
const MAY_WRITE_TO_LOG: &str = "SELECT coalesce(bool_and(has_function_privilege(oid, 'EXECUTE')), false)::text FROM pg_proc \
     WHERE proname = 'pg_logical_emit_message' AND pronamespace = 'pg_catalog'::regnamespace";

const WRITE_TO_LOG: &str = "SELECT pg_logical_emit_message(true, 'actix-outbox', '')::text";

const LOCK: &str =
    "SELECT e.id::text FROM outbox_events e WHERE e.id = ANY ($1::text::text[]::uuid[]) ORDER BY e.id FOR KEY SHARE";

/// The events of the arrays, in their order.
macro_rules! events {
    () => {
        "unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[], $5::text::text[], \
        $6::text::text[], $7::text::text[], $8::text::text[], $9::text::text[], $10::text::text[], $11::text::text[], \
        $12::text::text[], $13::text::text[], $14::text::text[], $15::text::text[], $16::text::text[], $17::text::text[]) \
        WITH ORDINALITY AS n(id, event_type, source, subject, content_type, schema, data, bytes, scheduled_at, delay, \
        event_time, max_retries, backend, config, cloud_event_id, extensions, partition_key, place)"
    };
}

/// Writes the events of `FROM` and returns the ids written, in their order.
macro_rules! insert {
    ($common:expr, $events:expr, $on_conflict:literal) => {
        concat!(
            "WITH common AS MATERIALIZED (SELECT clock_timestamp() AS now",
            $common,
            ") INSERT INTO outbox_events AS e (id, spec_version, event_type, source, subject, data_content_type, \
            data_schema, data, data_binary, status, created_at, updated_at, scheduled_at, retry_count, max_retries, last_error, \
            publisher_backend, publisher_config, cloud_event_id, extensions, partition_key, event_time) \
            SELECT n.id::uuid, '1.0', n.event_type, n.source, n.subject, content_type, schema, n.data::jsonb, \
            bytes, 'pending', now, now, coalesce(scheduled_at, now + delay * interval '1 microsecond'), 0, max_retries, '', \
            backend, config, cloud_event_id, extensions, n.partition_key, event_time FROM common CROSS JOIN ",
            $events,
            " ORDER BY place ",
            $on_conflict,
            "RETURNING e.id::text"
        )
    };
}

/// Each event has values of its own.
macro_rules! insert_each {
    ($on_conflict:literal) => {
        insert!(
            "",
            concat!(
                "(SELECT id, event_type, source, subject, content_type, schema, data, decode(bytes, 'hex') AS bytes, \
                scheduled_at::timestamptz, delay::bigint, event_time::timestamptz, max_retries::integer, backend, config::jsonb, \
                cloud_event_id, extensions::jsonb, partition_key, place FROM ",
                events!(),
                ") AS n"
            ),
            $on_conflict
        )
    };
}

/// The events differ only in the columns of [`EACH`], so the server reads the other values once.
macro_rules! insert_alike {
    ($on_conflict:literal) => {
        insert!(
            ", $5::text AS content_type, $6::text AS schema, decode($8::text, 'hex') AS bytes, \
            $9::text::timestamptz AS scheduled_at, $10::text::bigint AS delay, $11::text::timestamptz AS event_time, \
            $12::text::integer AS max_retries, $13::text AS backend, $14::text::jsonb AS config, $15::text AS cloud_event_id, \
            $16::text::jsonb AS extensions",
            "unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[], $7::text::text[], $17::text::text[]) \
            WITH ORDINALITY AS n(id, event_type, source, subject, data, partition_key, place)",
            $on_conflict
        )
    };
}

const INSERT_EACH: &str = insert_each!("ON CONFLICT (id) DO NOTHING ");
const INSERT_ALIKE: &str = insert_alike!("ON CONFLICT (id) DO NOTHING ");

/// Without ON CONFLICT, a fifth of the statement's cost.
const INSERT_EACH_NEW: &str = insert_each!("");
const INSERT_ALIKE_NEW: &str = insert_alike!("");

/// The parameters that are arrays in [`INSERT_ALIKE`].
const EACH: [usize; 6] = [0, 1, 2, 3, 6, 16];

/// Compares events with the stored ones of the same ids, by the rules of `store::content`: the place of the first that differs,
/// and the first column. A value that the event does not set is NULL.
const COMPARE: &str = concat!(
    "SELECT place::text || ' ' || field FROM (SELECT n.place, CASE \
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
    WHEN n.backend <> '' AND e.publisher_backend <> n.backend THEN 'publisher_backend' \
    WHEN e.publisher_config <> n.config::jsonb THEN 'publisher_config' \
    WHEN e.scheduled_at <> n.scheduled_at::timestamptz THEN 'scheduled_at' \
    WHEN n.scheduled_at IS NULL AND n.delay <> '0' \
        AND e.scheduled_at - e.created_at <> n.delay::bigint * interval '1 microsecond' THEN 'scheduled_at' \
    WHEN n.event_time IS NOT NULL AND e.event_time IS DISTINCT FROM n.event_time::timestamptz THEN 'event_time' \
    WHEN e.max_retries <> n.max_retries::integer THEN 'max_retries' END AS field FROM ",
    events!(),
    " JOIN outbox_events e ON e.id = n.id::uuid) AS compared WHERE field IS NOT NULL ORDER BY place LIMIT 1"
);

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

pub(super) fn insert(batch: &Batch) -> Statement {
    if let [only] = batch.events() {
        let sql = if batch.are_new() { unless_taken::POSTGRES_NEW } else { unless_taken::POSTGRES };
        return Statement { sql, params: only.prepared.params().to_vec() };
    }
    let are_alike = numbers().all(|n| EACH.contains(&n) || batch.has_in_common(n));
    let sql = match (are_alike, batch.are_new()) {
        (true, true) => INSERT_ALIKE_NEW,
        (true, false) => INSERT_ALIKE,
        (false, true) => INSERT_EACH_NEW,
        (false, false) => INSERT_EACH,
    };
    let param = |n| match are_alike && !EACH.contains(&n) {
        true => batch.column(n).first().copied().flatten().map(str::to_owned),
        false => Some(array(&batch.column(n))),
    };
    Statement { sql, params: numbers().map(param).collect() }
}

pub(super) fn may_write_to_log() -> Statement {
    Statement { sql: MAY_WRITE_TO_LOG, params: Vec::new() }
}

/// Writes something: a transaction that writes nothing does not wait for a synchronous standby.
pub(super) fn write_something(may_write_to_log: bool, repeated: &Repeated<'_>) -> Statement {
    match may_write_to_log {
        true => Statement { sql: WRITE_TO_LOG, params: Vec::new() },
        false => Statement { sql: LOCK, params: vec![Some(array(&repeated.column(0)))] },
    }
}

pub(super) fn compare(repeated: &Repeated<'_>) -> Statement {
    Statement { sql: COMPARE, params: numbers().map(|n| Some(array(&repeated.column(n)))).collect() }
}

/// The first difference that [`compare`] found, or `None` if its row cannot be read.
pub(super) fn conflict(repeated: &Repeated<'_>, row: &str) -> Option<PublishError> {
    let (place, field) = row.split_once(' ')?;
    let field = FIELDS.into_iter().find(|known| *known == field)?;
    repeated.conflict(place.parse::<usize>().ok()?.checked_sub(1)?, field)
}

/// The text of an array of texts.
fn array(column: &Column<'_>) -> String {
    let mut text =
        String::with_capacity(2 + column.iter().map(|value| value.map_or(5, |text| text.len() + 3)).sum::<usize>());
    text.push('{');
    for (n, value) in column.iter().enumerate() {
        if n > 0 {
            text.push(',');
        }
        match value {
            Some(value) => push_quoted(&mut text, value),
            None => text.push_str("NULL"),
        }
    }
    text.push('}');
    text
}

fn push_quoted(text: &mut String, value: &str) {
    text.push('"');
    let mut rest = value;
    while let Some(at) = rest.find(['"', '\\']) {
        text.push_str(&rest[..at]);
        text.push('\\');
        text.push_str(&rest[at..=at]);
        rest = &rest[at + 1..];
    }
    text.push_str(rest);
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_quoted() {
        let column = vec![Some("a"), None, Some(""), Some("NULL"), Some(r#"{"é": "\\n"}, '"#)];
        assert_eq!(array(&column), r#"{"a",NULL,"","NULL","{\"é\": \"\\\\n\"}, '"}"#);
        assert_eq!(array(&Vec::new()), "{}");
    }
}
