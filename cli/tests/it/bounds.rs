//! Limits on memory: events in flight, and callers that exceed the intake.

use std::sync::Arc;

use actix_outbox::{BackendError, Outbox, OutboxEvent, OutboxSystem, PublisherBackend};
use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::sync::Semaphore;

use crate::actors::{Log, event};
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::{DRAIN, TestOutbox};

/// A backend that holds every event until it is released.
#[derive(Clone)]
struct Holding {
    gate: Arc<Semaphore>,
    log: Log,
}

impl Holding {
    fn new() -> Self {
        Self { gate: Arc::new(Semaphore::new(0)), log: Log::default() }
    }

    fn let_go(&self, events: usize) {
        self.gate.add_permits(events);
    }
}

#[async_trait]
impl PublisherBackend for Holding {
    async fn publish(&self, event: &OutboxEvent) -> Result<(), BackendError> {
        self.gate.acquire().await.unwrap().forget();
        self.log.add(event.id.to_string());
        Ok(())
    }

    async fn health_check(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn timeout(&self) -> std::time::Duration {
        DRAIN
    }
}

/// A system whose only backend holds events.
async fn start(test: &TestOutbox, backend: &Holding, worker: &str) -> Outbox {
    let tables = format!(
        "[publishers.mine]\nbackend = \"holding\"\n[worker]\nlease = \"1s\"\npoll_interval = \"5ms\"\n{worker}"
    );
    let backend = backend.clone();
    OutboxSystem::builder(test.system_settings(&tables))
        .backend("holding", move |_| Ok(backend.clone()))
        .start()
        .await
        .unwrap()
}

/// Waits until the worker has at least this many events in memory, and asserts that it never has more than the most.
async fn fills(test: &TestOutbox, outbox: &Outbox, least: usize, most: usize) {
    let what = format!("{least} to {most} events are in memory");
    let held = async || outbox.health().await.unwrap().in_flight;
    eventually(&what, PATIENCE, async || {
        let held = held().await;
        assert!(held <= most, "{held} are in memory, not {most} at most");
        held >= least
    })
    .await;
    let held = in_flight(test, outbox).await;
    assert!(held <= most, "{held} are in memory, not {most} at most");
}

/// The number of events in memory after the worker has had time to fetch more: two heartbeats, and many polls.
async fn in_flight(test: &TestOutbox, outbox: &Outbox) -> usize {
    let beat = "SELECT coalesce((extract(epoch FROM max(heartbeat_at)) * 1000000)::bigint, 0) FROM outbox_heartbeats";
    eventually("it fetches", PATIENCE, async || outbox.health().await.unwrap().in_flight > 0).await;
    for _ in 0..2 {
        let last = test.number(beat).await;
        eventually("a heartbeat is sent", PATIENCE, async || test.number(beat).await > last).await;
    }
    outbox.health().await.unwrap().in_flight
}

/// Releases all events and asserts that each arrives once.
async fn drain(test: &TestOutbox, backend: &Holding, outbox: &Outbox) {
    backend.let_go(Semaphore::MAX_PERMITS / 2);
    test.wait_published().await;
    let mut arrived = backend.log.lines();
    arrived.sort_unstable();
    let rows = test.sql().await.query("SELECT id::text FROM outbox_events ORDER BY 1", &[]).await.unwrap();
    let mut all: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    all.sort_unstable();
    assert_eq!(arrived, all);
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn events_in_memory_reach_their_bound_and_never_exceed_it() {
    const MOST: usize = 100;
    for (batch, backlog) in [(1, 600), (50, 4_000)] {
        let (test, backend) = (TestOutbox::new().await, Holding::new());
        test.insert(backlog, 500).await;
        let outbox = start(&test, &backend, &format!("max_in_flight = {MOST}\nbatch_size = {batch}")).await;
        let mut gone = 0;
        for some in [0, 1, 30, 150] {
            backend.let_go(some);
            gone += some;
            backend.log.wait(gone).await;
            // A backlog is fetched in chunks of half a batch.
            fills(&test, &outbox, MOST - batch / 2, MOST).await;
        }
        drain(&test, &backend, &outbox).await;
    }
}

/// Writes events with this many bytes each.
async fn insert_large(test: &TestOutbox, count: i32, bytes: i32) {
    let statement = "INSERT INTO outbox_events (id, event_type, source, data)
        SELECT gen_random_uuid(), 'thing.happened', 'tests', to_jsonb(repeat('x', $2)) FROM generate_series(1, $1)";
    test.sql().await.execute(statement, &[&count, &bytes]).await.unwrap();
}

#[actix::test]
async fn their_bytes_reach_their_bound_and_pass_it_by_one_event_at_most() {
    const MOST: usize = 64 << 10;
    for (bytes, count) in [(5_000, 300), (30_000, 100), (200_000, 20)] {
        let (test, backend) = (TestOutbox::new().await, Holding::new());
        insert_large(&test, count, bytes).await;
        let outbox = start(&test, &backend, &format!("max_in_flight_bytes = {MOST}\nbatch_size = 1")).await;
        for _ in 0..3 {
            let bytes = usize::try_from(bytes).unwrap();
            fills(&test, &outbox, MOST / 2 / bytes + 1, (MOST + bytes) / bytes).await;
            backend.let_go(4);
        }
        drain(&test, &backend, &outbox).await;
    }
}

#[actix::test]
async fn senders_under_pressure_are_slowed_and_lose_nothing() {
    const SENDERS: usize = 64;
    const EVENTS: usize = 40;
    let (test, backend) = (TestOutbox::new().await, Holding::new());
    let outbox = start(&test, &backend, "max_in_flight = 8\nbatch_size = 4").await;
    let system = outbox.addr().unwrap();
    let senders = (0..SENDERS).map(|sender| {
        let system = system.clone();
        async move {
            for n in 0..EVENTS {
                system.send(event(&format!("{sender} {n}")).partition_key(sender.to_string())).await.unwrap().unwrap();
            }
        }
    });
    join_all(senders).await;
    assert!(in_flight(&test, &outbox).await <= 8);
    assert_eq!(test.number("SELECT count(DISTINCT subject) FROM outbox_events").await, (SENDERS * EVENTS) as i64);
    drain(&test, &backend, &outbox).await;
}
