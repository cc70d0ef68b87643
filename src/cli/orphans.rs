//! Orphaned fields next to the streams: those of outboxes and lanes that no longer exist.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use uuid::Uuid;

use crate::backend::session::{BackendSession, JournalEntry};
use crate::settings::{PublisherSettings, Settings};
use crate::store::{EventCounts, Store};
use crate::system::Backends;

/// How long to wait for a backend.
const LIMIT: Duration = Duration::from_secs(15);

/// Events in one query.
const PAGE: usize = 1_000;

/// The orphaned fields of one outbox and one `publisher_backend`.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct OrphanedFields {
    pub(super) outbox: Uuid,
    pub(super) publisher_backend: String,
    pub(super) fields: usize,
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// The publishers that keep a journal.
pub(super) fn publishers_with_journal(settings: &Settings) -> impl Iterator<Item = (&String, &PublisherSettings)> {
    settings.publishers.iter().filter(|(_, publisher)| publisher.backend == "redis_stream")
}

/// The entries that are in use: those of this outbox, in lanes that are served.
pub(super) struct Served {
    outbox: Uuid,
    settings: Settings,
    /// The lanes that live workers report.
    announced: HashSet<String>,
}

impl Served {
    pub(super) fn new(outbox: Uuid, settings: &Settings, overview: &EventCounts) -> Self {
        let alive = overview.workers.iter().filter(|worker| worker.is_alive(settings.worker.lease));
        let announced = alive.flat_map(|worker| worker.reports().into_keys());
        Self { outbox, settings: settings.clone(), announced: announced.collect() }
    }

    pub(super) fn outbox(&self) -> Uuid {
        self.outbox
    }

    /// A lane that these settings map to another stream is no longer in use here. An unknown lane may belong to another
    /// deployment, whose workers report it.
    fn uses(&self, stream: &str, entry: &JournalEntry) -> bool {
        let lane = &*entry.shard.lane;
        let mut streams = self
            .settings
            .publishers
            .iter()
            .filter(|(name, _)| self.settings.lanes_of(name).contains(&lane))
            .map(|(_, publisher)| publisher.stream_name.as_str())
            .peekable();
        let known = streams.peek().is_some();
        entry.outbox == self.outbox
            && (streams.any(|other| other == stream) || (!known && self.announced.contains(lane)))
    }
}

/// One publisher's journal.
pub(super) struct BackendJournal {
    name: String,
    stream: String,
    session: Box<dyn BackendSession>,
    entries: Vec<JournalEntry>,
}

impl BackendJournal {
    pub(super) async fn read(
        name: &str,
        publisher: &PublisherSettings,
        backends: &Backends,
        outbox: Uuid,
    ) -> anyhow::Result<Self> {
        let mut session = backends.session(name, publisher, outbox)?();
        let reading = tokio::time::timeout(LIMIT, session.entries()).await;
        let entries = reading
            .with_context(|| format!("no answer within {LIMIT:?}"))
            .and_then(|answer| Ok(answer?))
            .with_context(|| format!("orphaned fields in backend {name} cannot be read"))?;
        Ok(Self { name: name.to_owned(), stream: publisher.stream_name.clone(), session, entries })
    }

