//! Orphaned fields next to the streams: those of outboxes and lanes that no longer exist.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;
use uuid::Uuid;

use super::{AdminError, OutboxAdmin, Result};
use crate::backend::session::{BackendSession, JournalEntry};
use crate::settings::{PublisherSettings, Settings};
use crate::store::{Store, WorkerRow};

/// How long to wait for a backend.
const LIMIT: Duration = Duration::from_secs(15);

/// Events in one query.
const PAGE: usize = 1_000;

/// The orphaned fields of one outbox and one `publisher_backend`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OrphanedFields {
    /// The outbox that wrote them.
    pub outbox: Uuid,
    /// The `publisher_backend` of their events.
    pub publisher_backend: String,
    /// The number of fields.
    pub fields: usize,
    /// The number of events that they name as sent.
    pub events: usize,
    /// Their size in bytes.
    pub bytes: usize,
}

/// What was removed next to one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemovedOrphans {
    /// Orphaned fields of this outbox that were removed.
    pub removed: usize,
    /// Sent events whose fields were kept: the database does not have them as published, so without the fields they would be
    /// sent again.
    pub needed: usize,
    /// Fields of outboxes that no longer exist that were removed, by outbox.
    pub gone: Vec<(Uuid, usize)>,
}

impl OutboxAdmin {
    /// The orphaned fields next to each publisher's stream: those of lanes and outboxes that no longer exist. By the
    /// publisher's name; an error for a backend that does not answer within 15 s.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn orphans(&self) -> Result<BTreeMap<String, Result<Vec<OrphanedFields>, AdminError>>> {
        let served = self.served().await?;
        let journals = self.publishers_with_journal().map(async |(name, publisher)| {
            let journal = self.journal(name, publisher, served.outbox).await;
            (name.clone(), journal.map(|journal| journal.orphans(&served)))
        });
        Ok(join_all(journals).await.into_iter().collect())
    }

    /// Removes orphaned fields of this outbox that are no longer needed, and all fields of the outboxes in `gone`, whose
    /// databases no longer exist. If one of those is still in use, its events in flight may be sent twice. Returns what was
    /// removed by the publisher's name; an error for a backend that does not answer, to each question within 15 s.
    ///
    /// # Errors
    /// [`AdminError::OwnOutbox`] if `gone` names the outbox of this database; errors of the database.
    pub async fn remove_orphans(
        &self,
        gone: &[Uuid],
    ) -> Result<BTreeMap<String, Result<RemovedOrphans, AdminError>>, AdminError> {
        let served = self.served().await?;
        if gone.contains(&served.outbox) {
            return Err(AdminError::OwnOutbox { outbox: served.outbox });
        }
        let mut removed = BTreeMap::new();
        for (name, publisher) in self.publishers_with_journal() {
            let done = match self.journal(name, publisher, served.outbox).await {
                Ok(mut journal) => journal.remove_orphans(&served, gone, &*self.store).await,
                Err(error) => Err(error),
            };
            removed.insert(name.clone(), done);
        }
        Ok(removed)
    }

    async fn served(&self) -> Result<Served> {
        let (outbox, workers) = tokio::try_join!(self.store.outbox_id(), self.store.workers())?;
        Ok(Served::new(outbox, &self.settings, &workers))
    }

    async fn journal(
        &self,
        name: &str,
        publisher: &PublisherSettings,
        outbox: Uuid,
    ) -> Result<BackendJournal, AdminError> {
        let mut session = self.backends.session(name, publisher, outbox)?();
        let reading = tokio::time::timeout(LIMIT, session.entries()).await;
        let unread = |reason: String| AdminError::OrphansUnread { backend: name.to_owned(), reason };
        let entries = match reading {
            Ok(entries) => entries.map_err(|error| unread(error.to_string()))?,
            Err(_) => return Err(unread(format!("no answer within {LIMIT:?}"))),
        };
        Ok(BackendJournal { name: name.to_owned(), stream: place(publisher).to_owned(), session, entries })
    }

    /// The publishers whose backend keeps a journal.
    pub(super) fn publishers_with_journal(&self) -> impl Iterator<Item = (&String, &PublisherSettings)> {
        self.settings.publishers.iter().filter(|(_, publisher)| self.backends.keeps_journal(&publisher.backend))
    }
}

/// Where a publisher's events go, and its journal with them.
fn place(publisher: &PublisherSettings) -> &str {
    if publisher.backend == "nats" { &publisher.stream } else { &publisher.stream_name }
}

/// The entries that are in use: those of this outbox, in lanes that are served.
struct Served {
    outbox: Uuid,
    settings: Settings,
    /// The lanes that live workers report.
    announced: HashSet<String>,
}

impl Served {
    fn new(outbox: Uuid, settings: &Settings, workers: &[WorkerRow]) -> Self {
        let alive = workers.iter().filter(|worker| worker.is_alive(settings.worker.lease));
        let announced = alive.flat_map(|worker| worker.reports().into_keys());
        Self { outbox, settings: settings.clone(), announced: announced.collect() }
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
            .map(|(_, publisher)| place(publisher))
            .peekable();
        let known = streams.peek().is_some();
        entry.outbox == self.outbox
            && (streams.any(|other| other == stream) || (!known && self.announced.contains(lane)))
    }
}

/// One publisher's journal.
struct BackendJournal {
    name: String,
    stream: String,
    session: Box<dyn BackendSession>,
    entries: Vec<JournalEntry>,
}

impl BackendJournal {
    fn orphans(&self, served: &Served) -> Vec<OrphanedFields> {
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

    async fn remove_orphans(
        &mut self,
        served: &Served,
        gone: &[Uuid],
        store: &dyn Store,
    ) -> Result<RemovedOrphans, AdminError> {
        let (removed, needed) = self.remove_own(served, store).await?;
        let mut done = RemovedOrphans { removed, needed, gone: Vec::new() };
        for outbox in gone {
            done.gone.push((*outbox, self.remove_outbox(*outbox).await?));
        }
        Ok(done)
    }

    /// Removes the orphaned fields of this outbox that are no longer needed; returns how many, and how many events still
    /// need theirs.
    async fn remove_own(&mut self, served: &Served, store: &dyn Store) -> Result<(usize, usize), AdminError> {
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
        Ok((removed, needed.len()))
    }

    /// Removes all fields of one outbox.
    async fn remove_outbox(&mut self, outbox: Uuid) -> Result<usize, AdminError> {
        let gone: Vec<JournalEntry> = self.entries.iter().filter(|entry| entry.outbox == outbox).cloned().collect();
        self.remove(&gone).await
    }

    async fn remove(&mut self, entries: &[JournalEntry]) -> Result<usize, AdminError> {
        let kept = |reason: String| AdminError::OrphansKept { backend: self.name.clone(), reason };
        match tokio::time::timeout(LIMIT, self.session.remove(entries)).await {
            Ok(removed) => removed.map_err(|error| kept(error.to_string())),
            Err(_) => Err(kept(format!("no answer within {LIMIT:?}"))),
        }
    }
}

/// The sent events that the database does not have as published; only a worker that serves the lane may settle them.
async fn find_needed(entries: &[&JournalEntry], store: &dyn Store) -> Result<HashSet<(Uuid, i64)>> {
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
            Served::new(Uuid::nil(), &settings, &[worker]).uses(&stream, &entry)
        };
        assert!(is_served(Duration::ZERO));
        assert!(!is_served(settings.worker.lease));
    }
}
