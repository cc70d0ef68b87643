//! `nats`: NATS JetStream, once.
//!
//! A batch of events is an atomic batch of JetStream, which stores all of its messages or none. Before the events it holds
//! the journal of each of their shards: the only message on a subject of its own, in the same stream. A write of it names the
//! sequence of the message that it replaces, so the session that wrote last fences all others; docs/nats.md shows the protocol.

mod batch;
mod connection;
mod errors;
mod inspection;
mod journal;
mod message;
#[cfg(feature = "bench-api")]
pub(crate) mod raw_stream;
#[cfg(feature = "consumer")]
pub(crate) mod source;
mod stream;
mod subject;
#[cfg(test)]
pub(crate) mod tests;
mod windowed;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_nats::Client;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageErrorKind};
use async_trait::async_trait;
use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use uuid::Uuid;

use self::batch::Encoded;
use self::connection::{Address, LastComplaint};
use self::errors::Refusal;
use self::journal::{Journal, Standing, Token};
use self::stream::{Stream, WantedStream};
use self::windowed::Windowed;
use super::BackendError;
use super::inspection::BackendFacts;
use super::session::{
    AtLeastOnce, BackendSession, BatchResult, JournalEntry, OutgoingEvent, SendResult, ShardsOpened, Unavailable,
    next_token,
};
use crate::settings::{ContentMode, PublisherSettings};
use crate::store::Shard;

/// How often an open is tried again when another session writes the journal meanwhile.
const TRIES: usize = 5;

/// One stream, as one worker writes to it.
pub(crate) struct Nats {
    address: Address,
    wanted: WantedStream,
    mode: ContentMode,
    outbox: Uuid,
    connection: Option<Connection>,
    journal: Journal,
}

struct Connection {
    client: Client,
    complaint: LastComplaint,
    sending: Sending,
}

/// How events are sent, as the server's version allows.
enum Sending {
    /// In atomic batches, with the journal.
    Once(Box<Stream>),
    /// One by one.
    Windowed(AtLeastOnce),
}

impl Nats {
    /// Reads the settings; nothing is connected before the first open.
    ///
    /// # Errors
    /// The setting that cannot be used.
    pub(crate) fn new(settings: &PublisherSettings, outbox: Uuid) -> Result<Self, String> {
        Ok(Self {
            address: Address::new(settings)?,
            wanted: WantedStream::new(settings)?,
            mode: settings.mode,
            outbox,
            connection: None,
            journal: Journal::default(),
        })
    }

    /// The session's connection; a new one if the last one has ended.
    async fn connect(&mut self) -> Result<(), BackendError> {
        if self.connection.is_some() {
            return Ok(());
        }
        let (client, complaint) = self.address.connect().await?;
        let is_atomic = client.is_server_compatible(2, 12, 0);
        let found = self.wanted.find(&client, &self.address.context(&client), is_atomic).await;
        let stream = found.map_err(|error| explained(error, &complaint))?;
        let sending = if is_atomic {
            Sending::Once(Box::new(stream))
        } else {
            tracing::warn!(
                stream = %self.wanted.name, version = %client.server_info().version,
                "this server has no atomic batches, which 2.12 brings: events are sent once within the stream's duplicate \
                 window, and at least once beyond it"
            );
            let backend = Windowed { client: client.clone(), wanted: self.wanted.clone(), stream, mode: self.mode };
            Sending::Windowed(AtLeastOnce::new(Arc::new(backend)))
        };
        self.connection = Some(Connection { client, complaint, sending });
        Ok(())
    }

    /// Ends the session: its shards must be opened again on a new connection.
    fn end(&mut self) {
        self.connection = None;
        self.journal.close_all();
    }

