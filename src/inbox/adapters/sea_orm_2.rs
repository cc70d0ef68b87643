//! The inbox with SeaORM 2: its transactions.

use ::sea_orm_2 as sea_orm;

use crate::publish::adapters::sea_orm_2 as driver;

#[path = "sea_orm.rs"]
mod adapter;

pub use adapter::{handle, note_many};
