//! Opening shards: earlier sessions are fenced, and what they sent is found.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use super::batch_sender::BatchSender;
use crate::backend::BackendError;
use crate::backend::session::ShardsOpened;
use crate::clock::BootInstant;
use crate::error::StoreError;
use crate::store::{Blocker, FetchedRow, Shard};
use crate::system::credit::Amount;
use crate::system::delivery::Delivery;
use crate::system::in_flight::{Fetch, InFlight};
use crate::system::predecessors::find_blockers;
use crate::system::publisher_state::OpenUnderWay;
use crate::system::reconnect::pause_after;

impl BatchSender {
    pub(super) async fn open(&mut self, shards: &[(Shard, i64)], under_way: OpenUnderWay) {
        self.flushed = false;
        let state = Arc::clone(&self.state);
        let Some(_working) = state.begin_work(self.number).await else { return };
        let opened = self.try_open(shards).await;
        drop(under_way);
        match opened {
            Ok(()) => self.state.resume_if_reachable(),
            Err(error) => self.state.pause(&error.to_string(), false),
        }
        self.context.wakeups.poller.notify_one();
    }

    /// Fences earlier sessions, and only then asks what they sent that the database does not have.
    async fn try_open(&mut self, shards: &[(Shard, i64)]) -> Result<(), BackendError> {
        shards.iter().filter_map(|(shard, _)| Some((self.state.in_flight(&shard.lane)?, shard))).for_each(
            |(in_flight, shard)| {
                in_flight.close(shard.number);
            },
        );
        self.note_settled();
        self.asked = BootInstant::now();
        let opened = self.session.open(shards).await?;
        self.state.metrics.sessions.increment(1);
        self.raise_epochs(shards, &opened.refused).await;
        self.recover(journals(shards, opened)).await
    }

    /// Raises the epochs of leases whose fencing number the backend refused: either another worker holds the lease by now,
    /// or the database was restored. The update shows which, because it changes only leases that are still this worker's.
    async fn raise_epochs(&self, shards: &[(Shard, i64)], refused: &[(Shard, i64)]) {
        for (shard, above) in refused {
            let Some((_, epoch)) = shards.iter().find(|(other, _)| other == shard) else { continue };
            match self.context.store.raise_epoch(self.context.worker, shard, *epoch, *above).await {
                Ok(true) => tracing::warn!(
                    backend = %shard.lane, shard = shard.number, epoch, above,
                    "backend has a newer session than the database; raised the lease's epoch above it"
                ),
                Ok(false) => {
                    tracing::debug!(backend = %shard.lane, shard = shard.number, "another worker has the shard")
                }
                Err(error) => tracing::warn!(%error, "lease's epoch not raised"),
            }
        }
        if !refused.is_empty() {
            self.state.delay_open(pause_after(0));
            self.context.wakeups.heartbeat.notify_one();
        }
    }

    /// Adopts what earlier sessions sent as accepted, for as many shards as memory allows, and opens those; first, in every
    /// lane, the shards that need no memory. The others are opened when credit has been returned.
    async fn recover(&mut self, journals: Vec<ShardJournal>) -> Result<(), BackendError> {
        let mut beyond = self.state.has_waited_too_long(BootInstant::now());
        for needs_memory in [false, true] {
            for in_flight in self.state.lanes.clone() {
                let mut waiting = waiting_in(&in_flight, &journals);
                waiting.retain(|waiting| (waiting.events > 0) == needs_memory);
                while !waiting.is_empty() {
                    let group = self.split_fitting(&mut waiting, beyond);
                    if let Some(short) = self.adopt(&in_flight, &group, beyond).await? {
                        self.wait_for_memory(short);
                        return Ok(());
                    }
                    beyond &= !needs_memory;
                }
            }
        }
        self.state.end_wait_for_memory();
        Ok(())
    }

    fn wait_for_memory(&self, short: Amount) {
        tracing::info!(
            backend = %self.state.name, short.events, short.bytes,
            "events of earlier sessions wait for free memory"
        );
        self.state.wait_for_memory(short);
    }

