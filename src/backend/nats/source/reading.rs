//! Reading new entries, and those that were not renewed in time.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::Batch;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{AckKind, Message};
use chrono::{DateTime, Utc};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::pending::PendingEntry;
use super::records::{Kind, origin_of};
use super::{AT_A_TIME, EVENTS, NatsSource, RETRIED, Result, UNRECORDED, decoding};
use crate::backend::event_source::{Content, EntryId, EntryRef, EventSource, Received, SourceUnavailable};
use crate::backend::nats::subject::is_of_journals;
use crate::clock::BootInstant;

/// The most entries of one read.
const MOST: usize = 1_000;

/// How much longer than the server a read waits.
const LONGER: Duration = Duration::from_secs(1);

/// Deliveries of one of the streams.
#[derive(Clone)]
pub(super) struct Delivered {
    stream: usize,
    messages: Vec<Message>,
    /// When the call began that read them.
    asked: BootInstant,
    /// When the server's consumer was created.
    of: DateTime<Utc>,
}

impl NatsSource {
    /// Messages whose delivery is lost are delivered again after `ack_wait`.
    pub(super) async fn read_new(&self, most: usize) -> Result<Vec<Received>> {
        // Later, the server may have given them to others before this consumer would notice.
        let now = BootInstant::now();
        self.unfinished().retain(|delivered| now.since(delivered.asked) * 3 < self.reclaim_after);
        if self.unfinished().is_empty() {
            self.pull_all(most.clamp(1, MOST)).await?;
        }
        // Later ones of the same keys are read after these.
        let mut all = Vec::new();
        loop {
            let Some(delivered) = self.unfinished().first().cloned() else { return Ok(all) };
            match self.received(delivered).await {
                Ok(received) => all.extend(received),
                Err(error) if all.is_empty() => return Err(error),
                Err(_) => return Ok(all),
            }
            self.unfinished().remove(0);
        }
    }

    fn unfinished(&self) -> MutexGuard<'_, Vec<Delivered>> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what the server has now, or the next message, unless there is none for a moment.
    async fn pull_all(&self, most: usize) -> Result<()> {
        let group = self.group().await?;
        let asked = BootInstant::now();
        let (events, retried) = tokio::join!(self.pull(&group.events, most), self.pull(&group.retried, most));
        let delivered = |stream, messages, asked| Delivered { stream, messages, asked, of: group.created(stream) };
        let (mut all, mut problem) = (Vec::new(), None);
        for (stream, read) in [(EVENTS, events), (RETRIED, retried)] {
            match read {
                Ok(messages) if messages.is_empty() => {}
                Ok(messages) => all.push(delivered(stream, messages, asked)),
                Err(error) => problem = Some(error),
            }
        }
        if let (Some(problem), true) = (problem, all.is_empty()) {
            return Err(problem);
        }
        if all.is_empty() {
            let asked = BootInstant::now();
            let first = self.pull_first(&group.events).await?;
            all.push(delivered(EVENTS, first, asked));
        }
        *self.unfinished() = all;
        Ok(())
    }

    async fn pull(&self, consumer: &PullConsumer, most: usize) -> Result<Vec<Message>> {
        let batch = consumer.fetch().max_messages(most).messages().await;
        let batch = batch.map_err(|error| self.failed("entries are not read", &error))?;
        self.collect(batch, self.address.socket_timeout).await
    }

    async fn pull_first(&self, consumer: &PullConsumer) -> Result<Vec<Message>> {
        let batch = consumer.batch().max_messages(1).expires(self.patience).messages().await;
        let batch = batch.map_err(|error| self.failed("entries are not read", &error))?;
        self.collect(batch, self.patience + LONGER).await
    }

    /// What has come of a batch until it ends. After an error that is what counts: these messages are pending.
    async fn collect(&self, mut batch: Batch, limit: Duration) -> Result<Vec<Message>> {
        let mut messages = Vec::new();
        loop {
            match tokio::time::timeout(limit, batch.next()).await {
                Ok(Some(Ok(message))) => messages.push(message),
                Ok(None) => return Ok(messages),
                _ if !messages.is_empty() => return Ok(messages),
                Ok(Some(Err(error))) => return Err(self.failed("entries are not read", &*error)),
                Err(late) => return Err(self.failed("entries are not read", &late)),
            }
        }
    }

