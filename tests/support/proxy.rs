//! A loopback proxy that can lose, hold back and stall what goes through it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to the bytes that arrive from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passage {
    Open,
    /// Requests are delivered, their replies are not, and the connection stays.
    LoseReplies,
    /// Requests are delivered; the first reply cuts the connection instead of being passed on.
    CutAtReply,
    /// Requests wait here, also when their sender is gone, until the passage is another.
    HoldRequests,
}

/// A proxy to one server; it ends, and its connections with it, when dropped.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    listening: JoinHandle<()>,
}

struct Shared {
    passage: watch::Sender<Passage>,
    connections: AtomicUsize,
    replies: AtomicUsize,
    held: AtomicUsize,
}

impl Proxy {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let passage = watch::Sender::new(Passage::Open);
        let shared = Arc::new(Shared {
            passage,
            connections: AtomicUsize::new(0),
            replies: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
        });
        let listening = tokio::spawn(listen(listener, port, Arc::clone(&shared)));
        Self { port: own, shared, listening }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn set(&self, passage: Passage) {
        self.shared.passage.send_replace(passage);
    }

    /// Connections that were asked for so far, also while the server is away.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Pieces that the server has sent back so far, passed on or not.
    pub(crate) fn replies(&self) -> usize {
        self.shared.replies.load(Ordering::SeqCst)
    }

    /// Requests that were held back so far.
    pub(crate) fn held(&self) -> usize {
        self.shared.held.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn listen(listener: TcpListener, port: u16, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { continue };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        connections.spawn(requests(from_client, to_server, Arc::clone(&shared)));
        connections.spawn(replies(from_server, to_client, Arc::clone(&shared)));
    }
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: Arc<Shared>) {
    let mut passage = shared.passage.subscribe();
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if *passage.borrow() == Passage::HoldRequests {
            shared.held.fetch_add(1, Ordering::SeqCst);
        }
        let gone = passage.wait_for(|passage| *passage != Passage::HoldRequests).await.is_err();
        if gone || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    // The sender is gone; the server answers what it has and only then sees the end.
    let _ = to.shutdown().await;
}

async fn replies(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: Arc<Shared>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        shared.replies.fetch_add(1, Ordering::SeqCst);
        let passage = *shared.passage.borrow();
        match passage {
            Passage::LoseReplies => {}
            Passage::CutAtReply => return,
            // A client that is gone does not keep the server's answers from being counted.
            Passage::Open | Passage::HoldRequests => drop(to.write_all(&buffer[..count]).await),
        }
    }
}
