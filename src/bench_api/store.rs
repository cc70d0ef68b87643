//! The statements of a worker without the worker, for the limits that `outbox bench` measures.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_postgres::Client;

use crate::error::{StoreError, SystemError};
use crate::event::OutboxEvent;
use crate::settings::{DatabaseSettings, Secret};
use crate::store::postgres::{SchemaClient, Target};
use crate::store::{Acceptance, Care, FetchRequest, FetchedRow, LaneName, Position, Range, Store};

/// The most events that a worker fetches in one statement.
pub const MAX_FETCH: usize = crate::system::MAX_FETCH;

/// A connection to PostgreSQL as the outbox makes them, with its TLS and its time limit.
///
/// # Errors
/// If the address is not valid, or the server does not accept the connection.
pub async fn connect_postgres(url: &Secret) -> Result<Client, StoreError> {
    let invalid = |reason| StoreError::Query { operation: "connect", reason, transient: false };
    let url = url.read().map_err(|error| invalid(error.to_string()))?;
    // Its statements are the caller's, with names of the caller's.
    let target = Target::from_url(&url).map_err(invalid)?.in_schema("public");
    target.connect().await.map(SchemaClient::into_client)
}

/// The limits of one fetch.
#[derive(Debug, Clone, Copy)]
pub struct FetchLimits {
    /// The most events.
    pub events: usize,
    /// The most bytes.
    pub bytes: usize,
    /// The most bytes of one event.
    pub event_bytes: usize,
}

/// The default lane of an outbox, read and settled without sending anything.
pub struct BenchStore(Arc<dyn Store>);

impl BenchStore {
    /// Prepares access, and connects.
    ///
    /// # Errors
    /// If the address is not valid or the database does not answer.
    pub async fn connect(url: &Secret) -> Result<Self, SystemError> {
        let store = crate::store::connect(&DatabaseSettings { url: url.clone(), ..DatabaseSettings::default() })?;
        store.outbox_id().await?;
        Ok(Self(store))
    }

    /// The number of shards.
    #[must_use]
    pub fn shards(&self) -> i16 {
        self.0.shards()
    }

    /// The first valid events of each shard, `count` in all at most.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn first(&self, count: usize) -> Result<Vec<Arc<OutboxEvent>>, StoreError> {
        let limit = i64::try_from(count).unwrap_or(i64::MAX);
        let range = |shard| Range { shard, from: Position::START, to: None, limit };
        let request = FetchRequest::of_ranges(LaneName::from(""), (0..self.shards()).map(range).collect());
        let answer = self.0.fetch(&FetchRequest { max_events: count, ..request }).await?;
        Ok(answer.rows.into_iter().filter_map(|row| row.event.ok()).collect())
    }

    /// Fetches every due event of these shards and records it as published, or deletes it. Returns the number of events.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn fetch_and_settle(
        &self,
        shards: &[i16],
        limits: FetchLimits,
        deletes: bool,
    ) -> Result<usize, StoreError> {
        let mut request = FetchRequest {
            max_events: limits.events,
            max_bytes: limits.bytes,
            max_event_bytes: limits.event_bytes,
            ..FetchRequest::of_ranges(LaneName::from(""), Vec::new())
        };
        let mut cursors: BTreeMap<i16, Position> = shards.iter().map(|shard| (*shard, Position::START)).collect();
        let mut events = 0;
        while !cursors.is_empty() {
            let limit = i64::try_from((limits.events / cursors.len()).max(1)).unwrap_or(i64::MAX);
            request.ranges =
                cursors.iter().map(|(shard, from)| Range { shard: *shard, from: *from, to: None, limit }).collect();
            let answer = self.0.fetch(&request).await?;
            let settled: Vec<_> = answer.rows.iter().map(|row| acceptance(row, deletes)).collect();
            self.0.settle_published(&settled, Care::Usual).await?;
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
}

fn acceptance(row: &FetchedRow, deletes: bool) -> Acceptance {
    Acceptance { id: row.id, seq: row.position.seq, place: row.place, asked: Arc::default(), left: Vec::new(), deletes }
}
