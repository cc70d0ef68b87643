//! The outbox in MariaDB or MySQL: 32 shards, times in UTC, ids as `uuid` or `char(32)`. docs/mysql.md has the table and why it
//! is so.

mod address;
mod admin;
mod application;
mod clock;
mod diagnosis;
mod error;
mod fetch;
#[cfg(test)]
pub(crate) mod fixture;
mod inbox;
pub(crate) mod insert;
mod leases;
mod migrations;
mod missing;
mod pool;
mod roles;
mod route;
pub(crate) mod row;
mod server;
mod session;
mod settle;
mod statement;
#[cfg(feature = "testing")]
mod testing;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use self::address::Address;
use self::pool::Pool;
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
}

impl MysqlStore {
    /// A store at the address in the settings; the first use connects.
    ///
    /// # Errors
    /// What is wrong with the address.
    pub(crate) fn new(settings: &DatabaseSettings) -> Result<Self, String> {
        let address = Address::parse(settings.url.clone())?;
        let connections = settings.connections.unwrap_or(CONNECTIONS);
        Ok(Self { pool: Pool::new(address, connections), connections, settling: Settling::default() })
    }
}
