//! A way to a server that takes time, and on which many bytes can be together.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::drain::support::postgres;

/// Listens on loopback; answers arrive this much later than the server sent them.
pub(crate) struct Link {
    port: u16,
    listening: JoinHandle<()>,
}

impl Link {
    pub(crate) async fn to(port: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { continue };
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                pass(from_client, to_server, Duration::ZERO);
                pass(from_server, to_client, delay);
            }
        });
        Self { port: own, listening }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The median time of a statement that costs nothing.
    pub(crate) async fn round_trip(&self, url: &str) -> Duration {
        let client = postgres::connect(url).await;
        let mut times = Vec::new();
        for _ in 0..101 {
            let began = Instant::now();
            client.batch_execute("SELECT 1").await.unwrap();
            times.push(began.elapsed());
        }
        times.sort_unstable();
        times[times.len() / 2]
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (send, mut receive) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if send.send((Instant::now() + delay, buffer[..count].to_vec())).is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some((due, bytes)) = receive.recv().await {
            if !delay.is_zero() {
                tokio::time::sleep_until(due.into()).await;
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    });
}
