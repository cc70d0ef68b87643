//! Publishing with `rusqlite`: its connections, transactions and savepoints, and the guards of pools of them.
//!
//! ```
//! use actix_outbox::NewEvent;
//! use actix_outbox::rusqlite::publish;
//! use rusqlite::{Connection, TransactionBehavior};
//!
//! fn create_user(connection: &mut Connection, name: &str) -> anyhow::Result<()> {
//!     let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
//!     transaction.execute("INSERT INTO users (name) VALUES (?1)", [name])?;
//!     publish(&transaction, NewEvent::new("user.created", "user-service").partition_key(name))?;
//!     transaction.commit()?;
//!     Ok(())
//! }
//! ```
//!
//! The version of SQLite is that of the application's rusqlite, 3.41 or later.

use ::rusqlite::{Connection, Error, params_from_iter};
use uuid::Uuid;

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
pub fn publish(connection: &Connection, event: NewEvent) -> Result<Uuid, PublishError> {
    let batch = Batch::one(event)?;
    write(connection, &batch).map_err(PublishError::alone)?;
    batch.only_id()
}

/// Writes events on the caller's connection, all or none, and returns their ids, in the order given.
///
/// One statement writes all of them. If one of several has an id that the caller chose, they are written in a savepoint. See
/// [`publish_many`](crate::publish_many) for their order.
///
/// # Errors
/// As for [`publish_many`](crate::publish_many).
pub fn publish_many(
    connection: &Connection,
    events: impl IntoIterator<Item = NewEvent>,
) -> Result<Vec<Uuid>, PublishError> {
    let batch = Batch::many(events)?;
    if batch.can_stand_alone {
        write(connection, &batch)?;
        return Ok(batch.ids());
    }
    connection.execute_batch("SAVEPOINT actix_outbox").map_err(store_error)?;
    if let Err(error) = write(connection, &batch) {
        // SQLite has rolled back more than the savepoint if there is none.
        let _ = connection.execute_batch("ROLLBACK TO actix_outbox; RELEASE actix_outbox");
        return Err(error);
    }
    connection.execute_batch("RELEASE actix_outbox").map_err(store_error)?;
    Ok(batch.ids())
}

fn write(connection: &Connection, batch: &Batch) -> Result<(), PublishError> {
    let mut write = Write::new(batch, Dialect::Sqlite);
    while let Some(statement) = write.next() {
        write.received(query(connection, statement).map_err(store_error)?)?;
    }
    Ok(())
}

pub(crate) fn query(connection: &Connection, statement: Statement) -> Result<Vec<String>, Error> {
    let mut prepared = connection.prepare(statement.sql)?;
    prepared.query_map(params_from_iter(statement.params), |row| row.get(0))?.collect()
}

#[expect(clippy::needless_pass_by_value, reason = "it is passed to `map_err`")]
fn store_error(error: Error) -> PublishError {
    // Every error is SQLite's or the statement's: a file is not a server that may not answer.
    let code = error.sqlite_error().map_or(0, |error| error.extended_code).to_string();
    DriverError { code: Some(code), message: error.to_string() }.into_store_error(Dialect::Sqlite).into()
}
