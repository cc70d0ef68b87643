//! Publishing with the connections of other drivers.
//!
//! A driver executes what [`write`] asks for: a statement with texts as parameters, whose rows have one column, a text.

#![allow(clippy::duplicate_mod, reason = "the versions of a driver share their text")]

mod batch;
mod errors;
#[cfg(feature = "mysql")]
mod mysql;
mod postgres;
mod sqlite;
mod stored;
mod write;

#[cfg(feature = "mysql-async")]
pub mod mysql_async;
#[cfg(feature = "rusqlite")]
pub mod rusqlite;
#[cfg(feature = "sea-orm-1")]
pub mod sea_orm_1;
#[cfg(feature = "sea-orm-2")]
pub mod sea_orm_2;
#[cfg(feature = "sqlx-0_8")]
pub mod sqlx_0_8;
#[cfg(feature = "sqlx-0_9")]
pub mod sqlx_0_9;
#[cfg(feature = "tokio-postgres")]
pub mod tokio_postgres;
#[cfg(all(test, feature = "tokio-postgres"))]
mod tokio_postgres_tests;
