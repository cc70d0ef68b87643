//! Publishing with `mysql_async`: its connections, its transactions, and the guards of its pools.
//!
//! ```
//! use actix_outbox::NewEvent;
//! use actix_outbox::mysql_async::publish;
//! use mysql_async::prelude::Queryable;
//! use mysql_async::{Conn, TxOpts};
//!
//! async fn create_user(connection: &mut Conn, name: &str) -> anyhow::Result<()> {
//!     let mut transaction = connection.start_transaction(TxOpts::default()).await?;
//!     transaction.exec_drop("INSERT INTO users (name) VALUES (?)", (name,)).await?;
//!     publish(&mut transaction, NewEvent::new("user.created", "user-service").partition_key(name)).await?;
//!     transaction.commit().await?;
//!     Ok(())
//! }
//! ```

use ::mysql_async::prelude::Queryable;
use ::mysql_async::{Conn, Error, Params, Transaction, TxOpts, Value};
use futures_util::future::BoxFuture;
use uuid::Uuid;

use self::sealed::Events;
use super::batch::Batch;
use super::errors::DriverError;
use super::write::{Statement, Write};
use crate::error::PublishError;
use crate::publish::{Dialect, NewEvent};

/// Writes an event on the caller's connection and returns its id.
///
/// The event exists if and only if the caller's transaction commits; on a connection without one, it is committed. A repeated
/// id is treated as by [`publish`](crate::publish()).
///
/// # Errors
/// As for [`publish`](crate::publish()).
pub async fn publish<C>(connection: &mut C, event: NewEvent) -> Result<Uuid, PublishError>
where
    C: MysqlConnection,
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
    connection: &mut C,
    events: impl IntoIterator<Item = NewEvent>,
) -> Result<Vec<Uuid>, PublishError>
where
    C: MysqlConnection,
{
    let batch = Batch::many(events)?;
    match batch.can_stand_alone {
        true => write(connection, &batch).await?,
        false => connection.write_all(Events(&batch)).await?,
    }
    Ok(batch.ids())
}

/// A connection, or a transaction, of the driver.
pub trait MysqlConnection: sealed::WriteAll {}

impl MysqlConnection for Conn {}
impl MysqlConnection for Transaction<'_> {}

mod sealed {
    use super::{Batch, BoxFuture, PublishError, Queryable};

    /// The events of one call.
    #[derive(Clone, Copy)]
    #[allow(missing_debug_implementations, reason = "no application can name it")]
    pub struct Events<'a>(pub(super) &'a Batch);

    /// Writes all events or none, with several statements.
    pub trait WriteAll: Queryable + Send + Sized {
        fn write_all<'a>(&'a mut self, events: Events<'a>) -> BoxFuture<'a, Result<(), PublishError>>;
    }
}

impl sealed::WriteAll for Conn {
    fn write_all<'a>(&'a mut self, events: Events<'a>) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(async move {
            // Dropping the transaction rolls it back.
            let mut transaction = self.start_transaction(TxOpts::default()).await.map_err(store_error)?;
            write(&mut transaction, events.0).await?;
            transaction.commit().await.map_err(store_error)
        })
    }
}

impl sealed::WriteAll for Transaction<'_> {
    fn write_all<'a>(&'a mut self, events: Events<'a>) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(async move {
            self.query_drop("SAVEPOINT actix_outbox").await.map_err(store_error)?;
            if let Err(error) = write(self, events.0).await {
                // A deadlock has rolled the whole transaction back, with its savepoints.
                let _ = self.query_drop("ROLLBACK TO SAVEPOINT actix_outbox").await;
                return Err(error);
            }
            self.query_drop("RELEASE SAVEPOINT actix_outbox").await.map_err(store_error)
        })
    }
}

async fn write<C: Queryable>(connection: &mut C, batch: &Batch) -> Result<(), PublishError> {
    let mut write = Write::new(batch, Dialect::Mysql);
    while let Some(Statement { sql, params }) = write.next() {
        let params = Params::Positional(params.into_iter().map(Value::from).collect());
        write.received(connection.exec(sql, params).await.map_err(store_error)?)?;
    }
    Ok(())
}

fn store_error(error: Error) -> PublishError {
    let error = match error {
        Error::Server(error) => DriverError { code: Some(error.code.to_string()), message: error.message },
        error => DriverError { code: None, message: error.to_string() },
    };
    error.into_store_error(Dialect::Mysql).into()
}