    /// The entries of deliveries, without those that are dead letters already.
    async fn received(&self, delivered: Delivered) -> Result<Vec<Received>> {
        let Delivered { stream, messages, asked, of } = delivered;
        let is_again = |message: &Message| message.info().is_ok_and(|info| info.delivered > 1);
        let records = match messages.iter().any(is_again) {
            true => self.existing_records(&*self.link().await?).await?,
            false => None,
        };
        let records = records.as_ref();
        let all = stream::iter(messages).map(|message| self.receive(stream, message, records, (asked, of)));
        let all: Vec<Option<Received>> = all.buffered(AT_A_TIME).try_collect().await?;
        Ok(all.into_iter().flatten().collect())
    }

    async fn receive(
        &self,
        stream: usize,
        message: Message,
        records: Option<&Stream>,
        (asked, of): (BootInstant, DateTime<Utc>),
    ) -> Result<Option<Received>> {
        let Some((entry, delivered)) = entry_of(stream, &message) else { return Ok(None) };
        let Message { message, .. } = message;
        let Some(reply) = message.reply else { return Ok(None) };
        let origin = if stream == RETRIED { origin_of(&message.subject) } else { None };
        let origin = origin.unwrap_or(entry.id);
        let mut pending = PendingEntry { reply, origin, recorded: None, of, confirmed: asked };
        if is_of_journals(&message.subject) {
            // A mirror of a stream has no subjects to filter by.
            self.answer(entry, &pending, AckKind::Ack).await?;
            return Ok(None);
        }
        if let Some(records) = records.filter(|_| delivered > 1) {
            if self.is_set_aside(records, entry, pending.origin).await? {
                // The process that moved it died before it acknowledged it.
                self.answer(entry, &pending, AckKind::Ack).await?;
                self.forget_records(entry, &pending).await;
                return Ok(None);
            }
            pending.recorded = self.recorded_tries(records, pending.origin).await?;
        }
        let deliveries = pending.recorded.unwrap_or(UNRECORDED);
        self.pending.add(entry, pending);
        let headers = message.headers.unwrap_or_default();
        let Content { bytes, event } = decoding::content(&headers, &message.payload, entry.id);
        Ok(Some(Received { entry, deliveries, is_claimed: delivered > 1, lease: None, bytes, event }))
    }

    /// Whether an entry has a dead letter. One that is older than the record of its retry is what an operator is retrying.
    async fn is_set_aside(&self, records: &Stream, entry: EntryRef, origin: EntryId) -> Result<bool> {
        let letter = self.last_message(records, &self.subject(Kind::Dead, origin)).await?;
        Ok(letter.is_some_and(|letter| entry.stream != RETRIED || letter.sequence > entry.id.number))
    }

    /// Reads the message of an entry again; `None`: it is not there any more.
    pub(super) async fn read_again(
        &self,
        stream: &Stream,
        entry: EntryRef,
    ) -> Result<Option<Content>, SourceUnavailable> {
        let message = self.message(stream, entry.id).await?;
        if message.is_none() {
            let stream = self.stream_name(entry.stream);
            tracing::warn!(stream, entry = %entry.id, "an entry was trimmed before it was handled");
            crate::metrics::consumer_trimmed(&stream);
        }
        Ok(message.map(|message| decoding::content(&message.headers, &message.payload, entry.id)))
    }
}

/// The entry of a delivery, and how often it was delivered.
fn entry_of(stream: usize, message: &Message) -> Option<(EntryRef, i64)> {
    let info = message.info().ok()?;
    let millis = u64::try_from(info.published.timestamp_millis()).unwrap_or(0);
    Some((EntryRef { stream, id: EntryId { millis, number: info.stream_sequence } }, info.delivered))
}
