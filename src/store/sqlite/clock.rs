//! SQLite's clock, which decides which events are due and which leases have expired.

use std::time::Duration;

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::BigInt;

/// Now in microseconds; SQLite counts milliseconds.
pub(super) fn read_now(connection: &mut SqliteConnection) -> QueryResult<i64> {
    sql::<BigInt>("SELECT strftime('%s', 'now') * 1000000 + substr(strftime('%f', 'now'), 4) * 1000")
        .get_result(connection)
}

/// A duration in the table's unit, limited to what the unit can hold.
pub(super) fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}
