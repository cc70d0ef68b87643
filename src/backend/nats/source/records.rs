//! The group's records, one message of each subject: `STREAM.dead.N` is the dead letter of the entry whose message has the number
//! N in the stream of events, `STREAM.retry.N` one that an operator has retried, and `STREAM.tries.N` how often handlers began
//! with it, once it is delivered again.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{RawMessageError, RawMessageErrorKind, Stream};
use bytes::Bytes;
use futures_util::TryStreamExt;

use super::pending::PendingEntry;
use super::{NatsSource, Result};
use crate::backend::event_source::EntryRef;

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

/// The number in a record's subject.
pub(super) fn number_of(subject: &str) -> Option<u64> {
    subject.rsplit('.').next()?.parse().ok()
}

impl NatsSource {
    pub(super) fn subject(&self, kind: Kind, origin: u64) -> String {
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
        let link = self.link().await?;
        let mut headers = HeaderMap::new();
        if link.client.is_server_compatible(2, 11, 0) {
            headers.insert("Nats-TTL", format!("{}s", REMEMBERED_FOR.as_secs()));
        }
        self.write_record(self.subject(Kind::Tries, pending.origin), headers, tries.to_string().into()).await?;
        self.pending.note_tries(entry, tries);
        Ok(())
    }

    /// How often handlers began with an entry that is delivered again, if that is recorded.
    pub(super) async fn recorded_tries(&self, records: &Stream, origin: u64) -> Result<Option<u32>> {
        let record = self.last_message(records, &self.subject(Kind::Tries, origin)).await?;
        Ok(record.and_then(|record| str::from_utf8(&record.payload).ok()?.parse().ok()))
    }

    /// Removes what was recorded about an entry that is acknowledged.
    pub(super) async fn forget_records(&self, entry: EntryRef, pending: &PendingEntry) -> Result<()> {
        if pending.recorded.is_some() {
            self.purge(&self.subject(Kind::Tries, pending.origin)).await?;
        }
        if entry.stream == super::RETRIED {
            self.delete(entry.id.number).await?;
        }
        Ok(())
    }

    async fn purge(&self, subject: &str) -> Result<()> {
        let Some(records) = self.existing_records(&*self.link().await?).await? else { return Ok(()) };
        let purged = records.purge().filter(subject).await;
        purged.map(drop).map_err(|error| self.failed("a record of the group is not removed", &error))
    }

    /// Deletes a message of the records; `false` if it is not there.
    pub(super) async fn delete(&self, number: u64) -> Result<bool> {
        let Some(records) = self.existing_records(&*self.link().await?).await? else { return Ok(false) };
        if self.message(&records, number).await?.is_none() {
            return Ok(false);
        }
        let deleted = records.delete_message(number).await;
        deleted.map_err(|error| self.failed("a record of the group is not deleted", &error))
    }

    /// How many records of a kind there are.
    pub(super) async fn count(&self, records: &Stream, kind: Kind) -> Result<u64> {
        let subjects = records.info_with_subjects(all_of(&self.records, kind)).await;
        let subjects = subjects.map_err(|error| self.failed("its records are not counted", &error))?;
        let counted = subjects.try_fold(0, async |sum, (_, count)| Ok(sum + count as u64)).await;
        counted.map_err(|error| self.failed("its records are not counted", &error))
    }

    /// A message by its number.
    pub(super) async fn message(&self, stream: &Stream, number: u64) -> Result<Option<StreamMessage>> {
        self.found_message(stream.get_raw_message(number).await)
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
