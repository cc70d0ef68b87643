//! Dead letters: messages of the records, with the entry's own content and headers.

use async_nats::HeaderMap;
use async_nats::jetstream::AckKind;
use async_nats::jetstream::message::StreamMessage;
use async_trait::async_trait;
use bytes::Bytes;
use percent_encoding::{percent_decode_str, utf8_percent_encode};

use super::decoding::{event, text_of};
use super::records::{Kind, all_of, id_of, origin_of};
use super::{NatsSource, Result};
use crate::backend::event_source::{DeadLetter, EntryId, LetterStore, SetAside, StoredLetter};
use crate::backend::nats::message::{ENCODED, Message};
use crate::backend::nats::subject::SubjectTemplate;
use crate::clock::BootInstant;
use crate::settings::ContentMode;

const CONSUMER: &str = "outbox-dead-consumer";
const DELIVERIES: &str = "outbox-dead-deliveries";
const REASON: &str = "outbox-dead-reason";

/// The headers that mean something to a server.
const OF_SERVERS: &str = "nats-";
const OF_LETTERS: &str = "outbox-dead-";

impl NatsSource {
    /// Stores the letter and acknowledges its entry. A process that dies between leaves an entry that is delivered again: the
    /// letter says then that it is done.
    pub(super) async fn add_letter(&self, letter: &DeadLetter) -> Result<SetAside> {
        let Some(pending) = self.pending.get(letter.entry, BootInstant::now(), self.reclaim_after) else {
            return Ok(SetAside::Lost);
        };
        let stream = self.stream(letter.entry.stream).await?;
        let (mut headers, payload) = match self.message(&stream, letter.entry.id).await? {
            Some(message) => (without(&message.headers, OF_LETTERS), message.payload),
            // It was trimmed while it was handled.
            None => encoded_again(letter),
        };
        let encoded = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
        headers.insert(CONSUMER, encoded(&self.name));
        headers.insert(DELIVERIES, letter.deliveries.to_string());
        headers.insert(REASON, encoded(&letter.reason));
        if self.pending.get(letter.entry, BootInstant::now(), self.reclaim_after).is_none() {
            return Ok(SetAside::Lost);
        }
        self.write_record(self.subject(Kind::Dead, pending.origin), headers, payload).await?;
        self.answer(letter.entry, &pending, AckKind::Ack).await?;
        self.pending.remove(letter.entry);
        self.forget_records(letter.entry, &pending).await;
        Ok(SetAside::Moved)
    }

    fn stored(&self, message: StreamMessage) -> Option<StoredLetter> {
        let id = id_of(&message);
        let StreamMessage { subject, headers, payload, .. } = message;
        let origin = origin_of(&subject).filter(|origin| self.subject(Kind::Dead, *origin) == *subject)?;
        let text = |name: &str| {
            let text = text_of(&headers, name).unwrap_or_default();
            percent_decode_str(text).decode_utf8_lossy().into_owned()
        };
        let own = without(&headers, OF_LETTERS);
        Some(StoredLetter {
            dead: self.records.clone(),
            id,
            stream: self.stream.clone(),
            entry: origin.to_string(),
            consumer: text(CONSUMER),
            deliveries: text(DELIVERIES).parse().unwrap_or(0),
            reason: text(REASON),
            fields: own.iter().map(|(name, _)| name.to_string()).collect(),
            event: event(&own, &payload, id).map(std::sync::Arc::new),
        })
    }

    /// Gives a letter to the group again. A process that dies between both steps leaves the letter, and another call repeats the
    /// first.
    async fn retry(&self, letter: StreamMessage) -> Result<bool> {
        let Some(origin) = origin_of(&letter.subject) else { return Ok(false) };
        let (id, headers) = (id_of(&letter), without(&letter.headers, OF_LETTERS));
        // Its deliveries begin again.
        self.purge(&self.subject(Kind::Tries, origin)).await?;
        self.write_record(self.subject(Kind::Retry, origin), headers, letter.payload).await?;
        self.delete(id, &letter.subject).await
    }

    /// The message of a dead letter.
    async fn letter_message(&self, id: EntryId) -> Result<Option<StreamMessage>> {
        let Some(records) = self.existing_records(&*self.link().await?).await? else { return Ok(None) };
        let is_letter = |message: &StreamMessage| {
            origin_of(&message.subject).is_some_and(|origin| self.subject(Kind::Dead, origin) == *message.subject)
        };
        Ok(self.message(&records, id).await?.filter(is_letter))
    }
}

#[async_trait]
impl LetterStore for NatsSource {
    async fn dead_streams(&self) -> Result<Vec<String>> {
        Ok(vec![self.records.clone()])
    }

    async fn count_letters(&self, _: &str) -> Result<u64> {
        match self.existing_records(&*self.link().await?).await? {
            Some(records) => self.count(&records, Kind::Dead).await,
            None => Ok(0),
        }
    }

    async fn letters(&self, _: &str, after: Option<EntryId>, most: usize) -> Result<Vec<StoredLetter>> {
        let Some(records) = self.existing_records(&*self.link().await?).await? else { return Ok(Vec::new()) };
        let (subjects, mut next) = (all_of(&self.records, Kind::Dead), after.map_or(1, |after| after.number + 1));
        let mut letters = Vec::new();
        while letters.len() < most {
            let Some(message) = self.next_message(&records, &subjects, next).await? else { break };
            next = message.sequence + 1;
            letters.extend(self.stored(message));
        }
        Ok(letters)
    }

    async fn letter(&self, _: &str, id: EntryId) -> Result<Option<StoredLetter>> {
        Ok(self.letter_message(id).await?.and_then(|message| self.stored(message)))
    }

    async fn retry_letters(&self, _: &str, ids: &[EntryId]) -> Result<Vec<EntryId>> {
        let mut retried = Vec::new();
        for id in ids {
            if let Some(letter) = self.letter_message(*id).await?
                && self.retry(letter).await?
            {
                retried.push(*id);
            }
        }
        Ok(retried)
    }

    async fn delete_letters(&self, _: &str, ids: &[EntryId]) -> Result<Vec<EntryId>> {
        let mut deleted = Vec::new();
        for id in ids {
            if let Some(letter) = self.letter_message(*id).await?
                && self.delete(id_of(&letter), &letter.subject).await?
            {
                deleted.push(*id);
            }
        }
        Ok(deleted)
    }
}

/// The message of an event; nothing if there is none.
fn encoded_again(letter: &DeadLetter) -> (HeaderMap, Bytes) {
    let template = SubjectTemplate::new("{type}").ok();
    let message = letter.event.as_ref().zip(template).and_then(|(event, template)| {
        let message = Message::new(ContentMode::Structured, &template, event).ok()?;
        Some((without(&message.headers, OF_LETTERS), message.payload))
    });
    message.unwrap_or_default()
}

/// The headers of a message that is stored again, without those of servers and those that begin like this.
fn without(headers: &HeaderMap, start: &str) -> HeaderMap {
    let begins =
        |name: &str, start: &str| name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start));
    let mut kept = HeaderMap::new();
    for (name, values) in headers.iter() {
        let text: &str = name.as_ref();
        if !begins(text, OF_SERVERS) && !begins(text, start) {
            values.iter().for_each(|value| kept.append(name.clone(), value.clone()));
        }
    }
    kept
}
