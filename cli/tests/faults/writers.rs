//! Writers that commit and roll back continuously, and record the committed events.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::support::PATIENCE;

const WRITERS: u64 = 4;
/// Keys of each writer. No other writer uses them, so the order of its commits is the order of each key.
const KEYS: u32 = 8;
const MOST_EVENTS: usize = 12;
/// One publisher with two lanes: events without a backend name, and events of the default backend.
const LANES: [&str; 2] = ["", "default"];

/// An event that a writer committed.
#[derive(Debug, Clone)]
pub(crate) struct Committed {
    pub(crate) id: Uuid,
    /// Empty if the event has no key.
    pub(crate) key: String,
}

/// Tasks that write until they are stopped.
pub(crate) struct Writers {
    stop: watch::Sender<bool>,
    writing: Vec<JoinHandle<Vec<Committed>>>,
}

impl Writers {
    /// Starts writers on a server that may become unavailable at any time.
    pub(crate) fn start(url: &str, seed: u64) -> Self {
        let stop = watch::Sender::new(false);
        let url: Arc<str> = url.into();
        let writing = (0..WRITERS)
            .map(|number| {
                let rng = StdRng::seed_from_u64(seed ^ (number + 1) << 32);
                let writer = Writer {
                    number,
                    lane: LANES[number as usize % LANES.len()],
                    url: Arc::clone(&url),
                    rng,
                    stop: stop.subscribe(),
                    committed: Vec::new(),
                };
                tokio::spawn(writer.write_on())
            })
            .collect();
        Self { stop, writing }
    }

    /// The events that each writer committed, in the order of its commits.
    pub(crate) async fn finish(self) -> Vec<Vec<Committed>> {
        self.stop.send_replace(true);
        let mut committed = Vec::new();
        for writer in self.writing {
            committed.push(tokio::time::timeout(PATIENCE, writer).await.expect("a writer ends").unwrap());
        }
        committed
    }
}

struct Writer {
    number: u64,
    lane: &'static str,
    url: Arc<str>,
    rng: StdRng,
    stop: watch::Receiver<bool>,
    committed: Vec<Committed>,
}

/// The outcome of a transaction.
enum End {
    Committed,
    RolledBack,
    /// The connection ended before the answer.
    Unknown,
}

impl Writer {
    async fn write_on(mut self) -> Vec<Committed> {
        let mut client = self.connect().await;
        while !*self.stop.borrow() {
            let events = self.draw();
            let kept = match self.transaction(&mut client, &events).await {
                End::Committed => true,
                End::RolledBack => false,
                End::Unknown => {
                    client = self.connect().await;
                    self.has(&mut client, &events).await
                }
            };
            if kept {
                self.committed.extend(events);
            }
            let pause = self.rng.random_range(1..60);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self.committed
    }

    /// Waits for the server.
    async fn connect(&self) -> Client {
        loop {
            if let Ok((client, connection)) = tokio_postgres::connect(&self.url, NoTls).await {
                tokio::spawn(connection);
                return client;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn draw(&mut self) -> Vec<Committed> {
        let count = self.rng.random_range(1..=MOST_EVENTS);
        (0..count).map(|_| Committed { id: uuid(&mut self.rng), key: self.draw_key() }).collect()
    }

    fn draw_key(&mut self) -> String {
        if self.rng.random_bool(0.3) {
            return String::new();
        }
        format!("writer {} key {}", self.number, self.rng.random_range(0..KEYS))
    }

    /// Inserts events one by one or together, pauses sometimes, and commits or rolls back.
    async fn transaction(&mut self, client: &mut Client, events: &[Committed]) -> End {
        let Ok(transaction) = client.transaction().await else { return End::Unknown };
        let pieces = if self.rng.random_bool(0.3) { 1 } else { events.len() };
        for piece in events.chunks(pieces) {
            let ids: Vec<String> = piece.iter().map(|event| event.id.to_string()).collect();
            let keys: Vec<&str> = piece.iter().map(|event| event.key.as_str()).collect();
            if transaction.execute(INSERT, &[&ids, &keys, &self.lane]).await.is_err() {
                return End::Unknown;
            }
        }
        // A pause, so that other writers overtake it: its events are behind the workers' cursors when it commits.
        if self.rng.random_bool(0.2) {
            let pause = self.rng.random_range(20..400);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        if self.rng.random_bool(0.15) {
            return transaction.rollback().await.map_or(End::Unknown, |()| End::RolledBack);
        }
        transaction.commit().await.map_or(End::Unknown, |()| End::Committed)
    }

    /// Whether a transaction with unknown outcome has committed. The server process ended with the connection.
    async fn has(&self, client: &mut Client, events: &[Committed]) -> bool {
        let first = events[0].id.to_string();
        loop {
            match client.query_one("SELECT count(*) FROM written WHERE id = $1::text::uuid", &[&first]).await {
                Ok(row) => return row.get::<_, i64>(0) == 1,
                Err(_) => *client = self.connect().await,
            }
        }
    }
}

const INSERT: &str = "INSERT INTO outbox_events (id, event_type, source, data, partition_key, publisher_backend)
    SELECT id, 'thing.happened', 'faults', '{\"n\": 1}', key, $3
    FROM unnest($1::text[]::uuid[], $2::text[]) WITH ORDINALITY AS e(id, key, n) ORDER BY n";

fn uuid(rng: &mut StdRng) -> Uuid {
    uuid::Builder::from_random_bytes(rng.random()).into_uuid()
}
