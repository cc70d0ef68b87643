//! A plain connection to MariaDB or MySQL.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::error::StoreError;
use crate::settings::Secret;
use crate::store::mysql::connect_plain;

/// A connection with statements of the caller's, and the server's own settings of a session.
pub struct MysqlClient(Conn);

impl MysqlClient {
    /// Connects with the outbox's TLS and time limit.
    ///
    /// # Errors
    /// If the address is not valid, or the server does not accept the connection.
    pub async fn connect(url: &Secret) -> Result<Self, StoreError> {
        connect_plain(url.clone()).await.map(Self)
    }

    /// Executes a statement.
    ///
    /// # Errors
    /// Errors of the server.
    pub async fn execute(&mut self, sql: &str) -> Result<(), StoreError> {
        self.0.query_drop(sql).await.map_err(|error| failed(&error))
    }

    /// The number that a query answers; `None` for NULL and for no row.
    ///
    /// # Errors
    /// Errors of the server.
    pub async fn number(&mut self, sql: &str) -> Result<Option<i64>, StoreError> {
        let number: Option<Option<i64>> = self.0.query_first(sql).await.map_err(|error| failed(&error))?;
        Ok(number.flatten())
    }

    /// The first column of a query's rows.
    ///
    /// # Errors
    /// Errors of the server.
    pub async fn texts(&mut self, sql: &str) -> Result<Vec<String>, StoreError> {
        self.0.query(sql).await.map_err(|error| failed(&error))
    }
}

fn failed(error: &mysql_async::Error) -> StoreError {
    StoreError::Query { operation: "measure", reason: error.to_string(), transient: false }
}
