//! A custom backend: it sends events, as lines of JSON, to a TCP server that answers each with `ok` or `no`.
//!
//! It shows the three results that a backend reports to the worker: an event was accepted, an event was rejected (it is
//! retried with backoff), and the server is unavailable (all events wait, and no retry is spent). The server is part of this
//! program: it starts late, and rejects the first event once. The program ends by itself.
//!
//! Run it with `cargo run --example custom_backend`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use actix_outbox::{BackendError, NewEvent, OutboxEvent, OutboxSystem, PublisherBackend, Settings};
use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

struct Lines {
    address: SocketAddr,
}

#[async_trait]
impl PublisherBackend for Lines {
    async fn publish(&self, event: &OutboxEvent) -> Result<(), BackendError> {
        match self.ask(&event.to_cloud_event_json()).await {
            Ok(answer) if answer == "ok" => Ok(()),
            Ok(answer) => Err(BackendError::Rejected(format!("the server answered {answer:?}"))),
            Err(error) => Err(BackendError::Unavailable(error.to_string())),
        }
    }

    async fn health_check(&self) -> Result<(), BackendError> {
        let connected = TcpStream::connect(self.address).await;
        connected.map(drop).map_err(|error| BackendError::Unavailable(error.to_string()))
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(2)
    }
}

impl Lines {
    async fn ask(&self, line: &str) -> io::Result<String> {
        let mut server = BufReader::new(TcpStream::connect(self.address).await?);
        server.write_all(format!("{line}\n").as_bytes()).await?;
        let mut answer = String::new();
        if server.read_line(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer.trim().to_owned())
    }
}

/// Answers three lines, the first with `no`.
async fn serve(listener: TcpListener) -> io::Result<()> {
    let mut answers = ["no", "ok", "ok"].into_iter();
    while answers.len() > 0 {
        let (client, _) = listener.accept().await?;
        let mut client = BufReader::new(client);
        let mut line = String::new();
        // A health check connects and sends nothing.
        if client.read_line(&mut line).await? > 0 {
            let answer = answers.next().unwrap_or("ok");
            println!("server: {answer} to {}", line.trim());
            client.write_all(format!("{answer}\n").as_bytes()).await?;
        }
    }
    Ok(())
}

#[actix::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    // A port without a listener.
    let address = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let settings = Settings::from_toml(&format!(
        r#"
        [database]
        url = "sqlite://{}"
        [publishers.default]
        backend = "lines"
        options = {{ address = "{address}" }}
        [worker]
        retry_backoff = {{ base = "200ms", factor = 1, jitter = 0 }}
        "#,
        folder.path().join("app.db").display()
    ))?;
    let outbox = OutboxSystem::builder(settings)
        .migrate(true)
        .backend("lines", |settings| {
            let address = settings.options.get("address").and_then(|value| value.as_str()?.parse().ok());
            Ok(Lines { address: address.ok_or("needs options = { address = \"127.0.0.1:9000\" }")? })
        })
        .start()
        .await?;

    for event in ["order.paid", "order.sent"] {
        outbox.send(NewEvent::new(event, "shop").partition_key("order-1")).await?;
    }
    let reason = loop {
        if let Err(reason) = outbox.health().await?.backends["default"].clone() {
            break reason;
        }
        actix_rt::time::sleep(Duration::from_millis(10)).await;
    };
    println!("worker: {reason}");

    // The rejected event is sent again; the later event of its key waits for it.
    serve(TcpListener::bind(address).await?).await?;
    outbox.drained().await;
    outbox.shutdown().await?;
    Ok(())
}
