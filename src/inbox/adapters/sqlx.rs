//! The inbox with sqlx, for each of its versions: `super` has what differs between them.

use std::ops::DerefMut;

use super::driver::{SqlxConnection, dialect};
use super::sqlx::{Database, Error, Transaction};
use crate::inbox::{Handled, InboxError, InboxKey, key};
use crate::publish::Dialect;
use crate::store::inbox::{Answer, InboxStatement, NoteMany, Returns, forget, note};

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
    if answer(&mut **transaction, note(dialect, &key)).await?.changed() == 0 {
        return Ok(Handled::Skipped);
    }
    match work(transaction).await {
        Ok(result) => Ok(Handled::Done(result)),
        Err(error) => {
            let _ = answer(&mut **transaction, forget(dialect, &key)).await;
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
    let mut many = NoteMany::new(dialect_of::<C::Target>()?, key::into_notes(keys)?);
    while let Some(statement) = many.next() {
        many.received(answer(&mut **transaction, statement).await, is_unique_violation)?;
    }
    Ok(many.finish())
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

async fn answer<C: SqlxConnection>(connection: &mut C, statement: InboxStatement) -> Result<Answer, InboxError<Error>> {
    let InboxStatement { sql, params, returns } = statement;
    let params = params.into_iter().map(Some).collect();
    let answer = async {
        let rows = match returns {
            Returns::Rows | Returns::Count => connection.fetch_texts(sql, params).await?,
            Returns::Nothing => connection.fetch_unprepared(sql).await?,
        };
        Ok(match returns {
            Returns::Rows => Answer::Rows(rows),
            Returns::Count => Answer::Count(changed(connection).await?),
            Returns::Nothing => Answer::Count(0),
        })
    };
    answer.await.map_err(InboxError::Database)
}

fn is_unique_violation(error: &InboxError<Error>) -> bool {
    matches!(error, InboxError::Database(Error::Database(error)) if error.is_unique_violation())
}

/// How many rows the last statement has changed, on MariaDB or MySQL: sqlx does not tell it of a database that it knows at run time.
async fn changed<C: SqlxConnection>(connection: &mut C) -> Result<usize, Error> {
    let count = connection.fetch_unprepared("SELECT CAST(ROW_COUNT() AS char)").await?;
    let count = count.first().and_then(|count| count.parse().ok());
    count.ok_or_else(|| Error::Protocol("ROW_COUNT() is no number".to_owned()))
}

fn dialect_of<C: SqlxConnection>() -> Result<Dialect, InboxError<Error>> {
    dialect::<C>().map_err(|error| InboxError::Database(Error::Configuration(error.into())))
}
