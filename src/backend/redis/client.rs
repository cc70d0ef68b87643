//! The connection of one session: made when it is needed, and dropped after any doubt about what the server did.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value};

use super::{Address, Script, errors, replicas};
use crate::backend::BackendError;
use crate::backend::session::Unavailable;
use crate::settings::{PublisherSettings, WaitReplicas};

/// How long Redis may take to answer the PING of an idle session.
const PING_LIMIT: Duration = Duration::from_secs(2);

pub(super) struct Client {
    address: Address,
    wait_replicas: Option<WaitReplicas>,
    connection: Option<MultiplexedConnection>,
}

impl Client {
    /// Reads the address; nothing is connected.
    pub(super) fn new(settings: &PublisherSettings) -> Result<Self, String> {
        let address = Address::new(settings)?;
        Ok(Self { address, wait_replicas: settings.wait_replicas, connection: None })
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Ends the session.
    pub(super) fn end(&mut self) {
        self.connection = None;
    }

    /// The session's connection; a new one if the last one has ended.
    pub(super) async fn connection(&mut self) -> Result<&mut MultiplexedConnection, BackendError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let mut connection = self.address.connect().await?;
                // A server that requires a password and got none answers a long request with a protocol error.
                redis::cmd("PING")
                    .query_async::<()>(&mut connection)
                    .await
                    .map_err(|error| errors::unavailable(&error))?;
                connection
            }
        };
        Ok(self.connection.insert(connection))
    }

    /// Calls a script. What it wrote, or read of other sessions' writes, counts once the replicas have it.
    pub(super) async fn call(&mut self, script: &'static Script, request: &Cmd) -> Result<Value, Unavailable> {
        let wanted = self.wait_replicas;
        let connection = self.connection().await?;
        let answer = script.call(connection, request).await.map_err(|error| errors::unavailable_for_events(&error))?;
        replicas::confirm(connection, wanted).await?;
        Ok(answer)
    }

    pub(super) async fn ping(&mut self) -> Result<(), BackendError> {
        let connection = self.connection().await?;
        let answered = tokio::time::timeout(PING_LIMIT, redis::cmd("PING").query_async::<()>(connection)).await;
        match answered {
            Ok(answer) => answer.map_err(|error| errors::unavailable(&error)),
            Err(_) => Err(BackendError::Unavailable(format!("Redis: no answer to PING within {PING_LIMIT:?}"))),
        }
    }

    /// Whether a request of this size exceeds the server's memory limit even if nothing else were stored. `false` if the
    /// server does not report the limit.
    pub(super) async fn is_too_small_for(&mut self, bytes: usize) -> bool {
        let Ok(connection) = self.connection().await else { return false };
        let info: Result<String, _> = redis::cmd("INFO").arg("memory").query_async(connection).await;
        let info = info.unwrap_or_default();
        let figure = |name: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.and_then(|value| value.trim().parse::<usize>().ok())
        };
        let limit = figure("maxmemory").filter(|limit| *limit > 0);
        limit.is_some_and(|limit| bytes + figure("used_memory_startup").unwrap_or(0) > limit)
    }
}
