//! The inbox with sqlx, for each of its versions: `super` has what differs between them.

use std::ops::DerefMut;

use super::driver::{SqlxConnection, dialect};
use super::sqlx::{Database, Error, Transaction};
use crate::inbox::{Handled, InboxError, InboxKey, key};
use crate::publish::Dialect;
use crate::store::inbox::{InboxStatement, NoteMany, forget, note};

/// A transaction of sqlx.
pub trait SqlxTransaction: DerefMut + Send {}

impl<DB: Database> SqlxTransaction for Transaction<'_, DB> {}

/// Notes in the caller's transaction that the event is handled and runs `work`; if the event was noted before, skips
/// it. See [`handle`](crate::inbox::handle).
///
/// # Errors
/// As for [`handle`](crate::inbox::handle).
pub async fn handle<C, T, E>(
    transaction: &mut C,
    key: impl Into<InboxKey>,
    work: impl AsyncFnOnce(&mut C) -> Result<T, E>,
) -> Result<Handled<T>, E>
where
    C: SqlxTransaction<Target: SqlxConnection + Sized>,
    E: From<InboxError<Error>>,
{
    let key = key.into().into_note().map_err(InboxError::InvalidKey)?;
    let dialect = dialect_of::<C::Target>()?;
    if texts(&mut **transaction, note(dialect, &key)).await?.is_empty() {
        return Ok(Handled::Skipped);
    }
    match work(transaction).await {
        Ok(result) => Ok(Handled::Done(result)),
        Err(error) => {
            let _ = texts(&mut **transaction, forget(dialect, &key)).await;
            Err(error)
        }
    }
}

/// Notes in the caller's transaction that these events are handled, and returns for each whether it is new. See
/// [`note_many`](crate::inbox::note_many).
///
/// # Errors
/// As for [`note_many`](crate::inbox::note_many).
pub async fn note_many<C, K>(
    transaction: &mut C,
    keys: impl IntoIterator<Item = K>,
) -> Result<Vec<bool>, InboxError<Error>>
where
    C: SqlxTransaction<Target: SqlxConnection + Sized>,
    K: Into<InboxKey>,
{
    let many = NoteMany::new(key::into_notes(keys)?);
    let rows = match many.statement(dialect_of::<C::Target>()?) {
        Some(statement) => texts(&mut **transaction, statement).await?,
        None => Vec::new(),
    };
    Ok(many.finish(&rows))
}

/// Lets `?` work in a transaction whose error is the driver's.
impl From<InboxError<Self>> for Error {
    fn from(error: InboxError<Self>) -> Self {
        match error {
            InboxError::Database(error) => error,
            other => Self::Encode(other.into()),
        }
    }
}

async fn texts<C: SqlxConnection>(
    connection: &mut C,
    statement: InboxStatement,
) -> Result<Vec<String>, InboxError<Error>> {
    let params = statement.params.into_iter().map(Some).collect();
    connection.fetch_texts(statement.sql, params).await.map_err(InboxError::Database)
}

fn dialect_of<C: SqlxConnection>() -> Result<Dialect, InboxError<Error>> {
    dialect::<C>().map_err(|error| InboxError::Database(Error::Configuration(error.into())))
}