    pub(super) fn orphans(&self, served: &Served) -> Vec<OrphanedFields> {
        let mut orphans: BTreeMap<(Uuid, &str), OrphanedFields> = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| !served.uses(&self.stream, entry)) {
            let lane = &*entry.shard.lane;
            let fields = orphans.entry((entry.outbox, lane)).or_insert_with(|| OrphanedFields {
                outbox: entry.outbox,
                publisher_backend: lane.to_owned(),
                fields: 0,
                events: 0,
                bytes: 0,
            });
            fields.fields += 1;
            fields.events += entry.sent.as_ref().map_or(0, Vec::len);
            fields.bytes += entry.field.len() + entry.value.len();
        }
        orphans.into_values().collect()
    }

    /// Removes the orphaned fields of this outbox that are no longer needed.
    pub(super) async fn remove_orphans(
        &mut self,
        served: &Served,
        store: &dyn Store,
    ) -> anyhow::Result<RemovedOrphans> {
        let mine = self.entries.iter().filter(|entry| entry.outbox == served.outbox);
        let orphans: Vec<&JournalEntry> = mine.filter(|entry| !served.uses(&self.stream, entry)).collect();
        let needed = find_needed(&orphans, store).await?;
        let is_needed = |entry: &JournalEntry| entry.sent.iter().flatten().any(|event| needed.contains(event));
        // A shard's token is removed last, when none of the events sent under it is needed.
        let needed_shards: BTreeSet<_> =
            orphans.iter().filter(|entry| is_needed(entry)).map(|entry| &entry.shard).collect();
        let done: Vec<JournalEntry> = orphans
            .iter()
            .filter(
                |entry| if entry.sent.is_some() { !is_needed(entry) } else { !needed_shards.contains(&entry.shard) },
            )
            .map(|entry| (*entry).clone())
            .collect();
        let removed = self.remove(&done).await?;
        Ok(RemovedOrphans { removed, needed: needed.len() })
    }

    /// Removes all fields of one outbox.
    pub(super) async fn remove_outbox(&mut self, outbox: Uuid) -> anyhow::Result<usize> {
        let gone: Vec<JournalEntry> = self.entries.iter().filter(|entry| entry.outbox == outbox).cloned().collect();
        self.remove(&gone).await
    }

    async fn remove(&mut self, entries: &[JournalEntry]) -> anyhow::Result<usize> {
        let removed = self.session.remove(entries).await;
        removed.with_context(|| format!("orphaned fields in backend {} cannot be removed", self.name))
    }
}

#[derive(Debug, Default)]
pub(super) struct RemovedOrphans {
    pub(super) removed: usize,
    /// Sent events that would be sent again without their entries.
    pub(super) needed: usize,
}

/// The sent events that the database does not have as published; only a worker that serves the lane may settle them.
async fn find_needed(entries: &[&JournalEntry], store: &dyn Store) -> anyhow::Result<HashSet<(Uuid, i64)>> {
    let mut lanes: BTreeMap<&str, Vec<(Uuid, i64)>> = BTreeMap::new();
    for entry in entries {
        lanes.entry(&entry.shard.lane).or_default().extend(entry.sent.iter().flatten());
    }
    let mut needed = HashSet::new();
    for (lane, sent) in lanes {
        for page in sent.chunks(PAGE) {
            store.mark_failed_as_sent(page).await?;
            let rows = store.find_unsettled(lane, page).await?;
            needed.extend(rows.into_iter().map(|row| (row.id, row.position.seq)));
        }
    }
    Ok(needed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::DateTime;

    use super::*;
    use crate::store::{LaneHealth, Shard, WorkerRow};

    #[test]
    fn an_entry_of_an_unconfigured_lane_is_served_if_a_live_worker_serves_it() {
        let settings = Settings::from_toml("[publishers.orders]\nbackend = 'redis_stream'\nhost = 'h'").unwrap();
        let stream = settings.publishers["orders"].stream_name.clone();
        let entry = JournalEntry {
            outbox: Uuid::nil(),
            shard: Shard { lane: Arc::from("elsewhere"), number: 0 },
            sent: None,
            field: String::new(),
            value: Vec::new(),
        };
        let is_served = |silent_for| {
            let worker = WorkerRow {
                id: Uuid::nil(),
                name: "w".to_owned(),
                heartbeat_at: DateTime::UNIX_EPOCH,
                silent_for,
                backends: serde_json::json!({"elsewhere": LaneHealth::ok()}).to_string(),
                shards: Vec::new(),
            };
            let overview = EventCounts {
                counts: Vec::new(),
                published_is_estimate: false,
                due: Vec::new(),
                workers: vec![worker],
            };
            Served::new(Uuid::nil(), &settings, &overview).uses(&stream, &entry)
        };
        assert!(is_served(Duration::ZERO));
        assert!(!is_served(settings.worker.lease));
    }
}