    async fn open_shards(&mut self, shards: &[(Shard, i64)], counter: i64) -> Result<ShardsOpened, BackendError> {
        self.connect().await?;
        let Some(Connection { client, complaint, sending }) = &mut self.connection else { return Err(not_connected()) };
        let stream = match sending {
            Sending::Once(stream) => stream,
            Sending::Windowed(session) => return session.open(shards).await,
        };
        let opening = Opening { client, stream, name: &self.wanted.name, outbox: self.outbox };
        let mut calls = Vec::with_capacity(shards.len());
        for (shard, epoch) in shards {
            calls.push(opening.open(shard, (*epoch, counter)));
        }
        let opened = try_join_all(calls).await.map_err(|error| explained(error, complaint))?;
        let mut all = ShardsOpened::default();
        for shard in opened {
            match shard {
                OpenedShard::Refused(shard, epoch) => all.refused.push((shard, epoch)),
                OpenedShard::Open { shard, token, sequence, sent } => {
                    self.journal.open(&self.wanted.name, self.outbox, &shard, token, sequence, &sent);
                    all.sent.extend(sent.into_iter().map(|(id, seq)| (shard.clone(), id, seq)));
                }
            }
        }
        Ok(all)
    }

    async fn send_parts(&mut self, outgoing: &[OutgoingEvent]) -> BatchResult {
        let shards = batch_shards(outgoing);
        let nothing =
            |closed| BatchResult { answers: vec![SendResult::NotSent; outgoing.len()], unavailable: None, closed };
        if !shards.iter().all(|shard| self.journal.is_open(shard)) {
            return nothing(shards);
        }
        let Some(Connection { sending: Sending::Once(stream), .. }) = &self.connection else { return nothing(shards) };
        let (mut answers, encoded) = batch::encode(outgoing, self.mode, &self.wanted.subject, stream);
        for part in batch::parts(&encoded) {
            match self.store(part).await {
                Ok(()) => part.iter().for_each(|event| answers[event.index] = SendResult::Accepted),
                Err(Refusal::Unavailable(unavailable)) => {
                    self.end();
                    return BatchResult { answers, unavailable: Some(unavailable), closed: shards };
                }
                // Another session has one of the shards, or the stream lost a journal: the next open shows which.
                Err(Refusal::Fenced | Refusal::Duplicate) => {
                    self.journal.close(&shards);
                    return BatchResult { answers, unavailable: None, closed: shards };
                }
            }
        }
        BatchResult { answers, unavailable: None, closed: Vec::new() }
    }

