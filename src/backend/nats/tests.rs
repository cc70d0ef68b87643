//! The session against real servers.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::Nats;
use crate::backend::session::BackendSession;
use crate::sessions::conformance::{Promise, Target};
use crate::settings::{PublisherSettings, Secret};
use crate::test_support::nats::Server;

/// A stream on a server of its own.
struct TestStream {
    server: Server,
}

fn settings(port: u16, limit: Duration) -> PublisherSettings {
    PublisherSettings {
        backend: "nats".to_owned(),
        url: Some(Secret::from(format!("nats://127.0.0.1:{port}"))),
        create: true,
        connect_timeout: limit,
        socket_timeout: limit,
        ..PublisherSettings::default()
    }
}

/// The ids in the stream, outside its journals.
async fn received(url: &str) -> Vec<Uuid> {
    let client = async_nats::connect(url).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let Ok(stream) = context.get_stream("EVENTS").await else { return Vec::new() };
    let state = stream.cached_info().state.clone();
    let mut ids = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        // What was rolled up is gone.
        let Ok(message) = stream.get_raw_message(sequence).await else { continue };
        if message.subject.starts_with("events.") {
            let event: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
            ids.push(event["id"].as_str().unwrap().parse().unwrap());
        }
    }
    ids
}

#[async_trait]
impl Target for TestStream {
    const PROMISE: Promise = Promise::Once;

    async fn create() -> Self {
        let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
        Self { server }
    }

    fn port(&self) -> u16 {
        self.server.port()
    }

    fn session(&self, outbox: Uuid, port: u16, limit: Duration) -> Box<dyn BackendSession> {
        Box::new(Nats::new(&settings(port, limit), outbox).unwrap())
    }

    async fn received(&self) -> Vec<Uuid> {
        received(&self.server.url()).await
    }

    async fn kill(&mut self) {
        self.server.kill();
    }

    async fn start_again(&mut self) {
        self.server.start_again();
    }

    fn too_large(&self) -> Option<usize> {
        Some(1 << 20)
    }
}

crate::session_conformance!(TestStream);
