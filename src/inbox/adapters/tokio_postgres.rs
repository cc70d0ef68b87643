//! The inbox with `tokio-postgres`: its transactions. Those of deadpool's clients are passed as `&mut *transaction`.

use ::tokio_postgres::error::SqlState;
use ::tokio_postgres::{Error, GenericClient, Transaction};

use crate::inbox::{Handled, InboxError, InboxKey, key};
use crate::publish::Dialect;
use crate::publish::adapters::tokio_postgres::query;
use crate::store::inbox::{Answer, InboxStatement, NoteMany, Returns, forget, note};

/// A transaction of the driver.
pub trait PostgresTransaction: GenericClient + Sync {}

impl PostgresTransaction for Transaction<'_> {}

/// Notes in the caller's transaction that the event is handled and runs `work`; if the event was noted before, skips
/// it. See [`handle`](crate::inbox::handle).
///
/// # Errors
/// As for [`handle`](crate::inbox::handle). Those of the driver cannot hold an invalid key.
pub async fn handle<C, T, E>(
    transaction: &mut C,
    key: impl Into<InboxKey>,
    work: impl AsyncFnOnce(&mut C) -> Result<T, E>,
) -> Result<Handled<T>, E>
where
    C: PostgresTransaction,
    E: From<InboxError<Error>>,
{
    let key = key.into().into_note().map_err(InboxError::InvalidKey)?;
    if answer(transaction, note(Dialect::Postgres, &key)).await?.changed() == 0 {
        return Ok(Handled::Skipped);
    }
    match work(transaction).await {
        Ok(result) => Ok(Handled::Done(result)),
        Err(error) => {
            let _ = answer(transaction, forget(Dialect::Postgres, &key)).await;
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
    C: PostgresTransaction,
    K: Into<InboxKey>,
{
    let mut many = NoteMany::new(Dialect::Postgres, key::into_notes(keys)?);
    while let Some(statement) = many.next() {
        many.received(answer(transaction, statement).await, is_unique_violation)?;
    }
    Ok(many.finish())
}

async fn answer<C: PostgresTransaction>(
    transaction: &C,
    statement: InboxStatement,
) -> Result<Answer, InboxError<Error>> {
    let answer = match statement.returns {
        Returns::Nothing => transaction.batch_execute(statement.sql).await.map(|()| Answer::Count(0)),
        _ => query(transaction, &statement.into()).await.map(Answer::Rows),
    };
    answer.map_err(InboxError::Database)
}

fn is_unique_violation(error: &InboxError<Error>) -> bool {
    matches!(error, InboxError::Database(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION))
}
