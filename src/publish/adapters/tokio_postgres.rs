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

use ::tokio_postgres::GenericClient;
use ::tokio_postgres::types::{ToSql, Type};
use ::tokio_postgres::{Error, Row};
use uuid::Uuid;

use super::batch::{Batch, COMPARE, Columns, INSERT, LOCK, MAY_WRITE_TO_LOG, WRITE_TO_LOG};
use crate::error::{PublishError, StoreError};
use crate::publish::{NewEvent, prepare_all};
use crate::store::postgres::error_of_callers_connection;

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
    let batch = Batch::new(vec![event.into_valid()?]);
    write(client, &batch).await.map_err(PublishError::alone)?;
    exactly_one(batch.ids())
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
    let batch = Batch::new(prepare_all(events)?);
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
    let rows = query(client, INSERT, &batch.columns()).await.map_err(store_error)?;
    let written: Result<Vec<Uuid>, Error> = rows.iter().map(|row| row.try_get(0)).collect();
    let repeated = batch.repeated(&written.map_err(store_error)?);
    if repeated.is_empty() {
        return Ok(());
    }
    if let Some(id) = repeated.lost() {
        return Err(unexpected(format!("the event {id} was inserted but is not in the table")));
    }
    let columns = repeated.columns();
    wait_for_standby(client, &columns).await.map_err(store_error)?;
    let different = query(client, COMPARE, &columns).await.map_err(store_error)?;
    let Some(different) = different.first() else { return Ok(()) };
    let (place, field): (i64, String) =
        (different.try_get(0).map_err(store_error)?, different.try_get(1).map_err(store_error)?);
    let conflict = repeated.conflict(place, &field);
    Err(conflict.unwrap_or_else(|| unexpected("the comparison named an unknown column".to_owned())))
}

/// A transaction that writes nothing does not wait for a synchronous standby, so this one writes something.
async fn wait_for_standby<C>(client: &C, repeated: &Columns<'_>) -> Result<(), Error>
where
    C: GenericClient + Sync,
{
    let may_write = client.query_typed(MAY_WRITE_TO_LOG, &[]).await?;
    let may_write = may_write.first().map_or(Ok(false), |row| row.try_get(0))?;
    match may_write {
        true => client.query_typed(WRITE_TO_LOG, &[]).await?,
        false => client.query_typed(LOCK, &[(&repeated[0], Type::TEXT_ARRAY)]).await?,
    };
    Ok(())
}

/// Sends a statement in one round trip, without preparing it.
async fn query<C>(client: &C, sql: &str, columns: &Columns<'_>) -> Result<Vec<Row>, Error>
where
    C: GenericClient + Sync,
{
    let params = columns.each_ref().map(|column| (column as &(dyn ToSql + Sync), Type::TEXT_ARRAY));
    client.query_typed(sql, &params).await
}

fn exactly_one(ids: Vec<Uuid>) -> Result<Uuid, PublishError> {
    ids.into_iter().next().ok_or_else(|| unexpected("the database did not return the inserted event".to_owned()))
}

fn unexpected(reason: String) -> PublishError {
    StoreError::Query { operation: "write events", reason, transient: false }.into()
}

#[expect(clippy::needless_pass_by_value, reason = "it is passed to `map_err`")]
fn store_error(error: Error) -> PublishError {
    error_of_callers_connection(&error).into()
}
