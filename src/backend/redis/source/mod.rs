//! Streams as a consumer reads them: as one of a group, whose entries are pending until they are acknowledged.
//!
//! Three connections: one waits for new entries of shared streams, one for those of partitions, which are [leased](leases), and
//! one does everything else.

mod backlog;
mod dead;
mod entries;
pub(crate) mod glob;
pub(crate) mod groups;
mod leases;
mod letters_template;
mod link;
mod read_limit;
mod reading;
mod resting;
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
use self::read_limit::ReadLimit;
use self::resting::Resting;
use self::streams::{SourceStream, SourceStreams};

use super::Script;
use crate::backend::event_source::{
    Backlog, Claimed, Content, DeadLetter, EntryRef, EventSource, Received, Refusals, Renewal, Renewed, SetAside,
    SourceUnavailable, StreamLeases,
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
    limit: ReadLimit,
    group: String,
    /// This consumer's name in the group.
    name: String,
    reclaim_after: Duration,
    /// How long a read waits for the first entry.
    patience: Duration,
    /// Streams that are not read for a while.
    resting: Resting,
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
            limit: ReadLimit::default(),
            group,
            name,
            reclaim_after: consumer.reclaim_after,
            resting: Resting::default(),
            trimmed: Mutex::default(),
            patience: patience(consumer.socket_timeout),
        })
    }

    /// After a read that asked for this many entries.
    fn note_late(&self, asked: usize, error: &LinkError) {
        if error.is_late() {
            self.limit.was_late(asked);
        }
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
    fn forget_trimmed(&self, entries: impl IntoIterator<Item = EntryRef>) {
        let mut trimmed = self.trimmed();
        if !trimmed.is_empty() {
            entries.into_iter().for_each(|entry| _ = trimmed.remove(&entry));
        }
    }

    async fn acknowledge_in(&self, stream: &SourceStream, entries: &[&EntryRef]) -> Result<(), LinkError> {
        for page in entries.chunks(PAGE) {
            let ids = page.iter().map(|entry| entry.id.to_string());
            if stream.is_retry {
                let mut request = ACKNOWLEDGE.request();
                request.arg(1).arg(&stream.name).arg(&self.group);
                ids.for_each(|id| _ = request.arg(id));
                let _: usize = self.control.call(&ACKNOWLEDGE, &request).await?;
                continue;
            }
            let mut request = redis::cmd("XACK");
            request.arg(&stream.name).arg(&self.group);
            ids.for_each(|id| _ = request.arg(id));
            let _: usize = self.control.query(&request).await?;
        }
        Ok(())
    }

    /// Renews entries of one stream; returns those that are not this consumer's any more.
    async fn renew_in(&self, number: usize, renewals: &[&Renewal]) -> Result<Vec<EntryRef>, LinkError> {
        let stream = self.streams.get(number);
        let Some((leases, fence)) = self.fence(number, &stream) else {
            return Ok(renewals.iter().map(|renewal| renewal.entry).collect());
        };
        let mut lost = Vec::new();
        for page in renewals.chunks(PAGE) {
            let mut request = RENEW.request();
            request.arg(1 + usize::from(leases.is_some())).arg(&stream.name).arg(&leases);
            request.arg(&self.group).arg(&self.name).arg(&fence);
            for Renewal { entry, deliveries, idle } in page.iter().copied() {
                request.arg(entry.id.to_string()).arg(millis(*idle)).arg(*deliveries);
            }
            let (others, trimmed): (Vec<String>, Vec<String>) = self.control.call(&RENEW, &request).await?;
            let entry = |id: &String| Some(EntryRef { stream: number, id: id.parse().ok()? });
            lost.extend(others.iter().filter_map(entry));
            if !trimmed.is_empty() {
                let entries = trimmed.len();
                tracing::warn!(stream = stream.name, entries, "entries were trimmed while they are handled");
                self.trimmed().extend(trimmed.iter().filter_map(entry));
            }
        }
        Ok(lost)
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

    async fn claim(&self, most: usize) -> Result<Claimed> {
        self.prepare(&self.control).await?;
        let mut claimed = Claimed::default();
        for (number, stream) in self.awake(self.streams.shared()).await? {
            let page = self.limit.of(most.saturating_sub(claimed.entries.len()).min(PAGE));
            if page == 0 {
                claimed.may_be_more = true;
                break;
            }
            let mut request = CLAIM.request();
            request.arg(1).arg(&stream.name).arg(&self.group).arg(&self.name);
            request.arg(millis(self.reclaim_after)).arg(page);
            match self.control.call::<Vec<(String, u32, Value)>>(&CLAIM, &request).await {
                Ok(left) => {
                    self.limit.was_in_time(left.len());
                    claimed.may_be_more |= left.len() >= page;
                    claimed.entries.extend(entries::claimed(number, &stream.name, left));
                }
                Err(error) => {
                    self.note_late(page, &error);
                    self.refusal(number, &error)?;
                }
            }
        }
        Ok(claimed)
    }

    async fn load(&self, entries: &[EntryRef]) -> Result<Result<Vec<Option<Content>>>> {
        self.read_again(entries).await
    }

    async fn acknowledge(&self, done: &[EntryRef]) -> Result<Refusals> {
        let mut refused = Refusals::new();
        for (number, entries) in Self::by_stream(done, |entry| entry.stream) {
            match self.acknowledge_in(&self.streams.get(number), &entries).await {
                Ok(()) => self.forget_trimmed(entries.into_iter().copied()),
                Err(error) => _ = refused.insert(number, self.refusal(number, &error)?),
            }
        }
        Ok(refused)
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Renewed> {
        let mut renewed = Renewed::default();
        let given_back = renewals.iter().filter(|renewal| !renewal.idle.is_zero());
        self.forget_trimmed(given_back.map(|renewal| renewal.entry));
        let pending: Vec<Renewal> =
            renewals.iter().filter(|renewal| !self.is_trimmed(renewal.entry)).copied().collect();
        for (number, renewals) in Self::by_stream(&pending, |renewal| renewal.entry.stream) {
            match self.renew_in(number, &renewals).await {
                Ok(lost) => renewed.lost.extend(lost),
                Err(error) => _ = renewed.refused.insert(number, self.refusal(number, &error)?),
            }
        }
        Ok(renewed)
    }

    async fn set_aside(&self, letter: &DeadLetter) -> Result<SetAside> {
        self.add_letter(letter).await
    }

    async fn backlogs(&self) -> Result<Vec<Backlog>> {
        self.read_backlogs().await
    }

    async fn leave(&self) -> Result<()> {
        for (number, stream) in self.streams.all() {
            let mut request = LEAVE.request();
            request.arg(1).arg(&stream.name).arg(&self.group).arg(&self.name).arg(millis(FORGOTTEN_AFTER));
            if let Err(error) = self.control.call::<usize>(&LEAVE, &request).await {
                self.refusal(number, &error)?;
            }
        }
        Ok(())
    }

    fn rest(&self, streams: &BTreeSet<usize>) {
        streams.iter().for_each(|stream| self.resting.extend(*stream, &self.stream_name(*stream)));
    }

    fn refusing(&self) -> Option<SourceUnavailable> {
        self.resting.reason()
    }

    fn stream_name(&self, stream: usize) -> String {
        self.streams.get(stream).name.clone()
    }

    fn leases(&self) -> Option<&dyn StreamLeases> {
        Some(self)
    }
}

/// How long a read waits, so that the answer comes in time. 0 ms would be for ever.
fn patience(socket_timeout: Duration) -> Duration {
    (socket_timeout / 2).clamp(Duration::from_millis(1), Duration::from_secs(1))
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
