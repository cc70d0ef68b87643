//! The inbox with `rusqlite`: its transactions and savepoints. The functions are not async.

use ::rusqlite::{Connection, Error};

use crate::inbox::{Handled, InboxError, InboxKey, key};
use crate::publish::Dialect;
use crate::publish::adapters::rusqlite::query;
use crate::store::inbox::{Answer, InboxStatement, NoteMany, forget, note};

/// Notes in the caller's transaction that the event is handled and runs `work`; if the event was noted before, skips
/// it. See [`handle`](crate::inbox::handle).
///
/// # Errors
/// As for [`handle`](crate::inbox::handle).
pub fn handle<T, E>(
    transaction: &Connection,
    key: impl Into<InboxKey>,
    work: impl FnOnce(&Connection) -> Result<T, E>,
) -> Result<Handled<T>, E>
where
    E: From<InboxError<Error>>,
{
    let key = key.into().into_note().map_err(InboxError::InvalidKey)?;
    if answer(transaction, note(Dialect::Sqlite, &key))?.changed() == 0 {
        return Ok(Handled::Skipped);
    }
    work(transaction).map(Handled::Done).inspect_err(|_| {
        let _ = answer(transaction, forget(Dialect::Sqlite, &key));
    })
}

/// Notes in the caller's transaction that these events are handled, and returns for each whether it is new. See
/// [`note_many`](crate::inbox::note_many).
///
/// # Errors
/// As for [`note_many`](crate::inbox::note_many).
pub fn note_many<K: Into<InboxKey>>(
    transaction: &Connection,
    keys: impl IntoIterator<Item = K>,
) -> Result<Vec<bool>, InboxError<Error>> {
    let mut many = NoteMany::new(Dialect::Sqlite, key::into_notes(keys)?);
    while let Some(statement) = many.next() {
        many.received(answer(transaction, statement), |_| false)?;
    }
    Ok(many.finish())
}

/// Lets `?` work in a transaction whose error is the driver's.
impl From<InboxError<Self>> for Error {
    fn from(error: InboxError<Self>) -> Self {
        match error {
            InboxError::Database(error) => error,
            other => Self::ToSqlConversionFailure(other.into()),
        }
    }
}

fn answer(transaction: &Connection, statement: InboxStatement) -> Result<Answer, InboxError<Error>> {
    if transaction.is_autocommit() {
        return Err(InboxError::NoTransaction);
    }
    query(transaction, statement.into()).map(Answer::Rows).map_err(InboxError::Database)
}
