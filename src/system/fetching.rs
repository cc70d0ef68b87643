//! One fetch from the database: due events of a lane, and what precedes them in their keys' order.

use std::collections::HashMap;
use std::sync::Arc;

use super::context::SystemContext;
use super::in_flight::{Fetch, InFlight};
use super::predecessors::{find_blockers, is_late};
use crate::error::StoreError;
use crate::store::{Blocker, FetchRequest, FetchResult, KeyStart, Position, Range};

/// Keys that one fetch reads from their start.
pub(super) const MOST_KEYS_TO_REREAD: usize = 64;

/// The most events that one fetch asks for, so that fetching, publishing and settling overlap.
pub(crate) const MAX_FETCH: usize = 2_000;

/// The most bytes that one fetch asks for: the driver holds its result a second time while it is read.
const MAX_FETCH_BYTES: usize = 4 << 20;

/// The shards that a probe reads: about as much as a worker's first fetch.
const PROBE_SHARDS: i16 = 4;
const PROBE_EVENTS: i64 = 100;

/// The result of one fetch.
pub(super) struct Fetched {
    pub(super) result: FetchResult,
    pub(super) blockers: HashMap<String, Blocker>,
    /// Keys that were asked for and may have more events, and whether any event was read.
    pub(super) unfinished_keys: Vec<(String, bool)>,
    /// Keys that were asked for and have no due events.
    pub(super) empty_keys: Vec<String>,
    pub(super) fetch: Fetch,
}

pub(super) fn in_one_fetch(bytes: usize) -> usize {
    bytes.min(MAX_FETCH_BYTES)
}

/// Fetches events, and queries the predecessors of their keys (R3).
pub(super) async fn fetch(
    context: Arc<SystemContext>,
    in_flight: Arc<InFlight>,
    request: FetchRequest,
) -> Result<Fetched, StoreError> {
    let fetched = try_fetch(&context, &in_flight, &request).await;
    if fetched.is_err() {
        request.keys.iter().for_each(|start| in_flight.reread_key(&start.key));
    }
    fetched
}

async fn try_fetch(
    context: &SystemContext,
    in_flight: &Arc<InFlight>,
    request: &FetchRequest,
) -> Result<Fetched, StoreError> {
    let mut fetch = in_flight.begin_fetch();
    let result = match context.store.fetch(request).await {
        Err(error) if !is_late(&error) => {
            in_flight.forget_cleared();
            return Err(error);
        }
        result => result?,
    };
    fetch.note_read_to(read_to(request, &result));
    let unfinished_keys = unfinished_keys(request, &result);
    let holds = context.settings.holds_on_failure(in_flight.lane());
    let blockers = find_blockers(&*context.store, in_flight, &mut fetch, &result.rows, holds, holds).await?;
    let is_empty = |key: &String| !result.cut_short && result.rows.iter().all(|row| row.partition_key != *key);
    let empty_keys = request.keys.iter().map(|start| start.key.clone()).filter(is_empty).collect();
    Ok(Fetched { result, blockers, unfinished_keys, empty_keys, fetch })
}

/// The position up to which the open range of each shard was read.
fn read_to(request: &FetchRequest, result: &FetchResult) -> HashMap<i16, Position> {
    const END: Position = Position { scheduled_at: i64::MAX, seq: i64::MAX };
    let open: HashMap<i16, &Range> =
        request.ranges.iter().filter(|range| range.to.is_none()).map(|range| (range.shard, range)).collect();
    let mut read: HashMap<i16, (i64, Position)> = HashMap::new();
    for row in result.rows.iter().filter(|row| row.in_range) {
        if open.get(&row.shard).is_some_and(|range| row.position > range.from) {
            let (count, last) = read.entry(row.shard).or_insert((0, row.position));
            (*count, *last) = (*count + 1, row.position.max(*last));
        }
    }
    let reached = |(shard, range): (i16, &Range)| {
        let (count, last) = read.get(&shard).copied().unzip();
        let is_whole = !result.cut_short && count.unwrap_or(0) < range.limit;
        Some((shard, if is_whole { END } else { last? }))
    };
    open.into_iter().filter_map(reached).collect()
}

fn unfinished_keys(request: &FetchRequest, result: &FetchResult) -> Vec<(String, bool)> {
    let mut unfinished = Vec::new();
    for KeyStart { key, .. } in &request.keys {
        let count = result.rows.iter().filter(|row| row.partition_key == *key).count();
        if result.cut_short || i64::try_from(count).unwrap_or(i64::MAX) >= request.key_limit {
            unfinished.push((key.clone(), count > 0));
        }
    }
    unfinished
}

/// Reads as the owner of some shards would, and drops the result: shows whether the database can be read.
pub(super) async fn probe(context: &SystemContext) -> Result<(), StoreError> {
    let Some(lane) = context.lanes().next() else { return Ok(()) };
    let all = |shard| Range { shard, from: Position::START, to: None, limit: PROBE_EVENTS };
    let request = FetchRequest {
        max_events: MAX_FETCH,
        max_bytes: MAX_FETCH_BYTES,
        max_event_bytes: context.settings.worker.max_event_bytes,
        ..FetchRequest::of_ranges(lane.clone(), (0..context.store.shards().min(PROBE_SHARDS)).map(all).collect())
    };
    context.store.fetch(&request).await.map(drop)
}
