//! The upper limit: only the worker's two statements, the fetch and the update.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use tokio::task::JoinSet;

use super::env::BenchEnv;
use crate::settings::DatabaseSettings;
use crate::store::{Acceptance, Care, FetchRequest, FetchedRow, LaneName, Position, Range, Store};
use crate::system::MAX_FETCH;

/// An event's bytes without its data, to estimate how many events fit into memory.
const OVERHEAD: usize = 512;

/// Fetches every due event and records it as published, on concurrent connections that each have their own shards. Returns
/// events a second.
pub(super) async fn fetch_and_update(env: &BenchEnv, data: u32, connections: usize) -> anyhow::Result<f64> {
    let mut stores = Vec::new();
    for _ in 0..connections {
        let store = crate::store::connect(&DatabaseSettings { url: env.schema.url().clone(), connections: None })?;
        store.outbox_id().await?;
        stores.push(store);
    }
    let started = Instant::now();
    let mut readers = JoinSet::new();
    for (number, store) in stores.into_iter().enumerate() {
        let request = request(env, data);
        let mine = (0..store.shards()).filter(|shard| usize::try_from(*shard).unwrap_or(0) % connections == number);
        let cursors = mine.map(|shard| (shard, Position::START)).collect();
        readers.spawn(drain(store, cursors, request));
    }
    let mut events = 0;
    while let Some(read) = readers.join_next().await {
        events += read.context("a measurement's task failed")??;
    }
    Ok(events as f64 / started.elapsed().as_secs_f64())
}

/// A fetch as large as the worker's if it uses its memory only for this.
fn request(env: &BenchEnv, data: u32) -> FetchRequest {
    let worker = &env.worker;
    let size = usize::try_from(data).unwrap_or(usize::MAX).saturating_add(OVERHEAD);
    FetchRequest {
        max_events: MAX_FETCH.min(worker.max_in_flight).min(worker.max_in_flight_bytes / size).max(1),
        max_bytes: worker.max_in_flight_bytes,
        max_event_bytes: worker.max_event_bytes,
        ..FetchRequest::of_ranges(LaneName::from(""), Vec::new())
    }
}

fn acceptance(row: &FetchedRow) -> Acceptance {
    Acceptance { id: row.id, seq: row.position.seq, asked: Arc::default(), left: Vec::new() }
}

async fn drain(
    store: Arc<dyn Store>,
    mut cursors: BTreeMap<i16, Position>,
    mut request: FetchRequest,
) -> anyhow::Result<usize> {
    let mut events = 0;
    while !cursors.is_empty() {
        let limit = i64::try_from((request.max_events / cursors.len()).max(1))?;
        request.ranges =
            cursors.iter().map(|(shard, from)| Range { shard: *shard, from: *from, to: None, limit }).collect();
        let answer = store.fetch(&request).await?;
        let settled: Vec<_> = answer.rows.iter().map(acceptance).collect();
        store.settle_published(&settled, Care::Usual).await?;
        events += settled.len();
        let mut counts: BTreeMap<i16, i64> = BTreeMap::new();
        for row in &answer.rows {
            *counts.entry(row.shard).or_default() += 1;
            cursors.insert(row.shard, row.position);
        }
        cursors.retain(|shard, _| answer.cut_short || counts.get(shard).is_some_and(|count| *count >= limit));
    }
    Ok(events)
}
