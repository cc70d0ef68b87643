//! What the benchmarks reach: the work that each event costs a worker without the servers, a heartbeat without its worker, a
//! worker's statements, and a plain stream. Not a part of the library's public interface.

mod backend;
#[cfg(feature = "mysql")]
mod mysql;
mod store;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use uuid::Uuid;

pub use self::backend::BackendAlone;
#[cfg(feature = "mysql")]
pub use self::mysql::MysqlClient;
pub use self::store::{BenchStore, FetchLimits, MAX_FETCH, connect_postgres};
use crate::backend::redis::stream::batch::EncodedBatch;
pub use crate::backend::redis::stream::raw_stream::{MEASURED_GROUP, RawStream};
use crate::backend::redis::stream::streams::BatchStreams;
use crate::backend::session::OutgoingEvent;
use crate::clock::BootInstant;
use crate::event::JsonText;
use crate::fixtures;
use crate::store::postgres::row::Row;
use crate::store::postgres::{PostgresStore, Target};
use crate::store::{FetchResult, FetchedRow, Heartbeat, LeaseStore, Shard, Store};
use crate::system::credit::{Credit, CreditPermit};
use crate::system::in_flight::SessionId;
use crate::system::lane_reader::LaneReader;

const SHARDS: i16 = 32;

/// A batch as a publisher sends it.
pub struct Events(Vec<OutgoingEvent>);

impl Events {
    /// This many events with this many bytes of data each.
    #[must_use]
    pub fn new(count: usize, data_bytes: usize) -> Self {
        let event = |n| {
            let mut event = fixtures::event(n, "customer-7");
            event.data = Some(JsonText::new(format!("\"{}\"", "x".repeat(data_bytes.saturating_sub(2)))));
            OutgoingEvent { shard: shard(n), event: Arc::new(event) }
        };
        Self((0..).take(count).map(event).collect())
    }

    /// The batch's part of the publish script's arguments, in bytes.
    #[must_use]
    pub fn encode(&self) -> usize {
        let mut request = redis::Cmd::new();
        EncodedBatch::encode(&self.0, &BatchStreams::default()).write_to(&mut request);
        request.get_packed_command().len()
    }
}

/// A row of the table as the driver hands it over.
#[derive(Clone)]
pub struct StoredRow(Row);

impl StoredRow {
    /// An event with this many bytes of data.
    #[must_use]
    pub fn new(data_bytes: usize) -> Self {
        Self(Row::sample(format!("\"{}\"", "x".repeat(data_bytes.saturating_sub(2)))))
    }

    /// Decodes it; returns the event's size.
    #[must_use]
    pub fn decode(self) -> usize {
        self.0.decode().map_or(0, |event| event.size())
    }
}

/// The reads of a lane with a backlog.
pub struct Reading {
    cursor: LaneReader,
    answer: FetchResult,
}

impl Reading {
    /// Each fetch returns this many rows.
    #[must_use]
    pub fn new(rows: i64) -> Self {
        let mut cursor = LaneReader::new(Duration::from_millis(100));
        let openings: HashMap<i16, SessionId> =
            (0..SHARDS).map(|number| (number, SessionId { epoch: 1, number: 1 })).collect();
        cursor.set_open(&openings);
        let rows: Vec<FetchedRow> = (0..rows).map(|n| fixtures::fetched(shard(n).number, n, "")).collect();
        Self { cursor, answer: FetchResult { rows, cut_short: true, clock: None } }
    }

    /// Plans one fetch and applies its result; returns how many ranges it asked for.
    pub fn turn(&mut self) -> usize {
        let now = BootInstant::now();
        let Some(plan) = self.cursor.plan(self.answer.rows.len(), false, now) else { return 0 };
        self.cursor.advance(&plan, &self.answer, now);
        plan.ranges.len()
    }
}

/// The memory that a publisher may use.
pub struct Allowance(Arc<Credit>);

impl Allowance {
    /// Credit for this many events.
    #[must_use]
    pub fn new(events: usize) -> Self {
        Self(Credit::new(events, usize::MAX >> 1, Arc::new(Notify::new())))
    }

    /// Takes credit for events and returns it; returns what was left meanwhile.
    #[must_use]
    pub fn pass(&self, events: usize) -> usize {
        let held: Vec<CreditPermit> = (0..events).map(|_| self.0.take(100)).collect();
        let left = self.0.events_left();
        drop(held);
        left
    }
}

/// A worker's heartbeats, without the worker.
pub struct Beats {
    store: Box<dyn LeaseStore>,
    beat: Heartbeat,
}

impl Beats {
    /// The heartbeats of a worker of the default backend. `None` if the address is not PostgreSQL's.
    #[must_use]
    pub fn new(url: &str) -> Option<Self> {
        let store = PostgresStore::new(Target::from_url(url).ok()?, None).ok()?.leases();
        let lanes: Vec<Arc<str>> = ["", "default"].map(Arc::from).into();
        let beat = Heartbeat {
            worker: Uuid::new_v4(),
            name: "bench".to_owned(),
            backends: r#"{"":"ok","default":"ok"}"#.to_owned(),
            handlers: "[]".to_owned(),
            lanes,
            held: Vec::new(),
            extends: true,
            lease: Duration::from_secs(60),
        };
        Some(Self { store, beat })
    }

    /// The worker's id.
    #[must_use]
    pub fn worker(&self) -> Uuid {
        self.beat.worker
    }

    /// Runs one whole heartbeat; `false` if it failed or found no other worker.
    pub async fn beat(&mut self) -> bool {
        self.store.beat(&self.beat).await.is_ok_and(|view| view.live_workers.len() > 1)
    }
}

fn shard(n: i64) -> Shard {
    Shard { lane: Arc::from("orders"), number: i16::try_from(n % i64::from(SHARDS)).unwrap_or(0) }
}
