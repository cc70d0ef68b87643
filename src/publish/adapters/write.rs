//! The statements that write a batch, one after the other, whatever executes them.
//!
//! An adapter executes each [`Statement`] and passes on the texts that it returns, until there is none:
//!
//! ```ignore
//! let mut write = Write::new(batch, dialect);
//! while let Some(statement) = write.next() {
//!     let texts = execute(statement).await?;
//!     write.received(texts)?;
//! }
//! ```

use uuid::Uuid;

use super::batch::{Batch, Repeated};
use super::errors::unexpected;
#[cfg(feature = "mysql")]
use super::mysql;
use super::{postgres, sqlite, stored};
use crate::error::PublishError;
use crate::publish::Dialect;

/// A statement with its parameters: texts, or NULL. Its rows have one column, a text.
pub(crate) struct Statement {
    pub(super) sql: &'static str,
    pub(super) params: Vec<Option<String>>,
}

#[cfg(feature = "inbox")]
impl From<crate::store::inbox::InboxStatement> for Statement {
    fn from(statement: crate::store::inbox::InboxStatement) -> Self {
        Self { sql: statement.sql, params: statement.params.into_iter().map(Some).collect() }
    }
}

/// A batch that is being written.
pub(super) struct Write<'a> {
    batch: &'a Batch,
    dialect: Dialect,
    step: Step<'a>,
}

/// The statement whose answer is awaited, or comes next.
enum Step<'a> {
    Insert,
    /// A repetition writes something, so that its commit waits for a synchronous standby.
    MayWriteToLog(Repeated<'a>),
    WriteSomething(Repeated<'a>, bool),
    Compare(Repeated<'a>),
    Done,
}

impl<'a> Write<'a> {
    pub(super) fn new(batch: &'a Batch, dialect: Dialect) -> Self {
        let step = if batch.events().is_empty() { Step::Done } else { Step::Insert };
        Self { batch, dialect, step }
    }

    /// The next statement. `None`: every event is written, or was written before.
    pub(super) fn next(&self) -> Option<Statement> {
        let statement = match (&self.step, self.dialect) {
            (Step::Done, _) => return None,
            (Step::Insert, Dialect::Postgres) => postgres::insert(self.batch),
            (Step::Insert, Dialect::Sqlite) => sqlite::insert(self.batch),
            #[cfg(feature = "mysql")]
            (Step::Insert, Dialect::Mysql) => mysql::insert(self.batch),
            (Step::MayWriteToLog(_), _) => postgres::may_write_to_log(),
            (Step::WriteSomething(repeated, may_write_to_log), _) => {
                postgres::write_something(*may_write_to_log, repeated)
            }
            (Step::Compare(repeated), Dialect::Postgres) => postgres::compare(repeated),
            (Step::Compare(repeated), Dialect::Sqlite) => sqlite::read(repeated),
            #[cfg(feature = "mysql")]
            (Step::Compare(repeated), Dialect::Mysql) => mysql::read(repeated),
        };
        Some(statement)
    }

    /// Continues with the rows of the last statement.
    pub(super) fn received(&mut self, rows: Vec<String>) -> Result<(), PublishError> {
        self.step = match std::mem::replace(&mut self.step, Step::Done) {
            #[cfg(feature = "mysql")]
            Step::Insert if self.dialect == Dialect::Mysql => match self.batch.chosen() {
                chosen if chosen.is_empty() => Step::Done,
                chosen => Step::Compare(chosen),
            },
            Step::Insert => self.inserted(&rows)?,
            Step::MayWriteToLog(repeated) => {
                let may_write_to_log = rows.first().is_some_and(|text| text == "true");
                Step::WriteSomething(repeated, may_write_to_log)
            }
            Step::WriteSomething(repeated, _) => Step::Compare(repeated),
            Step::Compare(repeated) => self.compared(&repeated, &rows)?,
            Step::Done => Step::Done,
        };
        Ok(())
    }

    fn inserted(&self, rows: &[String]) -> Result<Step<'a>, PublishError> {
        let written: Result<Vec<Uuid>, _> = rows.iter().map(|text| text.parse()).collect();
        let written = written.map_err(|_| unexpected("the database returned an id that is not a UUID".to_owned()))?;
        let repeated = self.batch.repeated(&written);
        if let Some(id) = repeated.lost() {
            return Err(unexpected(format!("the event {id} was inserted but is not in the table")).into());
        }
        Ok(match self.dialect {
            _ if repeated.is_empty() => Step::Done,
            Dialect::Postgres => Step::MayWriteToLog(repeated),
            _ => Step::Compare(repeated),
        })
    }

    fn compared(&self, repeated: &Repeated<'a>, rows: &[String]) -> Result<Step<'a>, PublishError> {
        let conflict = match (self.dialect, rows.first()) {
            (Dialect::Postgres, None) => None,
            (Dialect::Postgres, Some(row)) => {
                let conflict = postgres::conflict(repeated, row);
                Some(conflict.unwrap_or_else(|| unexpected("the comparison named an unknown column".to_owned()).into()))
            }
            _ => stored::conflict(repeated, rows),
        };
        conflict.map_or(Ok(Step::Done), Err)
    }
}
