//! The statements of the inbox, for the connection of the caller.
//!
//! Parameters are texts, and each row has one column, a text, so that every driver can execute them. MySQL returns no rows
//! from a statement that writes, so on MariaDB and MySQL the rows that it has changed are counted.

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
    pub(crate) returns: Returns,
}

impl InboxStatement {
    /// A statement without parameters that returns rows.
    pub(crate) fn query(sql: &'static str) -> Self {
        Self { sql, params: Vec::new(), returns: Returns::Rows }
    }
}

/// What the caller needs of a statement's answer.
#[cfg_attr(
    not(all(feature = "mysql", feature = "inbox")),
    allow(dead_code, reason = "only the inbox on MariaDB and MySQL has all of them")
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Returns {
    Rows,
    /// How many rows it has changed.
    Count,
    /// Nothing: a statement without parameters that MySQL does not prepare.
    Nothing,
}

/// The answer to a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Its rows.
    Rows(Vec<String>),
    /// How many rows it has changed.
    Count(usize),
}

impl Answer {
    pub(crate) fn rows(self) -> Vec<String> {
        match self {
            Self::Rows(rows) => rows,
            Self::Count(_) => Vec::new(),
        }
    }

    /// How many rows the statement has written or deleted.
    #[cfg(feature = "inbox")]
    pub(crate) fn changed(&self) -> usize {
        match self {
            Self::Rows(rows) => rows.len(),
            Self::Count(count) => *count,
        }
    }
}

/// A statement that writes: its rows are those that it wrote, or their count is asked for.
fn writing(dialect: crate::publish::Dialect, sql: &'static str, params: Vec<String>) -> InboxStatement {
    let returns = match dialect {
        #[cfg(feature = "mysql")]
        crate::publish::Dialect::Mysql => Returns::Count,
        _ => Returns::Rows,
    };
    InboxStatement { sql, params, returns }
}