    /// The shards whose events fit into memory; at least one, which finds out how much it needs.
    fn split_fitting<'a>(&self, waiting: &mut Vec<WaitingShard<'a>>, beyond: bool) -> Vec<WaitingShard<'a>> {
        let mut left = if beyond { 0 } else { self.state.credit.free().events };
        let fitting = waiting.iter().take_while(|waiting| {
            let fits = waiting.events <= left;
            left = left.saturating_sub(waiting.events);
            fits
        });
        let count = fitting.count().max(1);
        waiting.drain(..count).collect()
    }

    /// Adopts and opens the shards of a group, one after the other; returns the memory that the first needs and that is not
    /// free.
    async fn adopt(
        &mut self,
        in_flight: &Arc<InFlight>,
        group: &[WaitingShard<'_>],
        beyond: bool,
    ) -> Result<Option<Amount>, BackendError> {
        let credit = Arc::clone(&self.state.credit);
        if let [only] = group
            && !beyond
            && only.events > credit.free().events
            && !credit.is_whole()
        {
            return Ok(Some(Amount { events: only.events, bytes: 0 }));
        }
        let mut fetch = in_flight.begin_fetch();
        let sent: Vec<(Uuid, i64)> = group.iter().flat_map(|waiting| waiting.journal.sent.iter().copied()).collect();
        let mut rows = self.find_unsettled(in_flight, &sent).await?;
        let blockers = self.blockers(&mut fetch, in_flight, &rows).await?;
        let in_memory: HashSet<Uuid> = in_flight.ids().into_iter().collect();
        let mut adopted = Vec::new();
        let mut ended = Ok(None);
        for WaitingShard { journal, .. } in group {
            let (own, others) = rows.into_iter().partition(|row| row.shard == journal.shard.number);
            rows = others;
            let needed = memory_for(&own, &in_memory);
            if !credit.has(needed) && !beyond {
                ended = Ok(Some(needed));
                break;
            }
            self.say_beyond(journal, needed);
            match self.adopt_one(&fetch, journal, own, &blockers) {
                Ok(deliveries) => adopted.extend(deliveries),
                Err(error) => {
                    ended = Err(error);
                    break;
                }
            }
            in_flight.open(journal.shard.number, journal.epoch);
        }
        drop(fetch);
        if !adopted.is_empty() {
            tracing::info!(backend = %in_flight.lane(), events = adopted.len(), "found events in the journal; not sending them again");
        }
        self.pass_on(adopted).await;
        ended
    }

    /// The events that handlers of this process must receive before events of a key that were sent. An earlier session may
    /// have sent an event while a handler had the one before it, and have recorded that this one was rejected.
    async fn blockers(
        &self,
        fetch: &mut Fetch,
        in_flight: &InFlight,
        rows: &[FetchedRow],
    ) -> Result<HashMap<String, Blocker>, BackendError> {
        if self.context.subscriptions().is_empty() {
            return Ok(HashMap::new());
        }
        let holds = self.context.settings.holds_on_failure(in_flight.lane());
        let mut found = HashMap::new();
        loop {
            let answer = find_blockers(&*self.context.store, in_flight, fetch, rows, false, holds).await;
            found.extend(answer.map_err(|error| cannot_compare(&error))?);
            if !fetch.is_cut(&found) {
                return Ok(found);
            }
        }
    }

    fn adopt_one(
        &self,
        fetch: &Fetch,
        journal: &ShardJournal,
        rows: Vec<FetchedRow>,
        blockers: &HashMap<String, Blocker>,
    ) -> Result<Vec<Delivery>, BackendError> {
        let epochs = HashMap::from([(journal.shard.number, journal.epoch)]);
        let credit = &self.state.credit;
        let permit = |row: &FetchedRow| credit.take(row.event.as_ref().map_or(0, |event| event.size()));
        fetch
            .adopt(rows, &epochs, blockers, permit)
            .ok_or_else(|| BackendError::Unavailable("a replayed event is not yet recorded as sent before".to_owned()))
    }

    fn say_beyond(&self, journal: &ShardJournal, needed: Amount) {
        let free = self.state.credit.free();
        if needed.events > free.events || needed.bytes > free.bytes {
            tracing::warn!(
                backend = %self.state.name, shard = journal.shard.number, needed.events, needed.bytes,
                "events of earlier sessions for one shard exceed the memory limit; loading them all the same"
            );
        }
    }

    /// The events that are not published in the database; the others may be removed from the journal.
    async fn find_unsettled(
        &mut self,
        in_flight: &InFlight,
        sent: &[(Uuid, i64)],
    ) -> Result<Vec<FetchedRow>, BackendError> {
        if sent.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.look_up(in_flight.lane(), sent).await.map_err(|error| cannot_compare(&error))?;
        // By `seq` as well: a replayed event may be in the journal twice, as sent before and as sent again.
        let unknown: HashSet<(Uuid, i64)> = rows.iter().map(|row| (row.id, row.position.seq)).collect();
        let recorded: Vec<(Uuid, i64)> = sent.iter().filter(|event| !unknown.contains(event)).copied().collect();
        self.session.settled(&recorded);
        Ok(rows)
    }

    /// Reads rows of the database. A row that is locked or refused there is read as unrecorded and settled like any other.
    async fn look_up(&self, lane: &str, sent: &[(Uuid, i64)]) -> Result<Vec<FetchedRow>, StoreError> {
        self.context.store.mark_failed_as_sent(sent).await?;
        self.context.store.find_unsettled(lane, sent).await
    }
}

