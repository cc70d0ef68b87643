//! The suite that every backend with a journal passes.

use async_trait::async_trait;

use super::*;
use crate::sessions::conformance::{Promise, Target};

#[async_trait]
impl Target for Server {
    const PROMISE: Promise = Promise::Once;

    async fn create() -> Self {
        Self::start(Self::DURABLE)
    }

    fn port(&self) -> u16 {
        self.port()
    }

    fn session(&self, outbox: Uuid, port: u16, limit: Duration) -> Box<dyn BackendSession> {
        let url = format!("redis://127.0.0.1:{port}/0");
        let settings =
            PublisherSettings { connect_timeout: limit, socket_timeout: limit, max_len: 0, ..settings(&url, "events") };
        Box::new(RedisStream::new(&settings, outbox).unwrap())
    }

    async fn received(&self) -> Vec<Uuid> {
        redis::event_ids(&self.url(), "events").await.iter().map(|id| id.parse().unwrap()).collect()
    }

    async fn kill(&mut self) {
        self.kill();
    }

    async fn start_again(&mut self) {
        self.start_again();
    }
}

crate::session_conformance!(Server);
