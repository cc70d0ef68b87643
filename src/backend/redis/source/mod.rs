//! Streams as a consumer reads them: as one of a group, whose entries are pending until they are acknowledged.
//!
//! Three connections: one waits for new entries of shared streams, one for those of partitions, which are [leased](leases), and
//! one does everything else.

mod backlog;
mod dead;
mod entries;
mod leases;
mod link;
mod reading;
mod streams;
mod tail;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use redis::{Cmd, FromRedisValue, Value};

use self::leases::Leases;
use self::link::{Link, LinkError};
use self::streams::SourceStreams;
pub(crate) use self::tail::Positions;
use super::Script;
use crate::backend::event_source::{
    Backlog, DeadLetter, EntryRef, EventSource, Received, Renewal, SourceUnavailable, StreamLeases,
};
use crate::settings::{ConsumerSettings, PublisherSettings};

static CLAIM: Script = Script::new(concat!(include_str!("claimed.lua"), include_str!("claim.lua")));
static RENEW: Script = Script::new(concat!(include_str!("leases/fence.lua"), include_str!("renew.lua")));
static RETRY: Script = Script::new(include_str!("retry.lua"));
static SET_ASIDE: Script = Script::new(concat!(include_str!("leases/fence.lua"), include_str!("set_aside.lua")));
static LEAVE: Script = Script::new(include_str!("leave.lua"));
static ACKNOWLEDGE: Script = Script::new(include_str!("acknowledge.lua"));

/// The most entries in one call, so that none delays other clients.
const PAGE: usize = 500;

/// A consumer that has been silent for this long and left nothing behind is removed from the group.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3_600);

type Result<T, E = SourceUnavailable> = std::result::Result<T, E>;

/// The streams of one consumer.
pub(crate) struct RedisSource {
    reading: Link,
    waiting: Link,
    control: Link,
    leases: Leases,
    streams: SourceStreams,
    group: String,
    /// This consumer's name in the group.
    name: String,
    reclaim_after: Duration,
    /// How long a read waits for the first entry.
    patience: Duration,
    /// Entries in memory that were trimmed and are not pending any more. Their handlers may end all the same.
    trimmed: Mutex<BTreeSet<EntryRef>>,
}

impl RedisSource {
    /// Reads the address; nothing is connected. `name` is this process in the group.
    pub(crate) fn new(
        server: &PublisherSettings,
        consumer: &ConsumerSettings,
        group: String,
        name: String,
    ) -> Result<Self, String> {
        let streams = SourceStreams::new(server, consumer, &group);
        let server = PublisherSettings { stream_name: streams.any_name(), ..server.clone() };
        // A renewal that hangs is repeated in time.
        let limit = consumer.reclaim_after / 4;
        let quick = PublisherSettings {
            connect_timeout: server.connect_timeout.min(limit),
            socket_timeout: server.socket_timeout.min(limit),
            ..server.clone()
        };
        Ok(Self {
            reading: Link::new(&server)?,
            waiting: Link::new(&server)?,
            leases: Leases::new(consumer.lease),
            control: Link::new(&quick)?,
            streams,
            group,
            name,
            reclaim_after: consumer.reclaim_after,
            trimmed: Mutex::default(),
            patience: Duration::from_secs(1).min(consumer.socket_timeout / 2),
        })
    }

    /// Calls a script on one stream.
    async fn call<T: FromRedisValue>(&self, script: &'static Script, request: &Cmd) -> Result<T> {
        self.control.call(script, request).await.map_err(|error| self.explain(&error))
    }

    /// A missing group is created before the next read, if the settings allow it.
    fn explain(&self, error: &LinkError) -> SourceUnavailable {
        let reason = error.reason();
        if !error.is_missing_group() {
            return SourceUnavailable(reason);
        }
        if !self.streams.may_create() {
            let advice = "a group is missing and `create_group` is false: create it with XGROUP CREATE";
            return SourceUnavailable(format!("{reason}; {advice}"));
        }
        self.streams.forget_groups();
        SourceUnavailable(reason)
    }

    fn trimmed(&self) -> MutexGuard<'_, BTreeSet<EntryRef>> {
        self.trimmed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_trimmed(&self, entry: EntryRef) -> bool {
        self.trimmed().contains(&entry)
    }

    /// Forgets trimmed entries that leave the memory.
    fn forget_trimmed(&self, entries: &[EntryRef]) {
        let mut trimmed = self.trimmed();
        if !trimmed.is_empty() {
            entries.iter().for_each(|entry| _ = trimmed.remove(entry));
        }
    }

