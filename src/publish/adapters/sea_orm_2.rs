//! Publishing with SeaORM 2: its connections and transactions.
//!
//! ```
//! # use sea_orm_2 as sea_orm;
//! use actix_outbox::NewEvent;
//! use actix_outbox::sea_orm_2::publish;
//! use sea_orm::{ConnectionTrait, DatabaseConnection, TransactionTrait};
//!
//! async fn create_user(database: &DatabaseConnection, name: &str) -> anyhow::Result<()> {
//!     let transaction = database.begin().await?;
//!     transaction.execute_unprepared("UPDATE counters SET users = users + 1").await?;
//!     publish(&transaction, NewEvent::new("user.created", "user-service").partition_key(name)).await?;
//!     transaction.commit().await?;
//!     Ok(())
//! }
//! ```
//!
//! The application turns on the driver, PostgreSQL's, SQLite's or MySQL's, in SeaORM; MySQL's with this library's feature
//! `mysql`.
//!
//! SeaORM 2 needs Rust 1.94.

use ::sea_orm_2 as sea_orm;
#[cfg(feature = "inbox")]
use sea_orm::ExecResult;
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Statement, TransactionSession, sqlx};

#[path = "sea_orm.rs"]
mod adapter;
#[path = "sqlx_error.rs"]
mod error;

#[cfg(feature = "inbox")]
pub(crate) use adapter::{count, dialect, query};
pub use adapter::{publish, publish_many};
use error::driver_error;

async fn query_all(connection: &impl ConnectionTrait, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
    connection.query_all_raw(statement).await
}

#[cfg(feature = "inbox")]
async fn execute(connection: &impl ConnectionTrait, statement: Statement) -> Result<ExecResult, DbErr> {
    connection.execute_raw(statement).await
}

async fn commit(transaction: impl TransactionSession) -> Result<(), DbErr> {
    transaction.commit().await
}
