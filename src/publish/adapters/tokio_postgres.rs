//! Publishing with `tokio-postgres`: its clients, its transactions, and the guards of pools of them.
//!
//! ```
//! use actix_outbox::NewEvent;
//! use actix_outbox::tokio_postgres::publish;
//!
//! async fn create_user(client: &mut tokio_postgres::Client, name: &str) -> anyhow::Result<()> {
//!     let mut transaction = client.transaction().await?;
//!     transaction.execute("INSERT INTO users (name) VALUES ($1)", &[&name]).await?;
//!     publish(&mut transaction, NewEvent::new("user.created", "user-service").partition_key(name)).await?;
//!     transaction.commit().await?;
//!     Ok(())
//! }
//! ```
//!
//! A guard of a pool is passed as the client in it: `&mut **guard` for deadpool, `&mut *guard` for bb8.

use ::tokio_postgres::types::{ToSql, Type};
use ::tokio_postgres::{Error, GenericClient};
use uuid::Uuid;

use super::batch::Batch;
use super::errors::DriverError;
use super::write::{Statement, Write};
use crate::error::PublishError;
use crate::publish::{Dialect, NewEvent};
use crate::store::postgres::chain;

/// Writes an event on the caller's connection and returns its id.
///
/// The event exists if and only if the caller's transaction commits; on a client without one, it is committed. A repeated id
/// is treated as by [`publish`](crate::publish()). The connection's `search_path` decides into which outbox it is written.
///
/// # Errors
/// As for [`publish`](crate::publish()).
pub async fn publish<C>(client: &mut C, event: NewEvent) -> Result<Uuid, PublishError>
where
    C: GenericClient + Sync,
{
    let batch = Batch::one(event)?;
    write(client, &batch).await.map_err(PublishError::alone)?;
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
    client: &mut C,
    events: impl IntoIterator<Item = NewEvent>,
) -> Result<Vec<Uuid>, PublishError>
where
    C: GenericClient + Sync,
{
    let batch = Batch::many(events)?;
    if batch.can_stand_alone {
        write(client, &batch).await?;
    } else {
        let transaction = client.transaction().await.map_err(store_error)?;
        // Dropping the transaction rolls it back.
        write(&transaction, &batch).await?;
        transaction.commit().await.map_err(store_error)?;
    }
    Ok(batch.ids())
}

async fn write<C>(client: &C, batch: &Batch) -> Result<(), PublishError>
where
    C: GenericClient + Sync,
{
    let mut write = Write::new(batch, Dialect::Postgres);
    while let Some(statement) = write.next() {
        write.received(query(client, &statement).await.map_err(store_error)?)?;
    }
    Ok(())
}

/// Sends a statement in one round trip, without preparing it.
pub(crate) async fn query<C>(client: &C, statement: &Statement) -> Result<Vec<String>, Error>
where
    C: GenericClient + Sync,
{
    let params: Vec<_> = statement.params.iter().map(|text| (text as &(dyn ToSql + Sync), Type::TEXT)).collect();
    let rows = client.query_typed(statement.sql, &params).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "it is passed to `map_err`")]
fn store_error(error: Error) -> PublishError {
    let code = error.code().map(|state| state.code().to_owned());
    DriverError { code, message: chain(&error) }.into_store_error(Dialect::Postgres).into()
}