    /// The entries of each stream.
    fn by_stream<T>(entries: &[T], stream_of: impl Fn(&T) -> usize) -> BTreeMap<usize, Vec<&T>> {
        let mut streams: BTreeMap<usize, Vec<&T>> = BTreeMap::new();
        for entry in entries {
            streams.entry(stream_of(entry)).or_default().push(entry);
        }
        streams
    }
}

#[async_trait]
impl EventSource for RedisSource {
    async fn read(&self, most: usize) -> Result<Vec<Received>> {
        self.read_new(most).await
    }

    async fn claim(&self, most: usize) -> Result<Vec<Received>> {
        self.prepare(&self.control).await?;
        let mut claimed = Vec::new();
        for (number, stream) in self.streams.shared() {
            let page = (most - claimed.len().min(most)).min(PAGE);
            if page == 0 {
                break;
            }
            let mut request = CLAIM.request();
            request.arg(1).arg(&stream.name).arg(&self.group).arg(&self.name);
            request.arg(millis(self.reclaim_after)).arg(page);
            let left: Vec<(String, u32, Value)> = self.call(&CLAIM, &request).await?;
            claimed.extend(entries::claimed(number, &stream.name, left));
        }
        Ok(claimed)
    }

    async fn acknowledge(&self, done: &[EntryRef]) -> Result<()> {
        for (number, entries) in Self::by_stream(done, |entry| entry.stream) {
            let stream = self.streams.get(number);
            for page in entries.chunks(PAGE) {
                let ids = page.iter().map(|entry| entry.id.to_string());
                if stream.is_retry {
                    let mut request = ACKNOWLEDGE.request();
                    request.arg(1).arg(&stream.name).arg(&self.group);
                    ids.for_each(|id| _ = request.arg(id));
                    let _: usize = self.call(&ACKNOWLEDGE, &request).await?;
                    continue;
                }
                let mut request = redis::cmd("XACK");
                request.arg(&stream.name).arg(&self.group);
                ids.for_each(|id| _ = request.arg(id));
                let _: usize = self.control.query(&request).await.map_err(|error| self.explain(&error))?;
            }
        }
        self.forget_trimmed(done);
        Ok(())
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<EntryRef>> {
        let mut lost = Vec::new();
        let given_back: Vec<EntryRef> =
            renewals.iter().filter(|renewal| !renewal.idle.is_zero()).map(|renewal| renewal.entry).collect();
        self.forget_trimmed(&given_back);
        let pending: Vec<Renewal> =
            renewals.iter().filter(|renewal| !self.is_trimmed(renewal.entry)).copied().collect();
        for (number, renewals) in Self::by_stream(&pending, |renewal| renewal.entry.stream) {
            let stream = self.streams.get(number);
            let Some((leases, fence)) = self.fence(number, &stream) else {
                lost.extend(renewals.iter().map(|renewal| renewal.entry));
                continue;
            };
            for page in renewals.chunks(PAGE) {
                let mut request = RENEW.request();
                request.arg(1 + usize::from(leases.is_some())).arg(&stream.name).arg(&leases);
                request.arg(&self.group).arg(&self.name).arg(&fence);
                for Renewal { entry, deliveries, idle } in page.iter().copied() {
                    request.arg(entry.id.to_string()).arg(millis(*idle)).arg(*deliveries);
                }
                let (others, trimmed): (Vec<String>, Vec<String>) = self.call(&RENEW, &request).await?;
                let entry = |id: &String| Some(EntryRef { stream: number, id: id.parse().ok()? });
                lost.extend(others.iter().filter_map(entry));
                if !trimmed.is_empty() {
                    tracing::warn!(
                        stream = stream.name,
                        entries = trimmed.len(),
                        "entries were trimmed while they are handled"
                    );
                    self.trimmed().extend(trimmed.iter().filter_map(entry));
                }
            }
        }
        Ok(lost)
    }

    async fn set_aside(&self, letter: &DeadLetter) -> Result<bool> {
        self.add_letter(letter).await
    }

    async fn backlogs(&self) -> Result<Vec<Backlog>> {
        self.read_backlogs().await
    }

    async fn leave(&self) -> Result<()> {
        for (_, stream) in self.streams.all() {
            let mut request = LEAVE.request();
            request.arg(1).arg(&stream.name).arg(&self.group).arg(&self.name).arg(millis(FORGOTTEN_AFTER));
            let _: usize = self.call(&LEAVE, &request).await?;
        }
        Ok(())
    }

    fn stream_name(&self, stream: usize) -> String {
        self.streams.get(stream).name.clone()
    }

    fn leases(&self) -> Option<&dyn StreamLeases> {
        Some(self)
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
