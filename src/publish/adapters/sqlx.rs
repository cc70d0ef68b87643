//! The adapter for sqlx, for each of its versions: `super` has what differs between them.

use std::ops::DerefMut;

use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::super::batch::Batch;
use super::super::errors::not_supported;
use super::super::write::{Statement, Write};
use super::sqlx::{ColumnIndex, Connection, Database, Decode, Encode, Error, Executor, Row, Type};
use super::{Accepted, Arguments, driver_error, sqlx};
use crate::error::PublishError;
use crate::publish::{Dialect, NewEvent};

/// Writes an event on the caller's connection and returns its id.
///
/// The connection is a transaction, a pool's guard, or `&mut` of a connection. The event exists if and only if the caller's
/// transaction commits; without one, it is committed. A repeated id is treated as by [`publish`](crate::publish()). On
/// PostgreSQL the connection's `search_path` decides into which outbox it is written.
///
/// # Errors
/// As for [`publish`](crate::publish()).
pub async fn publish<C>(connection: &mut C, event: NewEvent) -> Result<Uuid, PublishError>
where
    C: DerefMut<Target: SqlxConnection + Sized> + Send,
{
    let batch = Batch::one(event)?;
    write(&mut **connection, dialect::<C::Target>()?, &batch).await.map_err(PublishError::alone)?;
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
    connection: &mut C,
    events: impl IntoIterator<Item = NewEvent>,
) -> Result<Vec<Uuid>, PublishError>
where
    C: DerefMut<Target: SqlxConnection + Sized> + Send,
{
    let batch = Batch::many(events)?;
    let dialect = dialect::<C::Target>()?;
    let store_error = |error: Error| store_error(&error, dialect);
    if batch.can_stand_alone {
        write(&mut **connection, dialect, &batch).await?;
    } else {
        let mut transaction = connection.begin().await.map_err(store_error)?;
        // Dropping the transaction rolls it back.
        write(&mut *transaction, dialect, &batch).await?;
        transaction.commit().await.map_err(store_error)?;
    }
    Ok(batch.ids())
}

async fn write<C: SqlxConnection>(connection: &mut C, dialect: Dialect, batch: &Batch) -> Result<(), PublishError> {
    let mut write = Write::new(batch, dialect);
    while let Some(Statement { sql, params }) = write.next() {
        let rows = connection.fetch_texts(sql, params).await;
        write.received(rows.map_err(|error| store_error(&error, dialect))?)?;
    }
    Ok(())
}

pub(crate) fn dialect<C: Connection>() -> Result<Dialect, PublishError> {
    match C::Database::NAME {
        "PostgreSQL" => Ok(Dialect::Postgres),
        "SQLite" => Ok(Dialect::Sqlite),
        #[cfg(feature = "mysql")]
        "MySQL" => Ok(Dialect::Mysql),
        other => Err(not_supported(other).into()),
    }
}

fn store_error(error: &Error, dialect: Dialect) -> PublishError {
    driver_error(error, dialect).into_store_error(dialect).into()
}

/// A connection of sqlx: to PostgreSQL, or to SQLite, MariaDB or MySQL if the application turns them on in sqlx.
///
/// Connections to other databases are refused when an event is published.
pub trait SqlxConnection: Connection<Database: Database<Connection = Self>> + Sized {
    /// Executes a statement with texts as parameters and returns the first column of its rows, a text.
    #[doc(hidden)]
    fn fetch_texts(
        &mut self,
        sql: &'static str,
        params: Vec<Option<String>>,
    ) -> BoxFuture<'_, Result<Vec<String>, Error>>;

    /// Executes a statement without preparing it and returns the first column of its rows, a text.
    #[doc(hidden)]
    fn fetch_unprepared(&mut self, sql: &'static str) -> BoxFuture<'_, Result<Vec<String>, Error>>;
}

impl<C, DB> SqlxConnection for C
where
    C: Connection<Database = DB>,
    DB: Database<Connection = C>,
    Arguments<DB>: Accepted<DB> + 'static,
    for<'c> &'c mut C: Executor<'c, Database = DB>,
    Option<String>: Encode<'static, DB> + Type<DB>,
    for<'r> String: Decode<'r, DB> + Type<DB>,
    usize: ColumnIndex<DB::Row>,
{
    fn fetch_texts(
        &mut self,
        sql: &'static str,
        params: Vec<Option<String>>,
    ) -> BoxFuture<'_, Result<Vec<String>, Error>> {
        Box::pin(async move {
            let query = params.into_iter().fold(sqlx::query::<DB>(sql), sqlx::query::Query::bind);
            let rows = query.fetch_all(self).await?;
            rows.iter().map(|row| row.try_get(0)).collect()
        })
    }

    fn fetch_unprepared(&mut self, sql: &'static str) -> BoxFuture<'_, Result<Vec<String>, Error>> {
        Box::pin(async move { self.fetch_all(sql).await?.iter().map(|row| row.try_get(0)).collect() })
    }
}
