//! The group's records, one message of each subject: `STREAM.dead.ID` is the dead letter of an entry, `STREAM.retry.ID` one that
//! an operator has retried, and `STREAM.tries.ID` how often handlers began with it, once it is delivered again. The id has the
//! time of the entry's message and its number: the numbers begin again in a stream that is deleted and created again.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{RawMessageError, RawMessageErrorKind, Stream};
use bytes::Bytes;
use futures_util::TryStreamExt;

use super::pending::PendingEntry;
use super::{NatsSource, RETRIED, Result};
use crate::backend::event_source::{EntryId, EntryRef};

/// How long tries are remembered that were not removed, because a process died between an acknowledgement and the removal.
const REMEMBERED_FOR: Duration = Duration::from_secs(7 * 86_400);

#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Dead,
    Retry,
    Tries,
}

impl Kind {
    fn token(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Retry => "retry",
            Self::Tries => "tries",
        }
    }
}

pub(super) fn subjects_of(records: &str) -> String {
    format!("{records}.>")
}

pub(super) fn all_of(records: &str, kind: Kind) -> String {
    format!("{records}.{}.*", kind.token())
}

/// The entry in a record's subject.
pub(super) fn origin_of(subject: &str) -> Option<EntryId> {
    subject.rsplit('.').next()?.parse().ok()
}

/// A message as an entry.
pub(super) fn id_of(message: &StreamMessage) -> EntryId {
    EntryId { millis: u64::try_from(message.time.timestamp_millis()).unwrap_or(0), number: message.sequence }
}

impl NatsSource {
    pub(super) fn subject(&self, kind: Kind, origin: EntryId) -> String {
        format!("{}.{}.{origin}", self.records, kind.token())
    }

    pub(super) async fn write_record(&self, subject: String, headers: HeaderMap, payload: Bytes) -> Result<()> {
        let what = "a record of the group is not stored";
        let link = self.link().await?;
        let sent = link.context.publish_with_headers(subject, headers, payload).await;
        let stored = sent.map_err(|error| self.failed(what, &error))?;
        stored.await.map(drop).map_err(|error| self.failed(what, &error))
    }

    /// Records how often handlers began with an entry.
    pub(super) async fn record_tries(&self, entry: EntryRef, pending: &PendingEntry, tries: u32) -> Result<()> {
        if pending.recorded == Some(tries) {
            return Ok(());
        }
        let mut headers = HeaderMap::new();
        if self.group().await?.takes_ttl {
            headers.insert("Nats-TTL", format!("{}s", REMEMBERED_FOR.as_secs()));
        }
        self.write_record(self.subject(Kind::Tries, pending.origin), headers, tries.to_string().into()).await?;
        self.pending.note_tries(entry, tries);
        Ok(())
    }

    /// How often handlers began with an entry that is delivered again, if that is recorded.
    pub(super) async fn recorded_tries(&self, records: &Stream, origin: EntryId) -> Result<Option<u32>> {
        let record = self.last_message(records, &self.subject(Kind::Tries, origin)).await?;
        Ok(record.and_then(|record| str::from_utf8(&record.payload).ok()?.parse().ok()))
    }

    /// Removes what was recorded about an entry that is acknowledged. What cannot be removed is not delivered, and holds up
    /// nothing.
    pub(super) async fn forget_records(&self, entry: EntryRef, pending: &PendingEntry) {
        let tries = async {
            match pending.recorded {
                Some(_) => self.purge(&self.subject(Kind::Tries, pending.origin)).await,
                None => Ok(()),
            }
        };
        let retried = async {
            match entry.stream {
                RETRIED => self.delete(entry.id, &self.subject(Kind::Retry, pending.origin)).await.map(drop),
                _ => Ok(()),
            }
        };
        if let Err(error) = tries.await.and(retried.await) {
            tracing::debug!(%error, "the records of an entry are not removed");
        }
    }

    pub(super) async fn purge(&self, subject: &str) -> Result<()> {
        let Some(records) = self.existing_records(&*self.link().await?).await? else { return Ok(()) };
        let purged = records.purge().filter(subject).await;
        purged.map(drop).map_err(|error| self.failed("a record of the group is not removed", &error))
    }

    /// Deletes a message of the records; `false` if it is not there, also because another one has its subject.
    pub(super) async fn delete(&self, id: EntryId, subject: &str) -> Result<bool> {
        let Some(records) = self.existing_records(&*self.link().await?).await? else { return Ok(false) };
        if self.message(&records, id).await?.is_none_or(|message| *message.subject != *subject) {
            return Ok(false);
        }
        let deleted = records.delete_message(id.number).await;
        deleted.map_err(|error| self.failed("a record of the group is not deleted", &error))
    }

    /// How many records of a kind there are.
    pub(super) async fn count(&self, records: &Stream, kind: Kind) -> Result<u64> {
        let subjects = records.info_with_subjects(all_of(&self.records, kind)).await;
        let subjects = subjects.map_err(|error| self.failed("its records are not counted", &error))?;
        let counted = subjects.try_fold(0, async |sum, (_, count)| Ok(sum + count as u64)).await;
        counted.map_err(|error| self.failed("its records are not counted", &error))
    }

    /// The message of an entry, and not the one that has its number in a stream that was created again.
    pub(super) async fn message(&self, stream: &Stream, id: EntryId) -> Result<Option<StreamMessage>> {
        let message = self.found_message(stream.get_raw_message(id.number).await)?;
        Ok(message.filter(|message| id_of(message) == id))
    }

    pub(super) async fn last_message(&self, stream: &Stream, subject: &str) -> Result<Option<StreamMessage>> {
        self.found_message(stream.get_last_raw_message_by_subject(subject).await)
    }

    /// The first message of these subjects from this number on.
    pub(super) async fn next_message(
        &self,
        stream: &Stream,
        subjects: &str,
        number: u64,
    ) -> Result<Option<StreamMessage>> {
        self.found_message(stream.get_first_raw_message_by_subject(subjects, number).await)
    }

    fn found_message(&self, found: Result<StreamMessage, RawMessageError>) -> Result<Option<StreamMessage>> {
        match found {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(self.failed("a message cannot be read", &error)),
        }
    }
}
