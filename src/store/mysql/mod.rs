//! The outbox in MariaDB or MySQL: 32 shards, times in UTC, ids as `uuid` or `char(32)`. docs/mysql.md has the table and why it
//! is so.

mod address;
mod admin;
mod adopt;
#[cfg(test)]
mod adopt_tests;
mod application;
mod audit;
mod change;
mod chosen;
mod claimed;
mod clock;
mod data;
mod diagnosis;
mod error;
mod fetch;
#[cfg(test)]
pub(crate) mod fixture;
mod handlers;
mod history;
mod inbox;
pub(crate) mod insert;
mod inspection;
mod leases;
mod maintenance;
mod migrations;
mod operating;
mod overview;
mod pauses;
#[cfg(test)]
mod plans_tests;
mod pool;
mod queue_position;
mod retention;
mod roles;
mod route;
pub(crate) mod row;
mod scan;
mod seq;
#[cfg(test)]
mod seq_tests;
mod server;
mod session;
mod settle;
mod statement;
#[cfg(feature = "testing")]
mod testing;
#[cfg(test)]
mod tests;
mod waits;
mod writer;

pub(crate) use self::address::Address;
#[cfg(feature = "_adapters")]
pub(crate) use self::error::refusal;
use self::pool::Pool;
#[cfg(feature = "bench-api")]
pub(crate) use self::pool::connect_plain;
use self::settle::Settling;
use crate::settings::DatabaseSettings;

/// The shards of each lane.
const SHARDS: i16 = 32;

/// Connections unless the settings say another number.
const CONNECTIONS: usize = 12;

/// [`Store`](super::Store) in MariaDB or MySQL.
pub(crate) struct MysqlStore {
    pool: Pool,
    connections: usize,
    settling: Settling,
    rounds: handlers::Rounds,
}

impl MysqlStore {
    /// A store at the address in the settings; the first use connects.
    ///
    /// # Errors
    /// What is wrong with the address.
    pub(crate) fn new(settings: &DatabaseSettings) -> Result<Self, String> {
        let address = Address::parse(settings.url.clone())?;
        let connections = settings.connections.unwrap_or(CONNECTIONS);
        let (settling, rounds) = (Settling::default(), handlers::Rounds::default());
        Ok(Self { pool: Pool::new(address, connections), connections, settling, rounds })
    }
}
