//! The stream that handlers write to, one entry for each event.

use std::fmt;

use anyhow::Context;
use redis::aio::MultiplexedConnection;

use crate::event::Event;

/// One connection that all handlers share; their commands are pipelined.
#[derive(Clone)]
pub(crate) struct Stream {
    connection: MultiplexedConnection,
    name: String,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Stream {
    pub(crate) async fn from_environment() -> anyhow::Result<Self> {
        let url = std::env::var("REDIS_URL").context("REDIS_URL")?;
        let name = std::env::var("STREAM").context("STREAM")?;
        let connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
        Ok(Self { connection, name })
    }

    /// Returns when Redis has the entry.
    pub(crate) async fn add(mut self, event: &Event) -> anyhow::Result<()> {
        let data = serde_json::to_string(event)?;
        let mut command = redis::cmd("XADD");
        command.arg(&self.name).arg("*").arg("id").arg(event.n).arg("data").arg(data);
        Ok(command.query_async(&mut self.connection).await?)
    }
}
