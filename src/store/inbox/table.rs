//! The inbox's table, and what is deleted from it.

use super::{InboxStatement, writing};
use crate::error::StoreError;
use crate::publish::Dialect;

/// The statements that create the table and its index. Both may exist.
#[cfg(any(feature = "postgres", feature = "inbox"))]
pub(crate) const POSTGRES_TABLE: &str = include_str!("../../../migrations/postgres/inbox.sql");
#[cfg(feature = "mysql")]
pub(crate) const MYSQL_TABLE: &str = include_str!("../../../migrations/mysql/inbox.sql");
#[cfg(any(feature = "sqlite", feature = "inbox"))]
pub(crate) const SQLITE_TABLE: &str = include_str!("../../../migrations/sqlite/inbox.sql");

/// The collation that tells `a` from `a` with a space. MariaDB reads the first comment, and MySQL the second.
#[cfg(all(feature = "mysql", feature = "inbox"))]
const MYSQL_EXACT: &str = "/*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */";

/// The statements that create the table, on a connection of the caller's. One transaction at a time creates it.
#[cfg(feature = "inbox")]
pub(crate) fn table(dialect: Dialect) -> String {
    match dialect {
        Dialect::Postgres => {
            format!("SELECT pg_advisory_xact_lock(hashtextextended('outbox_inbox', 0)); {POSTGRES_TABLE}")
        }
        Dialect::Sqlite => SQLITE_TABLE.to_owned(),
        #[cfg(feature = "mysql")]
        Dialect::Mysql => MYSQL_TABLE.replace("{exact}", MYSQL_EXACT),
    }
}

/// The columns of the table's primary key, in the text that [`find`] returns.
const PRIMARY_KEY: &str = "consumer, source, event_id, seq";

/// The primary key of the table that has its name: no row if there is none. On PostgreSQL the name is looked up in what is
/// committed by now, and the table and its key in what was when the statement began: both are there, or neither is.
pub(crate) fn find(dialect: Dialect) -> InboxStatement {
    let sql = match dialect {
        Dialect::Postgres => {
            "SELECT coalesce((SELECT string_agg(a.attname, ', ' ORDER BY k.place) \
             FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, place) \
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
             WHERE i.indrelid = t.oid AND i.indisprimary), '') \
             FROM pg_class t WHERE t.oid = to_regclass('outbox_inbox')"
        }
        Dialect::Sqlite => {
            "SELECT coalesce((SELECT group_concat(name, ', ') \
             FROM (SELECT name FROM pragma_table_info('outbox_inbox') WHERE pk > 0 ORDER BY pk)), '') \
             FROM sqlite_master WHERE type = 'table' AND name = 'outbox_inbox'"
        }
        #[cfg(feature = "mysql")]
        Dialect::Mysql => {
            "SELECT COALESCE((SELECT GROUP_CONCAT(s.column_name ORDER BY s.seq_in_index SEPARATOR ', ') \
             FROM information_schema.statistics s WHERE s.table_schema = DATABASE() AND s.table_name = t.table_name \
             AND s.index_name = 'PRIMARY'), '') FROM information_schema.tables t \
             WHERE t.table_schema = DATABASE() AND t.table_name = 'outbox_inbox'"
        }
    };
    InboxStatement::query(sql)
}

/// Whether the table exists, by the rows of [`find`].
///
/// # Errors
/// The problem, if a table of another shape has its name.
pub(crate) fn exists(found: &[String]) -> Result<bool, String> {
    match found.first().map(String::as_str) {
        None => Ok(false),
        Some(PRIMARY_KEY) => Ok(true),
        Some(other) => Err(format!(
            "the primary key of its table outbox_inbox is ({other}), not ({PRIMARY_KEY}): rename the table, or use \
             another schema or database"
        )),
    }
}

pub(crate) fn missing(target: impl Into<String>) -> StoreError {
    StoreError::NoInbox { target: target.into() }
}

/// Deletes the oldest notes before a time: few enough that no other statement waits for long.
macro_rules! postgres_delete {
    ($cutoff:literal) => {
        concat!(
            "DELETE FROM outbox_inbox WHERE ctid = ANY (ARRAY(SELECT ctid FROM outbox_inbox WHERE handled_at < ",
            $cutoff,
            " ORDER BY handled_at LIMIT 1000)) RETURNING ''::text"
        )
    };
}

macro_rules! sqlite_delete {
    ($cutoff:literal) => {
        concat!(
            "DELETE FROM outbox_inbox WHERE rowid IN (SELECT rowid FROM outbox_inbox WHERE handled_at < ",
            $cutoff,
            " ORDER BY handled_at LIMIT 1000) RETURNING ''"
        )
    };
}

#[cfg(feature = "mysql")]
macro_rules! mysql_delete {
    ($cutoff:literal) => {
        concat!("DELETE FROM outbox_inbox WHERE handled_at < ", $cutoff, " ORDER BY handled_at LIMIT 1000")
    };
}

/// Deletes notes before a time, in microseconds since 1970.
#[cfg(feature = "inbox")]
pub(crate) fn delete_before(dialect: Dialect, micros: i64) -> InboxStatement {
    let sql = match dialect {
        Dialect::Postgres => postgres_delete!("'epoch'::timestamptz + $1::text::bigint * interval '1 microsecond'"),
        Dialect::Sqlite => sqlite_delete!("CAST(?1 AS INTEGER)"),
        #[cfg(feature = "mysql")]
        Dialect::Mysql => {
            mysql_delete!("TIMESTAMP'1970-01-01 00:00:00' + INTERVAL CAST(? AS SIGNED) MICROSECOND")
        }
    };
    writing(dialect, sql, vec![micros.to_string()])
}

/// Deletes notes that are older than this by the database's clock.
#[cfg_attr(
    not(any(feature = "postgres", feature = "sqlite")),
    allow(dead_code, reason = "MariaDB counts the rows that a statement has changed")
)]
pub(crate) fn delete_older(dialect: Dialect, kept: std::time::Duration) -> InboxStatement {
    let sql = match dialect {
        Dialect::Postgres => postgres_delete!("statement_timestamp() - $1::text::bigint * interval '1 second'"),
        #[cfg(feature = "mysql")]
        Dialect::Mysql => mysql_delete!("UTC_TIMESTAMP(6) - INTERVAL CAST(? AS SIGNED) SECOND"),
        Dialect::Sqlite => sqlite_delete!("(CAST(strftime('%s', 'now') AS INTEGER) - CAST(?1 AS INTEGER)) * 1000000"),
    };
    writing(dialect, sql, vec![kept.as_secs().to_string()])
}
