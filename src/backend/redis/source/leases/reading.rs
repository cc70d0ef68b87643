//! Reading leased streams: first what is pending, of any consumer, then what is new. So the entries of a partition enter the
//! memory in their order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use redis::Value;

use super::table::{Cursor, Lease};
use crate::backend::event_source::{EntryId, EntryRef, LeaseId, Received, SourceUnavailable};
use crate::backend::redis::Script;
use crate::backend::redis::source::link::LinkError;
use crate::backend::redis::source::streams::Partition;
use crate::backend::redis::source::{PAGE, RedisSource, Result, entries, millis};
use crate::clock::BootInstant;
use crate::fault_injection::{self, ProtocolRule};

static READ: Script = Script::new(concat!(include_str!("fence.lua"), include_str!("read.lua")));
static TAKE: Script =
    Script::new(concat!(include_str!("fence.lua"), include_str!("../claimed.lua"), include_str!("take.lua")));

/// The most entries of one read.
const MOST: usize = 1_000;

/// Entries that were pending, and the last one that the group has read; nothing if the lease is another one's.
type Taken = Option<(Vec<(String, u32, Value)>, String)>;

impl RedisSource {
    pub(super) async fn read_leased(&self, most: usize, busy: &BTreeSet<usize>) -> Result<Vec<Received>> {
        self.prepare(&self.control).await?;
        let leases = self.leases.table().readable(busy, BootInstant::now());
        let leases = self.awake_leases(leases).await?;
        let mut read = Vec::new();
        for (stream, lease) in &leases {
            for part in [0, 1] {
                if lease.cursors[part].is_claimed || read.len() >= most {
                    continue;
                }
                if self.resting.is_resting(stream + part) {
                    continue;
                }
                match self.take(*stream, lease, part, self.limit.of((most - read.len()).min(PAGE))).await {
                    Ok(taken) => read.extend(taken),
                    // The next call meets the error as well.
                    Err(_) if !read.is_empty() => return Ok(read),
                    Err(error) => return Err(error),
                }
            }
        }
        if !read.is_empty() {
            return Ok(read);
        }
        let leases = self.leases.table().begun(BootInstant::now());
        let mut leases = self.awake_leases(leases).await?;
        leases.retain(|(_, lease)| lease.cursors.iter().all(|cursor| cursor.is_claimed));
        self.read_fenced(most, leases).await
    }

    /// Takes a page of what is pending.
    async fn take(&self, number: usize, lease: &Lease, part: usize, page: usize) -> Result<Vec<Received>> {
        let stream = self.streams.get(number + part);
        let Some(Partition { base, .. }) = &stream.partition else { return Ok(Vec::new()) };
        let after = lease.cursors[part].after;
        let mut request = TAKE.request();
        request.arg(2).arg(self.lease_key(base)).arg(&stream.name).arg(&self.group).arg(&self.name);
        request.arg(self.leases.owner(base)).arg(&stream.origin).arg(lease.token).arg(lease.claim);
        request.arg(after.map_or_else(|| "-".to_owned(), |after| format!("({after}"))).arg(page);
        let taken = self.control.call::<Taken>(&TAKE, &request).await;
        let taken = match taken {
            Ok(taken) => taken,
            Err(error) => {
                self.note_late(page, &error);
                let unavailable = self.doubt(&[lease.id], &error);
                self.refusal(number + part, &error).map_err(|_| unavailable)?;
                return Ok(Vec::new());
            }
        };
        let Some((left, last)) = taken else {
            self.refuse(lease.id);
            return Ok(Vec::new());
        };
        self.limit.was_in_time(left.len());
        let is_claimed = left.len() < page;
        // Nothing is pending up to the last entry that the group has read.
        let last = if is_claimed { Some(&last) } else { left.last().map(|(id, ..)| id) };
        let after = last.and_then(|id| id.parse().ok()).or(after);
        self.leases.table().advance(lease.id, part, Cursor { after, is_claimed });
        Ok(under(lease.id, entries::claimed(number + part, &stream.name, left)))
    }