    /// Stores a part of a batch. If the stream has some of its events, though no journal named them, the others are stored.
    async fn store(&mut self, part: &[Encoded<'_>]) -> Result<(), Refusal> {
        match self.store_with_journal(part, true).await {
            Err(Refusal::Duplicate) => {}
            result => return result,
        }
        for event in part {
            match self.store_with_journal(std::slice::from_ref(event), true).await {
                Err(Refusal::Duplicate) => self.store_with_journal(std::slice::from_ref(event), false).await?,
                result => result?,
            }
        }
        Ok(())
    }

    /// Stores the journal of a part's shards, and its events unless the stream has them.
    async fn store_with_journal(&mut self, part: &[Encoded<'_>], with_events: bool) -> Result<(), Refusal> {
        let shards: BTreeSet<&Shard> = part.iter().map(|event| event.shard).collect();
        let events_of = |shard| part.iter().filter(move |event| event.shard == shard).map(|event| event.event);
        let mut messages = Vec::with_capacity(shards.len() + part.len());
        for shard in &shards {
            messages.push(self.journal.message(shard, events_of(*shard)).ok_or(Refusal::Fenced)?);
        }
        if with_events {
            messages.extend(part.iter().map(|event| event.message.clone()));
        }
        let first = self.store_messages(messages).await?;
        for (sequence, shard) in (first..).zip(&shards) {
            self.journal.record(shard, sequence, events_of(*shard));
        }
        Ok(())
    }

    async fn store_messages(&self, messages: Vec<message::Message>) -> Result<u64, Refusal> {
        let Some(Connection { client, complaint, .. }) = &self.connection else { return Err(Refusal::Fenced) };
        let limit = self.address.socket_timeout;
        let stored = match tokio::time::timeout(limit, batch::store(client, messages)).await {
            Ok(stored) => stored,
            Err(_) => {
                let reason = format!("NATS: no answer within {limit:?}");
                Err(Refusal::Unavailable(Unavailable::perhaps_by_an_event(reason)))
            }
        };
        stored.map_err(|refusal| match refusal {
            Refusal::Unavailable(Unavailable { reason, is_its_state }) => {
                Refusal::Unavailable(Unavailable { reason: with_complaint(reason, complaint), is_its_state })
            }
            other => other,
        })
    }

    /// Writes the journals that name settled events again, without those events.
    async fn rewrite_stale(&mut self) -> Result<(), Refusal> {
        let shards = self.journal.stale();
        let messages: Vec<_> =
            shards.iter().filter_map(|shard| self.journal.message(shard, std::iter::empty())).collect();
        if messages.is_empty() {
            return Ok(());
        }
        let first = self.store_messages(messages).await?;
        for (sequence, shard) in (first..).zip(&shards) {
            self.journal.record(shard, sequence, std::iter::empty());
        }
        Ok(())
    }

    async fn check(&mut self) -> Result<(), BackendError> {
        self.connect().await?;
        let Some(Connection { client, sending, complaint }) = &mut self.connection else { return Err(not_connected()) };
        match sending {
            Sending::Windowed(session) => session.health_check().await,
            Sending::Once(_) => {
                let found = self.wanted.find(client, &self.address.context(client), true).await;
                found.map(drop).map_err(|error| explained(error, complaint))
            }
        }
    }

    async fn read_entries(&mut self) -> Result<Vec<JournalEntry>, BackendError> {
        self.connect().await?;
        let Some(Connection { client, sending: Sending::Once(stream), .. }) = &self.connection else {
            return Ok(Vec::new());
        };
        let failed =
            |error: &(dyn std::error::Error + 'static)| errors::unavailable("journal", &errors::with_causes(error));
        let listing = stream.handle.info_with_subjects(subject::of_journals(&self.wanted.name)).await;
        let subjects: Vec<(String, usize)> =
            listing.map_err(|error| failed(&error))?.try_collect().await.map_err(|error| failed(&error))?;
        let opening = Opening { client, stream, name: &self.wanted.name, outbox: self.outbox };
        let mut entries = Vec::with_capacity(subjects.len());
        for (subject, _) in subjects {
            let Some((outbox, shard)) = subject::owner(&subject) else { continue };
            let Standing { sequence, sent, .. } = opening.read(&subject).await?;
            let mut value = Vec::new();
            sent.iter().for_each(|event| super::journal::push(&mut value, *event));
            let sent = (!sent.is_empty()).then_some(sent);
            entries.push(JournalEntry { outbox, shard, sent, field: format!("{subject} {sequence}"), value });
        }
        Ok(entries)
    }

    async fn remove_entries(&mut self, entries: &[JournalEntry]) -> Result<usize, BackendError> {
        self.connect().await?;
        let Some(Connection { sending: Sending::Once(stream), .. }) = &self.connection else { return Ok(0) };
        let mut removed = 0;
        for entry in entries {
            let sequence = entry.field.rsplit(' ').next().and_then(|sequence| sequence.parse().ok());
            let Some(sequence) = sequence else { continue };
            // A message that was replaced since is not there any more.
            let deleted = stream.handle.delete_message(sequence).await;
            removed += usize::from(deleted.unwrap_or(false));
        }
        Ok(removed)
    }

    fn windowed(&mut self) -> Option<&mut AtLeastOnce> {
        match &mut self.connection {
            Some(Connection { sending: Sending::Windowed(session), .. }) => Some(session),
            _ => None,
        }
    }
}

/// The result of opening one shard.
enum OpenedShard {
    /// The lease epoch of the newer token.
    Refused(Shard, i64),
    Open {
        shard: Shard,
        token: Token,
        sequence: u64,
        sent: Vec<(Uuid, i64)>,
    },
}

struct Opening<'a> {
    client: &'a Client,
    stream: &'a Stream,
    name: &'a str,
    outbox: Uuid,
}

impl Opening<'_> {
    /// Replaces the journal by one with our token, behind the very message that was read: no other session wrote in between.
    async fn open(&self, shard: &Shard, token: Token) -> Result<OpenedShard, BackendError> {
        let subject = subject::of_journal(self.name, self.outbox, shard);
        for _ in 0..TRIES {
            let standing = self.read(&subject).await?;
            if let Some((epoch, _)) = standing.token.filter(|other| *other >= token) {
                return Ok(OpenedShard::Refused(shard.clone(), epoch));
            }
            let mut value = Vec::new();
            standing.sent.iter().for_each(|event| super::journal::push(&mut value, *event));
            let message = journal::message(subject.clone(), token, standing.sequence, value);
            match batch::store_one(self.client, message).await {
                Ok(stored) => {
                    let (shard, sent) = (shard.clone(), standing.sent);
                    return Ok(OpenedShard::Open { shard, token, sequence: stored.sequence, sent });
                }
                Err(Refusal::Fenced | Refusal::Duplicate) => {}
                Err(Refusal::Unavailable(unavailable)) => return Err(unavailable.into()),
            }
        }
        Err(BackendError::Unavailable(format!("JetStream: other sessions write the journal of {subject} all the time")))
    }

    async fn read(&self, subject: &str) -> Result<Standing, BackendError> {
        match self.stream.handle.get_last_raw_message_by_subject(subject).await {
            Ok(message) => {
                let token = message.headers.get(journal::TOKEN).and_then(|token| journal::token(token.as_str()));
                let sent = super::journal::parse(&message.payload);
                Ok(Standing { sequence: message.sequence, token, sent })
            }
            Err(error) if is_empty(error.kind()) => Ok(Standing::default()),
            Err(error) => Err(errors::unavailable("journal", &errors::with_causes(&error))),
        }
    }
}

fn is_empty(kind: LastRawMessageErrorKind) -> bool {
    matches!(kind, RawMessageErrorKind::NoMessageFound)
}

fn not_connected() -> BackendError {
    BackendError::Unavailable("NATS: not connected".to_owned())
}

fn with_complaint(reason: String, complaint: &LastComplaint) -> String {
    match complaint.take() {
        Some(complaint) => format!("{reason} ({complaint})"),
        None => reason,
    }
}

fn explained(error: BackendError, complaint: &LastComplaint) -> BackendError {
    match error {
        BackendError::Unavailable(reason) => BackendError::Unavailable(with_complaint(reason, complaint)),
        other => other,
    }
}

fn batch_shards(outgoing: &[OutgoingEvent]) -> Vec<Shard> {
    let shards: BTreeSet<&Shard> = outgoing.iter().map(|event| &event.shard).collect();
    shards.into_iter().cloned().collect()
}

#[async_trait]
impl BackendSession for Nats {
    async fn open(&mut self, shards: &[(Shard, i64)]) -> Result<ShardsOpened, BackendError> {
        self.open_shards(shards, next_token()).await.inspect_err(|_| self.end())
    }

