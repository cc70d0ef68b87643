//! The inbox with the transactions of other drivers: the statements are those of diesel's connections.

#![allow(clippy::duplicate_mod, reason = "the versions of a driver share their text")]

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
