//! Times of the server as microseconds since 1970. Sessions of the outbox are in UTC, so `SYSDATE(6)` is the wall clock in UTC.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// Now, also in a statement that has waited: `NOW(6)` is when the statement began.
pub(super) const NOW: &str = "SYSDATE(6)";

/// A parameter in microseconds since 1970 as a time of the server; NULL is no time.
pub(super) const TIME: &str = "(TIMESTAMP'1970-01-01 00:00:00' + INTERVAL ? MICROSECOND)";

/// A column's time in microseconds since 1970.
pub(super) fn micros_of(column: &str) -> String {
    format!("TIMESTAMPDIFF(MICROSECOND, TIMESTAMP'1970-01-01 00:00:00', {column})")
}

/// A duration in microseconds, limited to what the type can hold.
pub(super) fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// The latest time of the server, which stands for "never".
pub(super) const NEVER: &str = "TIMESTAMP'9999-12-31 23:59:59.999999'";

pub(super) fn time(micros: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(micros)
}
