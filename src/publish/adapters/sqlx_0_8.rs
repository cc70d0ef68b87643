//! Publishing with sqlx 0.8: its transactions, its connections, and the guards of its pools.
//!
//! ```
//! # use sqlx_0_8 as sqlx;
//! use actix_outbox::NewEvent;
//! use actix_outbox::sqlx_0_8::publish;
//!
//! async fn create_user(pool: &sqlx::PgPool, name: &str) -> anyhow::Result<()> {
//!     let mut transaction = pool.begin().await?;
//!     sqlx::query("INSERT INTO users (name) VALUES ($1)").bind(name).execute(&mut *transaction).await?;
//!     publish(&mut transaction, NewEvent::new("user.created", "user-service").partition_key(name)).await?;
//!     transaction.commit().await?;
//!     Ok(())
//! }
//! ```
//!
//! SQLite works too if the application turns on its feature in sqlx. Begin its transactions with `BEGIN IMMEDIATE`
//! (`pool.begin_with("BEGIN IMMEDIATE")`): one that reads before it writes fails if another connection writes.
//! MariaDB and MySQL work likewise, with this library's feature `mysql`.

use ::sqlx_0_8 as sqlx;
use sqlx::{Database, IntoArguments};

#[path = "sqlx.rs"]
mod adapter;
#[path = "sqlx_error.rs"]
mod error;

#[cfg(feature = "inbox")]
pub(crate) use adapter::dialect;
pub use adapter::{SqlxConnection, publish, publish_many};
use error::driver_error;

/// The arguments of a statement.
type Arguments<DB> = <DB as Database>::Arguments<'static>;

/// Arguments that a statement accepts.
trait Accepted<DB: Database>: IntoArguments<'static, DB> {}

impl<DB: Database, A: IntoArguments<'static, DB>> Accepted<DB> for A {}
