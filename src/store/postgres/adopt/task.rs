//! The tasks of an adoption: their statements, and their cost for other users of the table.

use std::borrow::Cow;

use super::Result;
use super::session::{AdoptSession, drop_index, transaction};
use crate::store::migrate::{MigrationProgress, MigrationStep, ProgressFn};
use crate::store::postgres::schema::Schema;

const COLUMNS: &str = concat!(
    include_str!("../../../../migrations/postgres/adopt/columns.sql"),
    "\n",
    include_str!("../../../../migrations/postgres/0001_outbox/queue.sql"),
);
const SEQ: &str = include_str!("../../../../migrations/postgres/adopt/seq.sql");
const LAST: &str = concat!(
    include_str!("../../../../migrations/postgres/adopt/take_up.sql"),
    "\n",
    include_str!("../../../../migrations/postgres/0001_outbox/books.sql"),
    "\nINSERT INTO outbox_migrations (version) VALUES (1);",
);

const BRIEFLY_EXCLUSIVE: &str = "Changes the catalog only; no row is read or written. ACCESS EXCLUSIVE for a moment: if \
    the lock is not\nacquired within 1.5 s, statements that wait behind it go first, and it is retried.";

/// The pages of one batch: about 3,000 rows.
const BATCH_PAGES: usize = 128;

/// The tasks, in the order in which they run.
pub(super) enum Task {
    AddColumns,
    FillSeq { rows: i64, pages: i64 },
    BuildIndex(Index),
    DropIndex(&'static str),
    Finish { processing: i64 },
}

/// An index that is missing or unfinished.
pub(super) struct Index {
    pub(super) name: &'static str,
    pub(super) statement: &'static str,
    /// Whether an interrupted run left a part of it.
    pub(super) is_unfinished: bool,
    pub(super) table_pages: i64,
    pub(super) table_rows: i64,
}

impl Index {
    /// An index is made in the schema of its table.
    fn concurrently(&self, schema: &Schema) -> String {
        let (name, rest) = self.statement.split_once(" ON ").unwrap_or((self.statement, ""));
        let create = name.replacen("CREATE INDEX", "CREATE INDEX CONCURRENTLY", 1);
        format!("{create} ON {}", schema.qualify(rest))
    }

    fn sql(&self, schema: &Schema) -> String {
        match self.is_unfinished {
            true => format!("{}\n\n{}", drop_index(schema, self.name), self.concurrently(schema)),
            false => self.concurrently(schema),
        }
    }

    fn cost(&self) -> String {
        let (pages, rows) = (grouped(self.table_pages), grouped(self.table_rows));
        format!(
            "The table is read twice: {pages} pages, about {rows} rows by the planner's estimate. Writes continue.\nWaits \
             for all older transactions to end."
        )
    }
}

fn drop_index_if_there(name: &str) -> String {
    format!("DROP INDEX IF EXISTS {name};")
}

impl Task {
    pub(super) fn name(&self) -> Cow<'static, str> {
        match self {
            Self::AddColumns => "adding columns".into(),
            Self::FillSeq { .. } => "filling in seq".into(),
            Self::BuildIndex(index) => format!("building {}", index.name).into(),
            Self::DropIndex(name) => format!("dropping {name}").into(),
            Self::Finish { .. } => "finishing".into(),
        }
    }

    /// Returns the number of events that it reset from `processing`.
    pub(super) async fn run(&self, session: &AdoptSession<'_>, watch: &ProgressFn) -> Result<u64> {
        let answer = match self {
            Self::AddColumns => session.transact(COLUMNS).await?,
            Self::FillSeq { .. } => fill_seq(session, watch).await.map(|()| None)?,
            Self::BuildIndex(index) => {
                let sql = index.concurrently(session.schema());
                session.build_index(index.name, &sql).await.map(|()| None)?
            }
            Self::DropIndex(name) => session.transact(&drop_index_if_there(name)).await?,
            Self::Finish { .. } => session.transact(LAST).await?,
        };
        Ok(answer.and_then(|count| count.parse().ok()).unwrap_or(0))
    }

    /// Describes the task for operators before it runs.
    pub(super) fn step(&self, schema: &Schema) -> MigrationStep {
        match self {
            Self::AddColumns => MigrationStep { sql: transaction(schema, COLUMNS), cost: BRIEFLY_EXCLUSIVE.to_owned() },
            Self::FillSeq { rows, pages } => MigrationStep {
                sql: transaction(schema, &seq_batch(0)),
                cost: format!(
                    "Rows written: {}, those that are not published. The table is read once. Inserts continue.\nRepeated \
                     for each {BATCH_PAGES} of {} pages, each time in a transaction of its own.",
                    grouped(*rows),
                    grouped(*pages)
                ),
            },
            Self::BuildIndex(index) => MigrationStep { sql: index.sql(schema), cost: index.cost() },
            Self::DropIndex(name) => MigrationStep {
                sql: transaction(schema, &drop_index_if_there(name)),
                cost: BRIEFLY_EXCLUSIVE.to_owned(),
            },
            Self::Finish { processing } => MigrationStep {
                sql: transaction(schema, LAST),
                cost: format!(
                    "Rows written: {}, those that django-broadcaster's worker left in processing. The new tables are small.",
                    grouped(*processing)
                ),
            },
        }
    }
}

/// Repeats until no row is left: a row that another writer moves to an earlier page is found by the next pass.
async fn fill_seq(session: &AdoptSession<'_>, watch: &ProgressFn) -> Result<()> {
    loop {
        let pages = session.count_pages().await?;
        for page in (0..pages).step_by(BATCH_PAGES) {
            watch(MigrationProgress { what: "filling in seq", done: page, total: pages });
            session.transact(&seq_batch(page)).await?;
        }
        if session.count_unplaced().await? == 0 {
            return Ok(());
        }
    }
}

fn seq_batch(page: u64) -> String {
    let end = page + BATCH_PAGES as u64;
    SEQ.trim().replace(":from", &page.to_string()).replace(":to", &end.to_string())
}

/// 1234567 as 1,234,567.
fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let numbers = [0, 12, 123, 1_234, 123_456, 1_234_567].map(grouped);
        assert_eq!(numbers, ["0", "12", "123", "1,234", "123,456", "1,234,567"]);
    }

    #[test]
    fn a_batch_names_its_pages() {
        assert!(seq_batch(256).contains("ctid >= '(256,0)' AND ctid < '(384,0)'"));
    }
}
