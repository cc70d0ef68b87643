//! The inbox with sqlx 0.9: its transactions, on PostgreSQL, or on SQLite if the application turns it on in sqlx.

use ::sqlx_0_9 as sqlx;

use crate::publish::adapters::sqlx_0_9 as driver;

#[path = "sqlx.rs"]
mod adapter;

pub use adapter::{SqlxTransaction, handle, note_many};
