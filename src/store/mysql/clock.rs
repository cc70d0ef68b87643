//! Times of the server as microseconds since 1970. Sessions of the outbox are in UTC.

use diesel::sql_types::BigInt;

use super::error::Failure;
use super::session::Session;
use super::statement::Statement;

/// A parameter in microseconds since 1970 as a time of the server; NULL is no time.
macro_rules! time {
    () => {
        "(TIMESTAMP'1970-01-01 00:00:00' + INTERVAL ? MICROSECOND)"
    };
}
pub(super) use time;

/// A column's time in microseconds since 1970.
macro_rules! micros {
    ($column:literal) => {
        concat!("TIMESTAMPDIFF(MICROSECOND, TIMESTAMP'1970-01-01 00:00:00', ", $column, ")")
    };
}
pub(super) use micros;

/// The same, of a time that may not exist, such as a zero date: it is before all others.
macro_rules! micros_or_first {
    ($column:literal) => {
        concat!("COALESCE(", $crate::store::mysql::clock::micros!($column), ", -9223372036854775807 - 1)")
    };
}
pub(super) use micros_or_first;

/// The first time that exists.
pub(super) const FIRST_TIME: &str = "TIMESTAMP'0001-01-01 00:00:00'";

/// The years 1 to 9999, which the server's times can hold.
const FIRST: i64 = -62_135_596_800_000_000;
const LAST: i64 = 253_402_300_799_999_999;

/// A time in microseconds, limited to what the server can hold.
pub(super) fn limited(micros: i64) -> i64 {
    micros.clamp(FIRST, LAST)
}

/// The server's wall clock in microseconds since 1970.
pub(super) async fn read_now(session: &mut Session<'_>) -> Result<i64, Failure> {
    session.load_one(Statement::<BigInt>::new(concat!("SELECT ", micros!("SYSDATE(6)")), [])).await
}
