//! Opening shards: earlier sessions are shut out, and what they sent is found.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use super::desk::Desk;
use crate::backend::BackendError;
use crate::backend::channel::Opened;
use crate::error::StoreError;
use crate::store::{Fetched, Shard};
use crate::system::clock::Moment;
use crate::system::line::OpenUnderWay;
use crate::system::ticket::Ticket;
use crate::system::trying::pause_after;

impl Desk {
    pub(super) async fn open(&mut self, shards: &[(Shard, i64)], under_way: OpenUnderWay) {
        let line = Arc::clone(&self.line);
        let Some(_turn) = line.turn_of(self.number).await else { return };
        let opened = self.try_open(shards).await;
        drop(under_way);
        match opened {
            Ok(tickets) => {
                self.line.resume_where_reachable();
                self.pass_on(tickets).await;
            }
            Err(error) => self.line.pause(&error.to_string(), false),
        }
        self.shared.wake.notify_one();
    }

    /// Shuts earlier sessions out, and only then asks what they sent and the database does not know.
    async fn try_open(&mut self, shards: &[(Shard, i64)]) -> Result<Vec<Ticket>, BackendError> {
        shards.iter().filter_map(|(shard, _)| Some((self.line.flight(&shard.lane)?, shard))).for_each(
            |(flight, shard)| {
                flight.close(shard.number);
            },
        );
        self.note_settled();
        self.asked = Moment::now();
        let opened = self.channel.open(shards).await?;
        self.line.meters.sessions.increment(1);
        self.raise_epochs(shards, &opened.refused).await;
        let tickets = self.recover(shards, &opened).await?;
        for (shard, epoch) in shards {
            let refused = opened.refused.iter().any(|(other, _)| other == shard);
            if let Some(flight) = self.line.flight(&shard.lane).filter(|_| !refused) {
                flight.open(shard.number, *epoch);
            }
        }
        Ok(tickets)
    }

    /// A newer token than our lease: either the lease is another's by now, or the database was restored. The update
    /// finds out, for it touches only a lease that is still ours.
    async fn raise_epochs(&self, shards: &[(Shard, i64)], refused: &[(Shard, i64)]) {
        for (shard, above) in refused {
            let Some((_, epoch)) = shards.iter().find(|(other, _)| other == shard) else { continue };
            match self.shared.store.raise_epoch(self.shared.worker, shard, *epoch, *above).await {
                Ok(true) => tracing::warn!(
                    backend = %shard.lane, shard = shard.number, epoch, above,
                    "the backend knows a newer session than the database; the lease's epoch was raised above it"
                ),
                Ok(false) => {
                    tracing::debug!(backend = %shard.lane, shard = shard.number, "another worker has the shard")
                }
                Err(error) => tracing::warn!(%error, "a lease's epoch could not be raised"),
            }
        }
        if !refused.is_empty() {
            self.line.state().open_after = Some(Moment::now().after(pause_after(0)));
            self.shared.beat_now.notify_one();
        }
    }

    /// Takes what earlier sessions sent into flight as accepted; what the database has already may leave the journal.
    async fn recover(&mut self, shards: &[(Shard, i64)], opened: &Opened) -> Result<Vec<Ticket>, BackendError> {
        let mut tickets = Vec::new();
        for flight in &Arc::clone(&self.line).flights {
            let sent: Vec<(Uuid, i64)> = opened
                .sent
                .iter()
                .filter(|(shard, ..)| shard.lane == *flight.lane())
                .map(|(_, id, seq)| (*id, *seq))
                .collect();
            if sent.is_empty() {
                continue;
            }
            let fetch = flight.begin_fetch();
            let rows = self.look_up(flight.lane(), &sent).await.map_err(|error| {
                BackendError::Unavailable(format!("what was sent cannot be compared with the database: {error}"))
            })?;
            // By `seq` as well: a replayed event may stand there as it was sent before and as it was sent again.
            let unknown: HashSet<(Uuid, i64)> = rows.iter().map(|row| (row.id, row.position.seq)).collect();
            let recorded: Vec<(Uuid, i64)> = sent.into_iter().filter(|event| !unknown.contains(event)).collect();
            self.let_go(&recorded).await.map_err(|error| {
                BackendError::Unavailable(format!("the database does not confirm what is recorded: {error}"))
            })?;
            let epochs: HashMap<i16, i64> = shards
                .iter()
                .filter(|(shard, _)| shard.lane == *flight.lane())
                .map(|(shard, epoch)| (shard.number, *epoch))
                .collect();
            let credit = &self.line.credit;
            let permit = |row: &Fetched| credit.take(row.event.as_ref().map_or(0, |event| event.size()));
            let adopted = fetch.adopt(rows, &epochs, permit).ok_or_else(|| {
                BackendError::Unavailable("an event was replayed that is not yet recorded as sent before".to_owned())
            })?;
            if !adopted.is_empty() {
                tracing::info!(backend = %flight.lane(), events = adopted.len(), "found in the journal, not sent again");
            }
            tickets.extend(adopted);
        }
        Ok(tickets)
    }

    /// What the database shows as recorded may leave the journal once no failover can take it back.
    async fn let_go(&mut self, recorded: &[(Uuid, i64)]) -> Result<(), StoreError> {
        if !recorded.is_empty() {
            self.shared.store.confirm_durable().await?;
            self.channel.settled(recorded);
        }
        Ok(())
    }

    /// A row that is locked or refused there is looked up as unrecorded and settled like any other.
    async fn look_up(&self, lane: &str, sent: &[(Uuid, i64)]) -> Result<Vec<Fetched>, StoreError> {
        self.shared.store.record_sent_but_failed(sent).await?;
        self.shared.store.unrecorded(lane, sent).await
    }
}
