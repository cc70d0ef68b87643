//! A proxy of PostgreSQL that drops notifications, like a pooler in transaction mode.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The first byte of a notification.
const NOTIFICATION: u8 = b'A';

/// A running pooler; stopped when dropped.
pub(crate) struct Pooler {
    port: u16,
    listening: JoinHandle<()>,
}

impl Pooler {
    /// For connections without TLS.
    pub(crate) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { port, listening: tokio::spawn(listen(listener, server)) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn listen(listener: TcpListener, server: u16) {
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else { continue };
        let (mut from_client, to_client) = client.into_split();
        let (from_server, mut to_server) = server.into_split();
        tokio::spawn(async move {
            drop(tokio::io::copy(&mut from_client, &mut to_server).await);
            to_server.shutdown().await
        });
        tokio::spawn(answer(from_server, to_client));
    }
}

/// Each message is a byte that names its kind, its length with the length itself, and the rest.
async fn answer(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> std::io::Result<()> {
    loop {
        let kind = from.read_u8().await?;
        let length = from.read_u32().await?;
        let mut message = vec![0; length as usize - 4];
        from.read_exact(&mut message).await?;
        if kind != NOTIFICATION {
            let head = [&[kind][..], &length.to_be_bytes()].concat();
            to.write_all(&[head, message].concat()).await?;
        }
    }
}
