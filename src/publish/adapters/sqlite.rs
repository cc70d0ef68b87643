//! The statements for SQLite 3.41 or later. A batch is an array of JSON, so that one statement of constant text writes it.

use super::batch::{Batch, Repeated};
use super::write::Statement;
use crate::publish::prepared::unless_taken;

/// Writes the events of an array of arrays of texts, except those whose id is in use, and returns the ids written, in their
/// order.
///
/// SQLite reads its clock once per statement. Without `WHERE`, ON would begin a join's condition.
const INSERT: &str = "INSERT INTO outbox_events (id, spec_version, event_type, source, subject, data_content_type, \
    data_schema, data, data_binary, status, created_at, updated_at, scheduled_at, retry_count, max_retries, last_error, \
    publisher_backend, publisher_config, cloud_event_id, extensions, partition_key, event_time) \
    SELECT unhex(replace(n.value ->> 0, '-', '')), '1.0', n.value ->> 1, n.value ->> 2, n.value ->> 3, n.value ->> 4, \
    n.value ->> 5, n.value ->> 6, unhex(n.value ->> 7), 'pending', clock.now, clock.now, \
    coalesce(CAST(strftime('%s', substr(n.value ->> 8, 1, 19)) AS INTEGER) * 1000000 \
        + CAST(substr(n.value ->> 8, 21, 6) AS INTEGER), clock.now + CAST(n.value ->> 9 AS INTEGER)), \
    0, CAST(n.value ->> 11 AS INTEGER), '', n.value ->> 12, n.value ->> 13, n.value ->> 14, n.value ->> 15, n.value ->> 16, \
    CAST(strftime('%s', substr(n.value ->> 10, 1, 19)) AS INTEGER) * 1000000 + CAST(substr(n.value ->> 10, 21, 6) AS INTEGER) \
    FROM (SELECT CAST(strftime('%s', 'now') AS INTEGER) * 1000000 + \
        CAST(substr(strftime('%f', 'now'), 4) AS INTEGER) * 1000 AS now) AS clock \
    CROSS JOIN json_each(?1) AS n WHERE true ORDER BY n.key ON CONFLICT (id) DO NOTHING RETURNING lower(hex(id))";

/// Returns what is compared of the events of an array of ids, each with its place in the array: see `stored`.
const READ: &str = "SELECT json_object('place', n.key, 'event_type', e.event_type, 'source', e.source, \
    'cloud_event_id', e.cloud_event_id, 'subject', e.subject, 'data', e.data, \
    'data_binary', iif(e.data_binary IS NULL, NULL, hex(e.data_binary)), 'data_schema', e.data_schema, \
    'data_content_type', e.data_content_type, 'extensions', e.extensions, 'partition_key', e.partition_key, \
    'publisher_backend', e.publisher_backend, 'publisher_config', e.publisher_config, 'created_at', e.created_at, \
    'scheduled_at', e.scheduled_at, 'event_time', e.event_time, 'max_retries', e.max_retries) \
    FROM json_each(?1) AS n JOIN outbox_events e ON e.id = unhex(n.value) ORDER BY n.key";

pub(super) fn insert(batch: &Batch) -> Statement {
    match batch.events() {
        [only] => Statement { sql: unless_taken::SQLITE, params: only.prepared.params().to_vec() },
        events => {
            let events: Vec<_> = events.iter().map(|event| event.prepared.params()).collect();
            Statement { sql: INSERT, params: vec![serde_json::to_string(&events).ok()] }
        }
    }
}

pub(super) fn read(repeated: &Repeated<'_>) -> Statement {
    let ids: Vec<String> = repeated.ids().map(|id| id.simple().to_string()).collect();
    Statement { sql: READ, params: vec![serde_json::to_string(&ids).ok()] }
}
