//! Connections for the statements of the application.

use diesel::SqliteConnection;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;

use super::BUSY_TIMEOUT;
use super::connection::Location;
use crate::error::StoreError;
use crate::store::Result;

impl Location {
    /// A connection that waits for other writers, and whose commits survive a power failure, as the outbox's own.
    pub(crate) async fn connect_application(self) -> Result<SyncConnectionWrapper<SqliteConnection>> {
        let opening = tokio::task::spawn_blocking(move || self.open(BUSY_TIMEOUT));
        let opened = opening.await.map_err(|panic| StoreError::Query {
            operation: "connect",
            reason: panic.to_string(),
            transient: false,
        })?;
        opened.map(SyncConnectionWrapper::new)
    }
}
