//! The adapter for SeaORM, for each of its versions: `super` has what differs between them.

use uuid::Uuid;

use super::super::batch::Batch;
use super::super::errors::{DriverError, not_supported};
use super::super::write::{self, Write};
#[cfg(feature = "inbox")]
use super::execute;
use super::sea_orm::{ConnectionTrait, DbBackend, DbErr, RuntimeErr, Statement, TransactionTrait, Value};
use super::{commit, driver_error, query_all};
use crate::error::PublishError;
use crate::publish::{Dialect, NewEvent};

/// Writes an event on the caller's connection and returns its id.
///
/// The event exists if and only if the caller's transaction commits; on a connection without one, it is committed. A repeated
/// id is treated as by [`publish`](crate::publish()). On PostgreSQL the connection's `search_path` decides into which outbox it
/// is written.
///
/// # Errors
/// As for [`publish`](crate::publish()).
pub async fn publish<C>(connection: &C, event: NewEvent) -> Result<Uuid, PublishError>
where
    C: ConnectionTrait,
{
    let batch = Batch::one(event)?;
    write(connection, &batch).await.map_err(PublishError::alone)?;
    batch.only_id()
}

/// Writes events on the caller's connection, all or none, and returns their ids, in the order given.
///
/// One statement writes all of them. If one of several has an id that the caller chose, they are written in a transaction of
/// their own, which is a savepoint within a transaction. See [`publish_many`](crate::publish_many) for their order.
///
/// # Errors
/// As for [`publish_many`](crate::publish_many).
pub async fn publish_many<C>(
    connection: &C,
    events: impl IntoIterator<Item = NewEvent>,
) -> Result<Vec<Uuid>, PublishError>
where
    C: ConnectionTrait + TransactionTrait,
{
    let batch = Batch::many(events)?;
    if batch.can_stand_alone {
        write(connection, &batch).await?;
    } else {
        let dialect = dialect(connection.get_database_backend())?;
        let store_error = |error: DbErr| store_error(&error, dialect);
        let transaction = connection.begin().await.map_err(store_error)?;
        // Dropping the transaction rolls it back.
        write(&transaction, &batch).await?;
        commit(transaction).await.map_err(store_error)?;
    }
    Ok(batch.ids())
}

async fn write<C>(connection: &C, batch: &Batch) -> Result<(), PublishError>
where
    C: ConnectionTrait,
{
    let backend = connection.get_database_backend();
    let dialect = dialect(backend)?;
    let mut write = Write::new(batch, dialect);
    while let Some(statement) = write.next() {
        let rows = query(connection, backend, statement).await;
        write.received(rows.map_err(|error| store_error(&error, dialect))?)?;
    }
    Ok(())
}

pub(crate) async fn query<C>(
    connection: &C,
    backend: DbBackend,
    statement: write::Statement,
) -> Result<Vec<String>, DbErr>
where
    C: ConnectionTrait,
{
    let rows = query_all(connection, with_values(backend, statement)).await?;
    rows.iter().map(|row| row.try_get_by_index(0)).collect()
}

/// Executes a statement and returns how many rows it has changed.
#[cfg(feature = "inbox")]
pub(crate) async fn count<C>(connection: &C, backend: DbBackend, statement: write::Statement) -> Result<usize, DbErr>
where
    C: ConnectionTrait,
{
    let done = execute(connection, with_values(backend, statement)).await?;
    Ok(usize::try_from(done.rows_affected()).unwrap_or(usize::MAX))
}

fn with_values(backend: DbBackend, statement: write::Statement) -> Statement {
    Statement::from_sql_and_values(backend, statement.sql, statement.params.into_iter().map(Value::from))
}

pub(crate) fn dialect(backend: DbBackend) -> Result<Dialect, PublishError> {
    match backend {
        DbBackend::Postgres => Ok(Dialect::Postgres),
        DbBackend::Sqlite => Ok(Dialect::Sqlite),
        #[cfg(feature = "mysql")]
        DbBackend::MySql => Ok(Dialect::Mysql),
        #[allow(unreachable_patterns, reason = "SeaORM 1 has no other")]
        other => Err(not_supported(&format!("{other:?}")).into()),
    }
}

fn store_error(error: &DbErr, dialect: Dialect) -> PublishError {
    let error = match error {
        DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error))
        | DbErr::Conn(RuntimeErr::SqlxError(error)) => driver_error(error, dialect),
        DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => DriverError { code: None, message: error.to_string() },
        _ => DriverError { code: Some(String::new()), message: error.to_string() },
    };
    error.into_store_error(dialect).into()
}
