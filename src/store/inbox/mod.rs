//! The statements of the inbox, for the connection of the caller.
//!
//! Parameters are texts, and each row has one column, a text, so that every driver can execute them.

#[cfg(feature = "inbox")]
mod note;
mod query;
mod table;

#[cfg(feature = "inbox")]
pub(crate) use self::note::{Note, NoteMany, forget, note};
pub(crate) use self::query::TextQueries;
#[cfg(feature = "mysql")]
pub(crate) use self::table::MYSQL_TABLE;
#[cfg(feature = "postgres")]
pub(crate) use self::table::POSTGRES_TABLE;
#[cfg(feature = "sqlite")]
pub(crate) use self::table::SQLITE_TABLE;
#[cfg_attr(
    not(any(feature = "postgres", feature = "sqlite")),
    allow(unused_imports, reason = "MariaDB counts the rows that a statement has changed")
)]
pub(crate) use self::table::delete_older;
#[cfg(feature = "inbox")]
pub(crate) use self::table::{delete_before, table};
pub(crate) use self::table::{exists, find, missing};

/// A statement with placeholders in the order of its parameters: `$1` on PostgreSQL, `?1` on SQLite, `?`
/// on MariaDB and MySQL.
#[derive(Debug)]
pub struct InboxStatement {
    pub(crate) sql: &'static str,
    pub(crate) params: Vec<String>,
}