fn cannot_compare(error: &StoreError) -> BackendError {
    BackendError::Unavailable(format!("journal not compared with the database: {error}"))
}

/// The journal entries of earlier sessions for one shard.
struct ShardJournal {
    shard: Shard,
    epoch: i64,
    sent: Vec<(Uuid, i64)>,
}

/// A shard that must be opened, and how many events its journal may bring into memory.
struct WaitingShard<'a> {
    journal: &'a ShardJournal,
    events: usize,
}

impl<'a> WaitingShard<'a> {
    fn new(journal: &'a ShardJournal, in_memory: &HashSet<Uuid>) -> Self {
        Self { journal, events: journal.sent.iter().filter(|(id, _)| !in_memory.contains(id)).count() }
    }
}

/// The shards of a lane that must be opened, those that need the least memory first.
fn waiting_in<'a>(in_flight: &InFlight, journals: &'a [ShardJournal]) -> Vec<WaitingShard<'a>> {
    let in_memory: HashSet<Uuid> = in_flight.ids().into_iter().collect();
    let of_lane = journals.iter().filter(|journal| journal.shard.lane == *in_flight.lane());
    let mut waiting: Vec<WaitingShard<'_>> = of_lane.map(|journal| WaitingShard::new(journal, &in_memory)).collect();
    waiting.sort_by_key(|waiting| waiting.events);
    waiting
}

/// The journals of the shards that were not refused.
fn journals(shards: &[(Shard, i64)], opened: ShardsOpened) -> Vec<ShardJournal> {
    let granted = shards.iter().filter(|(shard, _)| !opened.refused.iter().any(|(other, _)| other == shard));
    let mut journals: HashMap<&Shard, ShardJournal> = granted
        .map(|(shard, epoch)| (shard, ShardJournal { shard: shard.clone(), epoch: *epoch, sent: Vec::new() }))
        .collect();
    for (shard, id, seq) in &opened.sent {
        if let Some(journal) = journals.get_mut(shard) {
            journal.sent.push((*id, *seq));
        }
    }
    journals.into_values().collect()
}

fn memory_for(rows: &[FetchedRow], in_memory: &HashSet<Uuid>) -> Amount {
    let new = rows.iter().filter(|row| !in_memory.contains(&row.id));
    let size = |row: &FetchedRow| row.event.as_ref().map_or(0, |event| event.size());
    new.fold(Amount::default(), |amount, row| Amount { events: amount.events + 1, bytes: amount.bytes + size(row) })
}
