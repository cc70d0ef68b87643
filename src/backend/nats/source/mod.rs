//! A stream of JetStream as what a consumer reads.
//!
//! The group is a durable pull consumer of the stream. Its dead letters, those that were retried, and the number of tries of
//! entries that are delivered again are messages of a stream of its own, the *records*. An entry is a message: pending until it
//! is acknowledged, and delivered again, to any process of the group, once it was not renewed for `ack_wait`. The server does
//! not say which process has an entry, so a consumer counts one as lost that it has not renewed within `reclaim_after`, by its
//! own clock.

mod decoding;
mod group;
mod letters;
mod link;
mod pending;
mod reading;
mod records;
mod tail;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::stream::Stream;
use async_trait::async_trait;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use self::link::Cached;
use self::pending::{Pending, PendingEntry};
use self::reading::Delivered;
use super::connection::Address;
use crate::backend::event_source::{
    Backlog, Claimed, Content, DeadLetter, EntryRef, EventSource, Received, Refusals, Renewal, Renewed, SetAside,
    SourceUnavailable,
};
use crate::clock::BootInstant;
use crate::settings::{ConsumerSettings, PublisherSettings, StartAt};

/// The numbers of the streams: the events, and the dead letters that an operator has retried.
const EVENTS: usize = 0;
const RETRIED: usize = 1;

/// The deliveries of an entry that is delivered again and has no record: handlers may have begun with it.
const UNRECORDED: u32 = 1;

/// An entry that is given back is delivered after this time: a call of this process to read entries may still wait at the server.
const GIVEN_BACK_AFTER: Duration = Duration::from_millis(200);

/// Calls to the server at a time.
const AT_A_TIME: usize = 64;

/// What no name of a stream and no durable name may contain.
const NOT_IN_NAMES: &str = ".*>/\\ \t\r\n";

type Result<T, E = SourceUnavailable> = std::result::Result<T, E>;

/// One stream of events, as one process of a group reads it.
pub(crate) struct NatsSource {
    address: Address,
    /// The stream of events.
    stream: String,
    /// The stream of the group's records.
    records: String,
    group: String,
    /// This process.
    name: String,
    start: StartAt,
    may_create: bool,
    reclaim_after: Duration,
    patience: Duration,
    cached: Mutex<Cached>,
    connecting: tokio::sync::Mutex<()>,
    /// The group was there once, so it begins again at the first entry.
    had_group: AtomicBool,
    pending: Pending,
    unfinished: Mutex<Vec<Delivered>>,
}

impl NatsSource {
    /// Reads the settings; nothing is connected.
    ///
    /// # Errors
    /// The setting that cannot be used.
    pub(crate) fn new(
        server: &PublisherSettings,
        consumer: &ConsumerSettings,
        group: String,
        name: String,
    ) -> Result<Self, String> {
        let stream = match consumer.streams.as_slice() {
            [] => server.stream.clone(),
            [only] => only.clone(),
            _ => return Err("a consumer of NATS reads one stream: name one in `streams`, or none".to_owned()),
        };
        let records = consumer.dead_letters.replace("{stream}", &stream).replace("{group}", &group);
        for (what, name) in [("stream", &stream), ("group", &group), ("stream of dead letters", &records)] {
            if name.contains(|c| NOT_IN_NAMES.contains(c)) {
                return Err(format!("the name of the {what}, {name:?}, has a character that JetStream does not allow"));
            }
        }
        Ok(Self {
            address: Address::new(server)?,
            stream,
            records,
            group,
            name,
            start: consumer.start,
            may_create: consumer.create_group,
            reclaim_after: consumer.reclaim_after,
            patience: (consumer.socket_timeout / 2).clamp(Duration::from_millis(1), Duration::from_secs(1)),
            cached: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            had_group: AtomicBool::new(false),
            pending: Pending::default(),
            unfinished: Mutex::default(),
        })
    }

    /// Answers for a delivery, and waits until the server has noted the answer; `false` if it knows nothing of the delivery.
    async fn answer(&self, entry: EntryRef, pending: &PendingEntry, kind: AckKind) -> Result<bool> {
        let link = self.link().await?;
        if self.cached().group.as_ref().is_some_and(|group| group.created(entry.stream) != pending.of) {
            // The number may be that of another message by now.
            return Ok(false);
        }
        match link.client.request(pending.reply.clone(), kind.into()).await {
            Ok(_) => Ok(true),
            Err(error) if link::may_be_forgotten(&error) && self.is_forgotten(entry).await? => Ok(false),
            Err(error) => Err(self.failed("an entry is not answered for", &error)),
        }
    }

