//! Connections for the statements of the application.

use diesel_async::AsyncMysqlConnection;

use super::address::Address;
use super::pool::open;
use crate::store::Result;

impl Address {
    /// A connection with the server's defaults, except that its times are in UTC, which diesel's driver sets.
    pub(crate) async fn connect_application(self) -> Result<AsyncMysqlConnection> {
        open(&self, &[]).await
    }
}
