//! Migrations: the parts common to all databases. Each database has its own list and runs it in its own way.
//!
//! Applied versions are recorded in `outbox_migrations (version, applied_at)`, which the first migration creates: diesel's
//! own table of migrations belongs to the application.

/// The steps that a migration ran or would run.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct MigrationPlan {
    /// The steps, in their order.
    pub steps: Vec<MigrationStep>,
    /// The table was made by django-broadcaster.
    pub adopts: bool,
    /// Events that django-broadcaster's worker left in `processing` and that were reset to pending.
    pub taken_up: u64,
}

/// Statements that are sent to the database together.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigrationStep {
    /// The statements.
    pub sql: String,
    /// Their locks, reads and writes, in lines; empty: they only create something new.
    pub cost: String,
}

impl MigrationStep {
    pub(crate) fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), cost: String::new() }
    }
}

/// The progress of a migration.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct MigrationProgress<'a> {
    /// The running step.
    pub what: &'a str,
    /// The rows that are done.
    pub done: u64,
    /// The rows in all.
    pub total: u64,
}

/// Receives the progress of a migration.
pub(crate) type ProgressFn = dyn Fn(MigrationProgress<'_>) + Send + Sync;

/// One version; `sql` are files in `migrations/`.
#[derive(Debug)]
pub(crate) struct Migration {
    pub(crate) version: i32,
    pub(crate) sql: &'static str,
}

impl Migration {
    /// The statements, separated by empty lines. Comments before a statement belong to it; a comment alone is not a
    /// statement.
    pub(crate) fn statements(&self) -> impl Iterator<Item = &'static str> {
        statements(self.sql)
    }
}

/// The statements of a file.
pub(crate) fn statements(sql: &str) -> impl Iterator<Item = &str> {
    sql.split("\n\n").map(str::trim).filter(|statement| statement.lines().any(is_code))
}

fn is_code(line: &str) -> bool {
    !line.trim().is_empty() && !line.trim_start().starts_with("--")
}

/// The migrations that have not run, in order.
pub(crate) fn find_pending<'a>(all: &'a [Migration], applied: &[i32]) -> Vec<&'a Migration> {
    all.iter().filter(|migration| !applied.contains(&migration.version)).collect()
}

/// Why the tables cannot be used, as a state of [`StoreError::NotMigrated`](crate::error::StoreError::NotMigrated). Versions
/// that this program does not know yet do not prevent their use.
pub(crate) fn find_obstacle(all: &[Migration], applied: &[i32]) -> Option<&'static str> {
    match find_pending(all, applied).as_slice() {
        [] => None,
        pending if pending.len() == all.len() => Some("missing"),
        _ => Some("out of date"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Migration; 2] = [
        Migration {
            version: 1,
            sql: "-- A note.\n\nCREATE TABLE a (b);\n\n-- Why.\nCREATE TRIGGER t\nBEGIN\n  x;\nEND;\n",
        },
        Migration { version: 2, sql: "" },
    ];

    #[test]
    fn statements_are_split_at_empty_lines_and_comments_alone_are_dropped() {
        let statements: Vec<_> = ALL[0].statements().collect();
        assert_eq!(statements, ["CREATE TABLE a (b);", "-- Why.\nCREATE TRIGGER t\nBEGIN\n  x;\nEND;"]);
    }

    #[test]
    fn tables_are_missing_out_of_date_or_ready() {
        assert_eq!(find_obstacle(&ALL, &[]), Some("missing"));
        assert_eq!(find_obstacle(&ALL, &[1]), Some("out of date"));
        assert_eq!(find_obstacle(&ALL, &[1, 2, 3]), None);
    }
}
