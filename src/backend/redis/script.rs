//! A Lua script called by its hash, and loaded if the server does not know it.

use std::sync::OnceLock;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};

pub(super) struct Script {
    text: &'static str,
    hash: OnceLock<String>,
}

impl Script {
    pub(super) const fn new(text: &'static str) -> Self {
        Self { text, hash: OnceLock::new() }
    }

    /// A call to which keys and arguments must be added: the number of keys first.
    pub(super) fn request(&self) -> Cmd {
        self.large_request(0)
    }

    /// A call with memory for this many bytes, which are then not moved while it grows.
    pub(super) fn large_request(&self, bytes: usize) -> Cmd {
        let hash = self.hash.get_or_init(|| redis::Script::new(self.text).get_hash().to_owned());
        let mut request = Cmd::with_capacity(0, bytes);
        request.arg("EVALSHA").arg(hash);
        request
    }

    /// Calls the script. NOSCRIPT means with certainty that nothing ran, so the same request may follow.
    pub(super) async fn call(
        &self,
        connection: &mut MultiplexedConnection,
        request: &Cmd,
    ) -> Result<Value, RedisError> {
        match request.query_async(connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                redis::cmd("SCRIPT").arg("LOAD").arg(self.text).query_async::<()>(connection).await?;
                request.query_async(connection).await
            }
            answer => answer,
        }
    }
}
