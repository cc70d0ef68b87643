//! Partitions are leased: one consumer of the group reads each of them at a time.
//!
//! The partitions of a stream have one hash, in their slot: the members of the group, and who has which partition. A beat
//! renews this process there and takes its share ([`table`] has what it got); reads are refused under a lease that another one
//! has taken ([`reading`]).

mod reading;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use redis::{Cmd, Value, from_redis_value};
use tokio::sync::watch;

use self::table::{Grant, LeaseTable};
use super::streams::{Partition, SourceStream};
use super::{RedisSource, Result, millis};
use crate::backend::event_source::{LeaseId, LeaseState, Received, SourceUnavailable, StreamLeases};
use crate::backend::redis::Script;
use crate::clock::BootInstant;

static BEAT: Script = Script::new(include_str!("beat.lua"));
static RELEASE: Script = Script::new(concat!(include_str!("fence.lua"), include_str!("release.lua")));

/// A partition's number, its token, whether another consumer should get it, and whether it was taken from one that was silent.
type Granted = (u32, u64, u8, u8);

/// This process among those that read the partitions of a stream.
#[derive(Debug, Clone, Default)]
struct Member {
    /// The consumer's name and a random part; empty until it is announced.
    owner: String,
    /// The number of the last beat.
    beat: u64,
}

pub(super) struct Leases {
    /// How long a lease lasts.
    term: Duration,
    table: Mutex<LeaseTable>,
    /// By the stream's name, as in the partitions' names.
    members: Mutex<BTreeMap<String, Member>>,
    is_leaving: AtomicBool,
    /// An earlier wait was given up; its connection is busy.
    is_waiting: AtomicBool,
    changes: watch::Sender<()>,
}

impl Leases {
    pub(super) fn new(term: Duration) -> Self {
        Self {
            term,
            table: Mutex::default(),
            members: Mutex::default(),
            is_leaving: AtomicBool::new(false),
            is_waiting: AtomicBool::new(false),
            changes: watch::Sender::new(()),
        }
    }

    fn table(&self) -> MutexGuard<'_, LeaseTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn members(&self) -> MutexGuard<'_, BTreeMap<String, Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owner(&self, base: &str) -> String {
        self.members().get(base).map(|member| member.owner.clone()).unwrap_or_default()
    }

    fn notify(&self, is_changed: bool) {
        if is_changed {
            self.changes.send_replace(());
        }
    }
}

impl RedisSource {
    /// The hash of the members and leases.
    fn lease_key(&self, base: &str) -> String {
        format!("{base}:consumers:{}", self.group)
    }

    /// What a script must know to refuse what another consumer's lease forbids: the key of the hash, the partition, the owner
    /// and the token. Of a shared stream nothing but empty arguments. `None`: the partition is not this process'.
    pub(super) fn fence(&self, number: usize, stream: &SourceStream) -> Option<(Option<String>, [String; 3])> {
        let Some(Partition { base, .. }) = &stream.partition else { return Some((None, Default::default())) };
        let token = self.leases.table().token(number - usize::from(stream.is_retry))?;
        let fence = [stream.origin.clone(), self.leases.owner(base), token.to_string()];
        Some((Some(self.lease_key(base)), fence))
    }

    /// The partitions of each stream: their numbers, and those of the streams.
    fn families(&self) -> BTreeMap<String, BTreeMap<u32, usize>> {
        let mut families: BTreeMap<String, BTreeMap<u32, usize>> = BTreeMap::new();
        for (number, stream) in self.streams.all() {
            if let Some(Partition { base, n }) = stream.partition.as_ref().filter(|_| !stream.is_retry) {
                families.entry(base.clone()).or_default().insert(*n, number);
            }
        }
        families
    }

    async fn beat_for_all(&self) -> Result<usize> {
        self.find_streams().await?;
        let mut taken_over = 0;
        for (base, partitions) in self.families() {
            taken_over += self.beat_for(&base, &partitions).await?;
        }
        Ok(taken_over)
    }

    /// One beat for the partitions of a stream; returns how many were taken from consumers that were silent.
    async fn beat_for(&self, base: &str, partitions: &BTreeMap<u32, usize>) -> Result<usize> {
        let member = self.leases.members().get(base).cloned();
        let mut owner = match member {
            Some(member) if !member.owner.is_empty() => member.owner,
            _ => self.join(base).await?,
        };
        let mut answered = self.ask_to_beat(base, &owner, partitions).await?;
        if answered.1.is_none() {
            tracing::warn!(consumer = self.name, stream = base, "the lease of this consumer's partitions has ended");
            self.leases.members().remove(base);
            let changed = self.note(partitions, &[], BootInstant::now());
            self.leases.notify(changed);
            owner = self.join(base).await?;
            answered = self.ask_to_beat(base, &owner, partitions).await?;
        }
        let (asked, granted) = answered;
        let granted = granted.unwrap_or_default();
        let changed = self.note(partitions, &granted, asked);
        self.leases.notify(changed);
        Ok(granted.iter().map(|(.., taken_over)| usize::from(*taken_over)).sum())
    }