    async fn send(&mut self, outgoing: &[OutgoingEvent]) -> BatchResult {
        match self.windowed() {
            Some(session) => {
                let result = session.send(outgoing).await;
                if result.unavailable.is_some() {
                    self.end();
                }
                result
            }
            None => self.send_parts(outgoing).await,
        }
    }

    fn settled(&mut self, events: &[(Uuid, i64)]) {
        self.journal.settle(events);
    }

    async fn flush(&mut self) -> Result<(), BackendError> {
        match self.rewrite_stale().await {
            Ok(()) => Ok(()),
            Err(refusal) => {
                self.end();
                match refusal {
                    Refusal::Unavailable(unavailable) => Err(unavailable.into()),
                    Refusal::Fenced | Refusal::Duplicate => {
                        Err(BackendError::Unavailable("JetStream: another session has a shard".to_owned()))
                    }
                }
            }
        }
    }

    async fn health_check(&mut self) -> Result<(), BackendError> {
        self.check().await.inspect_err(|_| self.end())
    }

    async fn inspect(&mut self) -> Result<BackendFacts, BackendError> {
        self.read_facts().await.inspect_err(|_| self.end())
    }

    async fn entries(&mut self) -> Result<Vec<JournalEntry>, BackendError> {
        self.read_entries().await.inspect_err(|_| self.end())
    }

    async fn remove(&mut self, entries: &[JournalEntry]) -> Result<usize, BackendError> {
        self.remove_entries(entries).await.inspect_err(|_| self.end())
    }
}
