//! The upper limit: only the worker's two statements, the fetch and the update or the deletion.

use std::time::Instant;

use actix_outbox::bench_api::{BenchStore, FetchLimits, MAX_FETCH};
use anyhow::Context;
use tokio::task::JoinSet;

use super::env::BenchEnv;
use actix_outbox::{Secret, WorkerSettings};

/// An event's bytes without its data, to estimate how many events fit into memory.
const OVERHEAD: usize = 512;

/// Fetches every due event and records it as published, on concurrent connections that each have their own shards. Returns
/// events a second.
pub(super) async fn fetch_and_update(env: &BenchEnv, data: u32, connections: usize) -> anyhow::Result<f64> {
    settle_all(env.schema.url(), &env.worker, data, connections, false).await
}

/// The same, and deletes every event.
pub(super) async fn fetch_and_delete(env: &BenchEnv, data: u32, connections: usize) -> anyhow::Result<f64> {
    settle_all(env.schema.url(), &env.worker, data, connections, true).await
}

/// Fetches every due event of the outbox at this address and settles it, as [`fetch_and_update`].
pub(super) async fn settle_all(
    url: &Secret,
    worker: &WorkerSettings,
    data: u32,
    connections: usize,
    deletes: bool,
) -> anyhow::Result<f64> {
    let mut stores = Vec::new();
    for _ in 0..connections {
        stores.push(BenchStore::connect(url).await?);
    }
    let limits = limits(worker, data);
    let started = Instant::now();
    let mut readers = JoinSet::new();
    for (number, store) in stores.into_iter().enumerate() {
        let is_mine = |shard: &i16| usize::try_from(*shard).unwrap_or(0) % connections == number;
        let mine: Vec<i16> = (0..store.shards()).filter(is_mine).collect();
        readers.spawn(async move { store.fetch_and_settle(&mine, limits, deletes).await });
    }
    let mut events = 0;
    while let Some(read) = readers.join_next().await {
        events += read.context("a measurement's task failed")??;
    }
    Ok(events as f64 / started.elapsed().as_secs_f64())
}

/// A fetch as large as the worker's if it uses its memory only for this.
fn limits(worker: &WorkerSettings, data: u32) -> FetchLimits {
    let size = usize::try_from(data).unwrap_or(usize::MAX).saturating_add(OVERHEAD);
    FetchLimits {
        events: MAX_FETCH.min(worker.max_in_flight).min(worker.max_in_flight_bytes / size).max(1),
        bytes: worker.max_in_flight_bytes,
        event_bytes: worker.max_event_bytes,
    }
}
