//! The statements for MariaDB 10.6, MySQL 8.0.17, or later. A batch is an array of JSON, so that one statement of constant text
//! writes it.
//!
//! MySQL returns no rows from an INSERT, so events whose ids the caller chose are read and compared, new or not.

use super::batch::{Batch, Repeated};
use super::write::Statement;
use crate::publish::prepared::unless_taken;

/// Writes the events of an array of arrays of texts, in their order. The last letter of a time says UTC, which the column is in.
macro_rules! insert {
    ($on_duplicate:literal) => {
        concat!(
            "INSERT INTO outbox_events (id, event_type, source, subject, data_content_type, data_schema, data, data_binary, \
            scheduled_at, event_time, max_retries, publisher_backend, publisher_config, cloud_event_id, extensions, \
            partition_key) SELECT REPLACE(n.id, '-', ''), n.event_type, n.source, n.subject, n.content_type, n.data_schema, \
            n.data, UNHEX(n.bytes), COALESCE(CAST(TRIM(TRAILING 'Z' FROM n.scheduled_at) AS datetime(6)), \
            UTC_TIMESTAMP(6) + INTERVAL CAST(n.delay AS SIGNED) MICROSECOND), \
            CAST(TRIM(TRAILING 'Z' FROM n.event_time) AS datetime(6)), n.max_retries, n.backend, n.config, \
            n.cloud_event_id, n.extensions, n.partition_key FROM JSON_TABLE(?, '$[*]' COLUMNS (place FOR ORDINALITY, \
            id varchar(36) PATH '$[0]', event_type varchar(255) PATH '$[1]', source varchar(255) PATH '$[2]', \
            subject varchar(255) PATH '$[3]', content_type varchar(100) PATH '$[4]', data_schema varchar(200) PATH '$[5]', \
            data longtext PATH '$[6]', bytes longtext PATH '$[7]', scheduled_at varchar(30) PATH '$[8]', \
            delay varchar(30) PATH '$[9]', event_time varchar(30) PATH '$[10]', max_retries varchar(30) PATH '$[11]', \
            backend varchar(100) PATH '$[12]', config longtext PATH '$[13]', cloud_event_id varchar(255) PATH '$[14]', \
            extensions longtext PATH '$[15]', partition_key varchar(255) PATH '$[16]')) AS n ORDER BY n.place",
            $on_duplicate
        )
    };
}

/// For ids that no row can have.
const INSERT_NEW: &str = insert!("");

/// Leaves the row of an id that is in use as it is. `IGNORE` would also ignore that a value does not fit.
const INSERT: &str = insert!(" ON DUPLICATE KEY UPDATE outbox_events.id = outbox_events.id");

/// Returns what is compared of the events of an array of ids, each with its place in the array: see `stored`. The lock makes
/// it read the newest rows: the caller's transaction may have an older snapshot.
const READ: &str = "SELECT CAST(JSON_OBJECT('place', n.place - 1, 'event_type', e.event_type, 'source', e.source, \
    'cloud_event_id', e.cloud_event_id, 'subject', e.subject, 'data', CAST(e.data AS char), \
    'data_binary', HEX(e.data_binary), 'data_schema', e.data_schema, 'data_content_type', e.data_content_type, \
    'extensions', CAST(e.extensions AS char), 'partition_key', e.partition_key, \
    'publisher_backend', e.publisher_backend, 'publisher_config', CAST(e.publisher_config AS char), \
    'created_at', TIMESTAMPDIFF(MICROSECOND, TIMESTAMP'1970-01-01 00:00:00', e.created_at), \
    'scheduled_at', TIMESTAMPDIFF(MICROSECOND, TIMESTAMP'1970-01-01 00:00:00', e.scheduled_at), \
    'event_time', TIMESTAMPDIFF(MICROSECOND, TIMESTAMP'1970-01-01 00:00:00', e.event_time), \
    'max_retries', e.max_retries) AS char) \
    FROM JSON_TABLE(?, '$[*]' COLUMNS (place FOR ORDINALITY, id varchar(32) PATH '$')) AS n \
    STRAIGHT_JOIN outbox_events e ON e.id = CONVERT(n.id USING ascii) ORDER BY n.place LOCK IN SHARE MODE";

pub(super) fn insert(batch: &Batch) -> Statement {
    match (batch.events(), batch.are_new()) {
        ([only], true) => Statement { sql: unless_taken::MYSQL_NEW, params: only.prepared.params().to_vec() },
        ([only], false) => Statement { sql: unless_taken::MYSQL, params: only.prepared.params().to_vec() },
        (events, are_new) => {
            let events: Vec<_> = events.iter().map(|event| event.prepared.params()).collect();
            let sql = if are_new { INSERT_NEW } else { INSERT };
            Statement { sql, params: vec![serde_json::to_string(&events).ok()] }
        }
    }
}

pub(super) fn read(chosen: &Repeated<'_>) -> Statement {
    let ids: Vec<String> = chosen.ids().map(|id| id.simple().to_string()).collect();
    Statement { sql: READ, params: vec![serde_json::to_string(&ids).ok()] }
}
