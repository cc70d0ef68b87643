//! A proxy of PostgreSQL that drops notifications, like a pooler in transaction mode, or ignores the options of connections.

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

    /// Ignores the options with which connections begin. Notifications pass.
    pub(crate) async fn without_options(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass_without_options(client, server));
            }
        });
        Self { port, listening }
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

/// The codes of requests that come before the first message of a connection.
const TLS_REQUEST: u32 = 80_877_103;
const CANCEL_REQUEST: u32 = 80_877_102;

async fn pass_without_options(mut client: TcpStream, server: u16) -> std::io::Result<()> {
    let (code, rest) = loop {
        let length = client.read_u32().await?;
        let code = client.read_u32().await?;
        let mut rest = vec![0; length as usize - 8];
        client.read_exact(&mut rest).await?;
        if code != TLS_REQUEST {
            break (code, rest);
        }
        client.write_all(b"N").await?;
    };
    let rest = if code == CANCEL_REQUEST { rest } else { without_options(&rest) };
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await?;
    server.write_u32(u32::try_from(rest.len()).unwrap() + 8).await?;
    server.write_u32(code).await?;
    server.write_all(&rest).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// The parameters of a connection: names and values, each ended by a zero, and another zero.
fn without_options(parameters: &[u8]) -> Vec<u8> {
    let words: Vec<&[u8]> = parameters.split(|byte| *byte == 0).collect();
    let kept = words.chunks(2).filter(|pair| pair.len() == 2 && !pair[0].is_empty() && pair[0] != b"options");
    let mut kept: Vec<u8> = kept.flat_map(|pair| [pair[0], b"\0", pair[1], b"\0"].concat()).collect();
    kept.push(0);
    kept
}