    /// Reads new entries.
    async fn read_fenced(&self, most: usize, leases: Vec<(usize, Lease)>) -> Result<Vec<Received>> {
        let mut families: BTreeMap<String, Vec<(usize, Lease)>> = BTreeMap::new();
        let count = (self.limit.of(most.min(MOST)) / leases.len().max(1)).max(1);
        for (number, lease) in leases {
            if let Some(Partition { base, .. }) = &self.streams.get(number).partition {
                families.entry(base.clone()).or_default().push((number, lease));
            }
        }
        let mut all = Vec::new();
        for (base, leases) in families {
            match self.read_family(&base, count, &leases).await {
                Ok(read) => all.extend(read),
                Err(_) if !all.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    pub(super) async fn read_family(
        &self,
        base: &str,
        count: usize,
        leases: &[(usize, Lease)],
    ) -> Result<Vec<Received>> {
        let parts = leases.iter().flat_map(|(number, lease)| [0, 1].map(|part| (number + part, part, lease)));
        let parts: Vec<_> =
            parts.map(|(number, part, lease)| (number, part, lease, self.streams.get(number))).collect();
        let mut request = READ.request();
        request.arg(1 + parts.len()).arg(self.lease_key(base));
        parts.iter().for_each(|(.., stream)| _ = request.arg(&stream.name));
        request.arg(&self.group).arg(&self.name).arg(self.leases.owner(base)).arg(count);
        for (_, _, lease, stream) in &parts {
            request.arg(&stream.origin).arg(lease.token).arg(lease.claim);
        }
        let ids: Vec<LeaseId> = leases.iter().map(|(_, lease)| lease.id).collect();
        let answer = if fault_injection::is_off(ProtocolRule::ReadFencing) {
            self.read_unfenced(count, parts.iter().map(|(.., stream)| &*stream.name)).await
        } else {
            self.control.call::<(Vec<usize>, Value)>(&READ, &request).await
        };
        let (refused, read) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.note_late(count * leases.len(), &error);
                if error.is_refused_for_its_key() {
                    self.find_refusing(parts.iter().map(|(number, .., stream)| (*number, Arc::clone(stream)))).await?;
                }
                return Err(self.doubt(&ids, &error));
            }
        };
        let read = entries::by_stream(read).map_err(|reason| {
            self.doubt_leases(&ids, false);
            SourceUnavailable(reason)
        })?;
        refused.into_iter().filter_map(|index| parts.get(index)).for_each(|(_, _, lease, _)| self.refuse(lease.id));
        let mut all = Vec::new();
        for (name, read) in read {
            let Some((number, part, lease, _)) = parts.iter().find(|(.., stream)| stream.name == name) else {
                continue;
            };
            let read = entries::new(*number, &name, read);
            if let Some(last) = read.last() {
                self.leases.table().advance(lease.id, *part, Cursor { after: Some(last.entry.id), is_claimed: true });
            }
            all.extend(under(lease.id, read));
        }
        self.limit.was_in_time(all.len());
        Ok(all)
    }

    /// For a test that shows what the fence prevents.
    async fn read_unfenced<'a>(
        &self,
        count: usize,
        names: impl Iterator<Item = &'a str> + Clone + Send,
    ) -> Result<(Vec<usize>, Value), LinkError> {
        let mut request = redis::cmd("XREADGROUP");
        request.arg("GROUP").arg(&self.group).arg(&self.name).arg("COUNT").arg(count).arg("STREAMS");
        names.clone().for_each(|name| _ = request.arg(name));
        names.for_each(|_| _ = request.arg(">"));
        Ok((Vec::new(), self.control.query(&request).await?))
    }

    fn doubt(&self, leases: &[LeaseId], error: &LinkError) -> SourceUnavailable {
        self.doubt_leases(leases, error.is_missing_group());
        self.explain(error)
    }

    pub(super) fn doubt_leases(&self, leases: &[LeaseId], is_missing_group: bool) {
        let mut table = self.leases.table();
        leases.iter().for_each(|lease| table.doubt(*lease, is_missing_group));
    }

    fn refuse(&self, lease: LeaseId) {
        self.leases.table().refuse(lease);
        self.leases.notify(true);
    }

    /// The leases of partitions that answer.
    async fn awake_leases(&self, mut leases: Vec<(usize, Lease)>) -> Result<Vec<(usize, Lease)>> {
        let parts =
            leases.iter().flat_map(|(number, _)| [0, 1].map(|part| (number + part, self.streams.get(number + part))));
        let awake: BTreeSet<usize> = self.awake(parts.collect()).await?.into_iter().map(|(number, _)| number).collect();
        leases.retain(|(number, _)| awake.contains(number) && awake.contains(&(number + 1)));
        Ok(leases)
    }

    /// Waits until a leased stream has an entry that the group has not read, or for a moment.
    pub(super) async fn wait_for_entries(&self) -> Result<()> {
        let leases = self.leases.table().begun(BootInstant::now());
        let leases = self.awake_leases(leases).await?;
        if leases.iter().any(|(_, lease)| lease.cursors.iter().any(|cursor| !cursor.is_claimed)) {
            // What was pending and came first was trimmed.
            return Ok(());
        }
        let parts = leases.iter().flat_map(|(number, lease)| [0, 1].map(|part| (number + part, lease.cursors[part])));
        let seen: Vec<(EntryRef, String)> = parts
            .filter_map(|(stream, cursor)| {
                let id: EntryId = cursor.after.filter(|_| cursor.is_claimed)?;
                Some((EntryRef { stream, id }, self.streams.get(stream).name.clone()))
            })
            .collect();
        if seen.is_empty() {
            tokio::time::sleep(self.patience).await;
            return Ok(());
        }
        if self.leases.is_waiting.swap(true, Ordering::Relaxed) {
            self.waiting.end().await;
        }
        let mut request = redis::cmd("XREAD");
        request.arg("COUNT").arg(1).arg("BLOCK").arg(millis(self.patience)).arg("STREAMS");
        seen.iter().for_each(|(_, name)| _ = request.arg(name));
        seen.iter().for_each(|(entry, _)| _ = request.arg(entry.id.to_string()));
        let waited = self.waiting.query::<Value>(&request).await;
        self.leases.is_waiting.store(false, Ordering::Relaxed);
        let Err(error) = waited else { return Ok(()) };
        if error.is_refused_for_its_key() {
            let streams = seen.iter().map(|(entry, _)| (entry.stream, self.streams.get(entry.stream)));
            self.find_refusing(streams).await?;
        }
        Err(SourceUnavailable(error.reason()))
    }
}

fn under(lease: LeaseId, read: Vec<Received>) -> Vec<Received> {
    read.into_iter().map(|received| Received { lease: Some(lease), ..received }).collect()
}
