//! Reading new entries, and those that were not renewed in time.

use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::Batch;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{AckKind, Message};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::pending::PendingEntry;
use super::records::{Kind, number_of};
use super::{AT_A_TIME, EVENTS, NatsSource, RETRIED, Result, decoding};
use crate::backend::event_source::{Content, EntryId, EntryRef, Received, SourceUnavailable};
use crate::clock::BootInstant;

/// The most entries of one read.
const MOST: usize = 1_000;

/// How much longer than the server a read waits.
const LONGER: Duration = Duration::from_secs(1);

impl NatsSource {
    /// Messages whose delivery is lost are delivered again after `ack_wait`.
    pub(super) async fn read_new(&self, most: usize) -> Result<Vec<Received>> {
        let group = self.group().await?;
        let (most, asked) = (most.clamp(1, MOST), BootInstant::now());
        let (events, retried) = tokio::try_join!(self.pull(&group.events, most), self.pull(&group.retried, most))?;
        if events.is_empty() && retried.is_empty() {
            let asked = BootInstant::now();
            let first = self.pull_first(&group.events).await?;
            return self.received(EVENTS, first, asked).await;
        }
        let mut all = self.received(EVENTS, events, asked).await?;
        all.extend(self.received(RETRIED, retried, asked).await?);
        Ok(all)
    }

    /// The messages that the server has now.
    async fn pull(&self, consumer: &PullConsumer, most: usize) -> Result<Vec<Message>> {
        let batch = consumer.fetch().max_messages(most).messages().await;
        let batch = batch.map_err(|error| self.failed("entries are not read", &error))?;
        self.collect(batch, Instant::now() + self.address.socket_timeout).await
    }

    /// The next message, unless there is none for a moment.
    async fn pull_first(&self, consumer: &PullConsumer) -> Result<Vec<Message>> {
        let batch = consumer.batch().max_messages(1).expires(self.patience).messages().await;
        let batch = batch.map_err(|error| self.failed("entries are not read", &error))?;
        self.collect(batch, Instant::now() + self.patience + LONGER).await
    }

    /// What has come of a batch until it ends. After an error that is what counts: these messages are pending.
    async fn collect(&self, mut batch: Batch, limit: Instant) -> Result<Vec<Message>> {
        let mut messages = Vec::new();
        let error = loop {
            match tokio::time::timeout_at(limit, batch.next()).await {
                Ok(Some(Ok(message))) => messages.push(message),
                Ok(Some(Err(error))) => break self.failed("entries are not read", &*error),
                Ok(None) => return Ok(messages),
                Err(late) => break self.failed("entries are not read", &late),
            }
        };
        if messages.is_empty() { Err(error) } else { Ok(messages) }
    }

    /// The entries of deliveries, without those that are dead letters already.
    async fn received(&self, stream: usize, messages: Vec<Message>, asked: BootInstant) -> Result<Vec<Received>> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let is_again = |message: &Message| message.info().is_ok_and(|info| info.delivered > 1);
        let records = match messages.iter().any(is_again) {
            true => self.existing_records(&*self.link().await?).await?,
            false => None,
        };
        let records = records.as_ref();
        let all = stream::iter(messages).map(|message| self.receive(stream, message, records, asked));
        let all: Vec<Option<Received>> = all.buffered(AT_A_TIME).try_collect().await?;
        Ok(all.into_iter().flatten().collect())
    }

    async fn receive(
        &self,
        stream: usize,
        message: Message,
        records: Option<&Stream>,
        asked: BootInstant,
    ) -> Result<Option<Received>> {
        let Some((entry, delivered)) = entry_of(stream, &message) else { return Ok(None) };
        let Message { message, .. } = message;
        let Some(reply) = message.reply else { return Ok(None) };
        let origin = if stream == RETRIED { number_of(&message.subject) } else { Some(entry.id.number) };
        let mut pending = PendingEntry { reply, origin: origin.unwrap_or(0), recorded: None, confirmed: asked };
        if let Some(records) = records.filter(|_| delivered > 1) {
            if self.is_set_aside(records, pending.origin).await? {
                // The process that moved it died before it acknowledged it.
                self.answer(entry, &pending, AckKind::Ack).await?;
                self.forget_records(entry, &pending).await?;
                return Ok(None);
            }
            pending.recorded = self.recorded_tries(records, pending.origin).await?;
        }
        let deliveries = pending.recorded.unwrap_or(1);
        self.pending.add(entry, pending);
        let headers = message.headers.unwrap_or_default();
        let Content { bytes, event } = decoding::content(&headers, &message.payload, entry.id);
        Ok(Some(Received { entry, deliveries, is_claimed: delivered > 1, lease: None, bytes, event }))
    }

    async fn is_set_aside(&self, records: &Stream, origin: u64) -> Result<bool> {
        Ok(self.last_message(records, &self.subject(Kind::Dead, origin)).await?.is_some())
    }

    /// Reads the message of an entry again; `None`: it is not there any more.
    pub(super) async fn read_again(
        &self,
        stream: &Stream,
        entry: EntryRef,
    ) -> Result<Option<Content>, SourceUnavailable> {
        let message = self.message(stream, entry.id.number).await?;
        Ok(message.map(|message| decoding::content(&message.headers, &message.payload, entry.id)))
    }
}

/// The entry of a delivery, and how often it was delivered.
fn entry_of(stream: usize, message: &Message) -> Option<(EntryRef, i64)> {
    let info = message.info().ok()?;
    let millis = u64::try_from(info.published.timestamp_millis()).unwrap_or(0);
    Some((EntryRef { stream, id: EntryId { millis, number: info.stream_sequence } }, info.delivered))
}
