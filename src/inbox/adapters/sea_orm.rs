//! The inbox with SeaORM, for each of its versions: `super` has what differs between them.

use super::driver::{count, dialect, query};
use super::sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, SqlErr};
use crate::inbox::{Handled, InboxError, InboxKey, key};
use crate::publish::Dialect;
use crate::store::inbox::{Answer, InboxStatement, NoteMany, Returns, forget, note};

/// Notes in the caller's transaction that the event is handled and runs `work`; if the event was noted before, skips
/// it. See [`handle`](crate::inbox::handle).
///
/// # Errors
/// As for [`handle`](crate::inbox::handle).
pub async fn handle<T, E>(
    transaction: &DatabaseTransaction,
    key: impl Into<InboxKey>,
    work: impl AsyncFnOnce(&DatabaseTransaction) -> Result<T, E>,
) -> Result<Handled<T>, E>
where
    E: From<InboxError<DbErr>>,
{
    let key = key.into().into_note().map_err(InboxError::InvalidKey)?;
    let dialect = dialect_of(transaction)?;
    if answer(transaction, note(dialect, &key)).await?.changed() == 0 {
        return Ok(Handled::Skipped);
    }
    match work(transaction).await {
        Ok(result) => Ok(Handled::Done(result)),
        Err(error) => {
            let _ = answer(transaction, forget(dialect, &key)).await;
            Err(error)
        }
    }
}

/// Notes in the caller's transaction that these events are handled, and returns for each whether it is new. See
/// [`note_many`](crate::inbox::note_many).
///
/// # Errors
/// As for [`note_many`](crate::inbox::note_many).
pub async fn note_many<K: Into<InboxKey>>(
    transaction: &DatabaseTransaction,
    keys: impl IntoIterator<Item = K>,
) -> Result<Vec<bool>, InboxError<DbErr>> {
    let mut many = NoteMany::new(dialect_of(transaction)?, key::into_notes(keys)?);
    while let Some(statement) = many.next() {
        many.received(answer(transaction, statement).await, is_unique_violation)?;
    }
    Ok(many.finish())
}

/// Lets `?` work in a transaction whose error is the driver's.
impl From<InboxError<Self>> for DbErr {
    fn from(error: InboxError<Self>) -> Self {
        match error {
            InboxError::Database(error) => error,
            other => Self::Custom(other.to_string()),
        }
    }
}

async fn answer(transaction: &DatabaseTransaction, statement: InboxStatement) -> Result<Answer, InboxError<DbErr>> {
    let backend = transaction.get_database_backend();
    let answer = match statement.returns {
        Returns::Rows => query(transaction, backend, statement.into()).await.map(Answer::Rows),
        Returns::Count => count(transaction, backend, statement.into()).await.map(Answer::Count),
        Returns::Nothing => transaction.execute_unprepared(statement.sql).await.map(|_| Answer::Count(0)),
    };
    answer.map_err(InboxError::Database)
}

fn is_unique_violation(error: &InboxError<DbErr>) -> bool {
    let InboxError::Database(error) = error else { return false };
    matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_)))
}

fn dialect_of(transaction: &DatabaseTransaction) -> Result<Dialect, InboxError<DbErr>> {
    let dialect = dialect(transaction.get_database_backend());
    dialect.map_err(|error| InboxError::Database(DbErr::Custom(error.to_string())))
}