    /// Announces this process under a new name. One that joined and left never comes back: a late call announces a member that
    /// takes nothing, and that ends with the lease.
    async fn join(&self, base: &str) -> Result<String> {
        let owner = format!("{}/{:016x}", self.name, rand::random::<u64>());
        let _: Value = self.call(&BEAT, &self.beat_request(base, &owner, 0, "")).await?;
        let member = Member { owner: owner.clone(), beat: 0 };
        self.leases.members().insert(base.to_owned(), member);
        Ok(owner)
    }

    async fn ask_to_beat(
        &self,
        base: &str,
        owner: &str,
        partitions: &BTreeMap<u32, usize>,
    ) -> Result<(BootInstant, Option<Vec<Granted>>)> {
        let number = {
            let mut members = self.leases.members();
            let member = members.entry(base.to_owned()).or_default();
            member.beat += 1;
            member.beat
        };
        let reads: Vec<String> = partitions.keys().map(u32::to_string).collect();
        let reads = if self.leases.is_leaving.load(Ordering::Relaxed) { String::new() } else { reads.join(",") };
        let asked = BootInstant::now();
        let answer: Value = self.call(&BEAT, &self.beat_request(base, owner, number, &reads)).await?;
        if answer == Value::Nil {
            return Ok((asked, None));
        }
        let granted = from_redis_value(answer)
            .map_err(|error| SourceUnavailable(format!("Redis: an answer to a beat that cannot be read: {error}")))?;
        Ok((asked, Some(granted)))
    }

    fn beat_request(&self, base: &str, owner: &str, number: u64, reads: &str) -> Cmd {
        let mut request = BEAT.request();
        request.arg(1).arg(self.lease_key(base)).arg(base).arg(owner).arg(number);
        request.arg(millis(self.leases.term)).arg(reads);
        request
    }

    fn note(&self, partitions: &BTreeMap<u32, usize>, granted: &[Granted], asked: BootInstant) -> bool {
        let of: Vec<usize> = partitions.values().copied().collect();
        let grant = |(n, token, is_excess, _): &Granted| {
            Some(Grant { stream: *partitions.get(n)?, token: *token, is_excess: *is_excess == 1 })
        };
        let grants: Vec<Grant> = granted.iter().filter_map(grant).collect();
        self.leases.table().renew(&of, &grants, asked.after(self.leases.term), BootInstant::now())
    }

    async fn release(&self, leases: &[(usize, u64)], leaves: bool) -> Result<()> {
        for (base, partitions) in self.families() {
            let ours: Vec<_> =
                leases.iter().filter(|(stream, _)| partitions.values().any(|number| number == stream)).collect();
            let owner = self.leases.owner(&base);
            if owner.is_empty() || (ours.is_empty() && !leaves) {
                continue;
            }
            let mut request = RELEASE.request();
            request.arg(1).arg(self.lease_key(&base)).arg(owner).arg(u8::from(leaves));
            ours.iter().for_each(|(stream, token)| _ = request.arg(&self.streams.get(*stream).name).arg(*token));
            let _: usize = self.call(&RELEASE, &request).await?;
            let mut table = self.leases.table();
            ours.iter().for_each(|(stream, token)| table.remove(*stream, *token));
        }
        Ok(())
    }
}

#[async_trait]
impl StreamLeases for RedisSource {
    fn term(&self) -> Duration {
        self.leases.term
    }

    async fn beat(&self, limit: Duration) -> Result<usize> {
        let beat = tokio::time::timeout(limit, self.beat_for_all()).await;
        match beat {
            Ok(beat) => beat,
            Err(_) => {
                self.control.end().await;
                Err(SourceUnavailable(format!("Redis: no answer to a beat within {limit:?}")))
            }
        }
    }

    fn expire(&self) {
        let is_changed = self.leases.table().expire(BootInstant::now());
        self.leases.notify(is_changed);
    }

    fn state(&self, lease: LeaseId) -> LeaseState {
        // Read under the lock: what was seen to be over is not renewed.
        let mut table = self.leases.table();
        table.state(lease, BootInstant::now())
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.leases.changes.subscribe()
    }

    fn held(&self) -> Vec<String> {
        let held = self.leases.table().held(BootInstant::now());
        held.into_iter().map(|stream| self.streams.get(stream).name.clone()).collect()
    }

    async fn read(&self, most: usize, busy: &BTreeSet<usize>) -> Result<Vec<Received>> {
        self.read_leased(most, busy).await
    }

    async fn wait(&self) -> Result<()> {
        self.wait_for_entries().await
    }

    fn is_draining(&self) -> bool {
        self.leases.table().is_waiting()
    }

    async fn hand_over(&self, busy: &BTreeSet<usize>) -> Result<()> {
        let drained = self.leases.table().drained(busy, BootInstant::now());
        if drained.is_empty() { Ok(()) } else { self.release(&drained, false).await }
    }

    fn give_up(&self) {
        self.leases.is_leaving.store(true, Ordering::Relaxed);
        self.leases.table().give_up();
        self.leases.notify(true);
    }

    fn restart(&self) {
        self.leases.table().restart();
    }

    async fn leave(&self) -> Result<()> {
        let all = self.leases.table().all();
        self.release(&all, true).await
    }
}