    /// Renews an entry, or gives it back; `false` if it may be another consumer's.
    async fn renew_one(&self, renewal: Renewal) -> Result<bool> {
        let asked = BootInstant::now();
        let Some(entry) = self.pending.get(renewal.entry, asked, self.reclaim_after) else { return Ok(false) };
        let gives_back = !renewal.idle.is_zero();
        let kind = if gives_back { AckKind::Nak(Some(GIVEN_BACK_AFTER)) } else { AckKind::Progress };
        let is_ours = self.answer(renewal.entry, &entry, kind).await?;
        match gives_back || !is_ours {
            true => self.pending.remove(renewal.entry),
            false => self.pending.confirm(renewal.entry, asked),
        }
        Ok(is_ours)
    }

    /// Records the deliveries of an entry, if they are not what the next process would take them for.
    async fn record_deliveries(&self, renewal: Renewal) -> Result<()> {
        let Some(entry) = self.pending.get(renewal.entry, BootInstant::now(), self.reclaim_after) else {
            return Ok(());
        };
        let recorded = entry.recorded.unwrap_or(UNRECORDED);
        // Calls may overlap: only an entry that is given back may have fewer than before.
        let is_new =
            if renewal.idle.is_zero() { renewal.deliveries > recorded } else { renewal.deliveries != recorded };
        if is_new { self.record_tries(renewal.entry, &entry, renewal.deliveries).await } else { Ok(()) }
    }

    /// Acknowledges an entry; one that is not known was given back, or taken by another consumer long ago.
    async fn acknowledge_one(&self, entry: EntryRef) -> Result<()> {
        let Some(pending) = self.pending.any(entry) else { return Ok(()) };
        self.answer(entry, &pending, AckKind::Ack).await?;
        self.pending.remove(entry);
        self.forget_records(entry, &pending).await;
        Ok(())
    }

    async fn stream(&self, number: usize) -> Result<Stream> {
        let link = self.link().await?;
        if number == RETRIED {
            return self.existing_records(&link).await?.ok_or_else(|| SourceUnavailable(self.no_records()));
        }
        self.events(&link).await
    }
}

#[async_trait]
impl EventSource for NatsSource {
    async fn read(&self, most: usize) -> Result<Vec<Received>> {
        self.read_new(most).await
    }

    /// The server delivers what was left with what is new.
    async fn claim(&self, _: usize) -> Result<Claimed> {
        Ok(Claimed::default())
    }

    async fn load(&self, entries: &[EntryRef]) -> Result<Result<Vec<Option<Content>>>> {
        let Some(first) = entries.first() else { return Ok(Ok(Vec::new())) };
        let stream = &self.stream(first.stream).await?;
        let contents = stream::iter(entries.to_vec()).map(|entry| self.read_again(stream, entry)).buffered(AT_A_TIME);
        Ok(Ok(contents.try_collect().await?))
    }

    async fn acknowledge(&self, entries: &[EntryRef]) -> Result<Refusals> {
        let calls = stream::iter(entries.to_vec()).map(|entry| self.acknowledge_one(entry));
        calls.buffer_unordered(AT_A_TIME).try_collect::<()>().await?;
        Ok(Refusals::new())
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Renewed> {
        let records = stream::iter(renewals.to_vec()).map(|renewal| self.record_deliveries(renewal));
        records.buffer_unordered(AT_A_TIME).try_collect::<()>().await?;
        // In their order, which those that are given back have for the next process.
        let calls = stream::iter(renewals.to_vec()).map(|renewal| self.renew_one(renewal));
        let are_ours: Vec<bool> = calls.buffered(AT_A_TIME).try_collect().await?;
        let lost = renewals.iter().zip(are_ours).filter(|(_, is_ours)| !is_ours).map(|(renewal, _)| renewal.entry);
        let lost = lost.collect();
        Ok(Renewed { lost, refused: Refusals::new() })
    }

    async fn set_aside(&self, letter: &DeadLetter) -> Result<SetAside> {
        self.add_letter(letter).await
    }

    async fn backlogs(&self) -> Result<Vec<Backlog>> {
        self.read_backlogs().await
    }

    /// Ends the connection: what the server was asked for is not delivered to it any more.
    async fn leave(&self) -> Result<()> {
        *self.cached() = Cached::default();
        Ok(())
    }

    /// No call is refused for one of the streams alone.
    fn rest(&self, _: &BTreeSet<usize>) {}

    fn refusing(&self) -> Option<SourceUnavailable> {
        None
    }

    fn stream_name(&self, stream: usize) -> String {
        if stream == RETRIED { self.records.clone() } else { self.stream.clone() }
    }
}
