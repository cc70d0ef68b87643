//! The suite of backends, with a receiver that can be killed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use uuid::Uuid;

use super::Http;
use crate::backend::session::{AtLeastOnce, BackendSession};
use crate::sessions::conformance::{Promise, Target};
use crate::settings::{PublisherSettings, Secret};
use crate::test_support::free_port;

/// Accepts every event and remembers its id.
struct Receiver {
    port: u16,
    received: Arc<Mutex<Vec<Uuid>>>,
    running: Option<JoinHandle<()>>,
}

impl Receiver {
    async fn listen(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let received = Arc::clone(&self.received);
        self.running = Some(tokio::spawn(async move {
            // Ends its connections when it ends.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&received)));
            }
        }));
    }
}

/// Answers requests until the connection ends.
async fn serve(stream: TcpStream, received: Arc<Mutex<Vec<Uuid>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            match stream.read_line(&mut line).await {
                Ok(1..) if line == "\r\n" => break,
                Ok(1..) => {
                    let (name, value) = line.split_once(':').unwrap_or_default();
                    if name.eq_ignore_ascii_case("content-length") {
                        length = value.trim().parse().unwrap();
                    }
                }
                _ => return,
            }
        }
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
        received.lock().unwrap().push(event["id"].as_str().unwrap().parse().unwrap());
        if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_err() {
            return;
        }
    }
}

#[async_trait]
impl Target for Receiver {
    const PROMISE: Promise = Promise::AtLeastOnce;

    async fn create() -> Self {
        let mut receiver = Self { port: free_port(), received: Arc::default(), running: None };
        receiver.listen().await;
        receiver
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn session(&self, _outbox: Uuid, port: u16, limit: Duration) -> Box<dyn BackendSession> {
        let settings = PublisherSettings {
            backend: "http".to_owned(),
            url: Some(Secret::from(format!("http://127.0.0.1:{port}/"))),
            allow_addresses: vec!["127.0.0.0/8".to_owned()],
            connect_timeout: limit,
            timeout: limit,
            ..PublisherSettings::default()
        };
        Box::new(AtLeastOnce::new(Arc::new(Http::new(&settings).unwrap())))
    }

    async fn received(&self) -> Vec<Uuid> {
        self.received.lock().unwrap().clone()
    }

    async fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
            let _ = running.await;
        }
    }

    async fn start_again(&mut self) {
        self.listen().await;
    }
}

// It needs no open: what an outage costs is in `an_outage_is_no_events_fault`.
crate::session_conformance! {
    Receiver:
    accepted_events_arrive_once_and_in_order
    a_large_batch_arrives_whole_and_in_order
    an_outage_is_no_events_fault
    random_faults_lose_double_and_reorder_nothing
}
