//! A loopback proxy that can lose, cut, hold and delay traffic.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the proxy does with bytes that arrive after the passage is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passage {
    Open,
    /// Requests are delivered, their replies are lost, and the connection stays open without another reply.
    LoseReplies,
    /// Like `LoseReplies`, after this many replies on each connection.
    LoseRepliesAfter(usize),
    /// Requests are delivered; the first reply is lost and cuts the connection.
    CutAtReply,
    /// The same, after this many replies on each connection.
    CutAfterReplies(usize),
    /// This many 256ths of a connection's next request are delivered; then it is cut.
    CutInRequest(u8),
    /// This many 256ths of a connection's next reply are delivered; then it is cut.
    CutInReply(u8),
    /// Requests wait in the proxy, also if their sender has disconnected, until the passage changes.
    HoldRequests,
    /// Replies wait in the proxy until the passage changes.
    HoldReplies,
    /// Replies on this many first connections wait in the proxy.
    HoldRepliesOfFirst(usize),
    /// Each reply is delayed by a random time up to this.
    Delay(Duration),
    /// This many bytes of a connection's replies pass in a second.
    Slow(u32),
}

impl Passage {
    /// How much of a chunk passes before the connection is cut.
    fn cut(share: u8, count: usize) -> usize {
        count * usize::from(share) / 256
    }

    fn holds_replies_of(self, connection: usize) -> bool {
        match self {
            Self::HoldReplies => true,
            Self::HoldRepliesOfFirst(count) => connection < count,
            _ => false,
        }
    }
}

/// A proxy to one server; stopped, with its connections, when dropped.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    listening: JoinHandle<()>,
}

struct Shared {
    server: watch::Sender<u16>,
    passage: watch::Sender<Passage>,
    connections: AtomicUsize,
    replies: AtomicUsize,
    held: AtomicUsize,
    held_bytes: AtomicUsize,
    open: AtomicUsize,
}

/// A connection that the server has not closed.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Proxy {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            server: watch::Sender::new(port),
            passage: watch::Sender::new(Passage::Open),
            connections: AtomicUsize::new(0),
            replies: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            held_bytes: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        });
        let listening = tokio::spawn(listen(listener, Arc::clone(&shared)));
        Self { port: own, shared, listening }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn set(&self, passage: Passage) {
        self.shared.passage.send_replace(passage);
    }

    /// Connects to another server after this call; connections to the previous one are cut.
    pub(crate) fn switch_to(&self, port: u16) {
        self.shared.server.send_replace(port);
    }

    /// Connections that clients have opened so far, also while the server is unavailable.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections that the server has not closed, even if the client has, and connections that wait to be accepted.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Chunks that the server has sent so far, delivered or not.
    pub(crate) fn replies(&self) -> usize {
        self.shared.replies.load(Ordering::SeqCst)
    }

    /// Requests that were held so far.
    pub(crate) fn held(&self) -> usize {
        self.shared.held.load(Ordering::SeqCst)
    }

    /// Bytes of requests that were held so far.
    pub(crate) fn held_bytes(&self) -> usize {
        self.shared.held_bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let number = shared.connections.fetch_add(1, Ordering::SeqCst);
        let switched = shared.server.subscribe();
        let port = *switched.borrow();
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { continue };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        connections.spawn(until_switched(
            switched.clone(),
            port,
            requests(from_client, to_server, Arc::clone(&shared)),
        ));
        connections.spawn(until_switched(switched, port, replies(number, from_server, to_client, Arc::clone(&shared))));
    }
}

async fn until_switched(mut server: watch::Receiver<u16>, port: u16, passing: impl Future<Output = ()>) {
    tokio::select! {
        () = passing => {}
        _ = server.wait_for(|server| *server != port) => {}
    }
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: Arc<Shared>) {
    let mut passage = shared.passage.subscribe();
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if *passage.borrow() == Passage::HoldRequests {
            shared.held.fetch_add(1, Ordering::SeqCst);
            shared.held_bytes.fetch_add(count, Ordering::SeqCst);
        }
        let gone = passage.wait_for(|passage| *passage != Passage::HoldRequests).await.is_err();
        let current = *passage.borrow();
        if let Passage::CutInRequest(share) = current {
            drop(to.write_all(&buffer[..Passage::cut(share, count)]).await);
            return;
        }
        if gone || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    // The sender has disconnected; the server answers pending requests before it sees the end.
    let _ = to.shutdown().await;
}

async fn replies(number: usize, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: Arc<Shared>) {
    let _open = Open::new(&shared);
    let mut passage = shared.passage.subscribe();
    let mut buffer = vec![0; 1 << 16];
    // The bytes after a lost reply would be taken for the reply.
    let mut silent = false;
    let mut passed = 0;
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        shared.replies.fetch_add(1, Ordering::SeqCst);
        if passage.wait_for(|passage| !passage.holds_replies_of(number)).await.is_err() {
            return;
        }
        let current = *passage.borrow();
        match current {
            Passage::LoseReplies => silent = true,
            Passage::LoseRepliesAfter(most) => silent |= passed >= most,
            Passage::CutAtReply => return,
            Passage::CutAfterReplies(most) if passed >= most => return,
            Passage::CutInReply(share) => {
                drop(to.write_all(&buffer[..Passage::cut(share, count)]).await);
                return;
            }
            Passage::Delay(most) => tokio::time::sleep(most.mul_f64(rand::random())).await,
            Passage::Slow(bytes) => {
                tokio::time::sleep(Duration::from_secs_f64(count as f64 / f64::from(bytes))).await;
            }
            Passage::Open
            | Passage::CutAfterReplies(_)
            | Passage::CutInRequest(_)
            | Passage::HoldRequests
            | Passage::HoldReplies
            | Passage::HoldRepliesOfFirst(_) => {}
        }
        // The server's answers are counted even if the client has disconnected.
        if !silent {
            passed += 1;
            drop(to.write_all(&buffer[..count]).await);
        }
    }
}
