//! The dead letters of a consumer, for operators.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

use crate::backend::event_source::{ConsumerSource, EntryId, StoredLetter};
use crate::error::{SettingsError, SystemError};
use crate::opaque_debug::opaque_debug;
use crate::settings::Settings;

/// How many dead letters are read in one call.
const PAGE: usize = 500;

/// The dead letters of one consumer of the settings, in all its streams. Nothing is read before the first call.
pub struct DeadLetters {
    source: Box<dyn ConsumerSource>,
    pub(crate) consumer: String,
}

opaque_debug!(DeadLetters);

/// What happens to dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterAction {
    /// The consumer's group receives them again, as if they were new; no other group does.
    Retry,
    /// They are deleted for good.
    Delete,
}

impl LetterAction {
    /// Its name in the log and in the table of changes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry_dead",
            Self::Delete => "delete_dead",
        }
    }
}

/// Which dead letter: its stream, and its id in it. Written as `STREAM/ID`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LetterId {
    stream: String,
    id: EntryId,
}

/// An entry that was set aside.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct LetterFacts {
    /// Which dead letter.
    pub id: LetterId,
    /// When it was set aside, by the clock of its server.
    pub at: DateTime<Utc>,
    /// The stream that the entry was in.
    pub stream: String,
    /// The entry's id in it.
    pub entry: String,
    /// The consumer that set it aside.
    pub consumer: String,
    /// How often it was delivered.
    pub deliveries: u32,
    /// Why it was set aside.
    pub reason: String,
    /// The CloudEvent's id; empty if the entry is not an event.
    pub event_id: String,
    /// The CloudEvent's type.
    pub event_type: String,
    /// The CloudEvent's source.
    pub source: String,
    /// The names of the entry's own fields. What is not valid UTF-8 in a name is replaced, and the name is marked.
    pub fields: Vec<String>,
    /// The event in JSON.
    #[serde(skip)]
    pub cloud_event: Option<String>,
}

/// The outcome for some dead letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LettersChanged {
    /// How many were changed.
    pub changed: usize,
    /// Those that are not there any more, or that have no fields to be delivered again: their entry was trimmed.
    pub missing: Vec<LetterId>,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stream, self.id)
    }
}

impl FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.rsplit_once('/').and_then(|(stream, id)| Some((stream, id.parse().ok()?)));
        let (stream, id) = parts.ok_or("write it as `outbox dead list` shows it: STREAM/ID")?;
        Ok(Self { stream: stream.to_owned(), id })
    }
}

impl Serialize for LetterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl DeadLetters {
    /// Those of a consumer. Nothing is connected.
    ///
    /// # Errors
    /// [`SystemError::Settings`]: there is no such consumer, or its settings are wrong.
    pub fn of(settings: &Settings, consumer: &str) -> Result<Self, SystemError> {
        settings.check()?;
        Ok(Self { source: super::starting::source_of(settings, consumer)?, consumer: consumer.to_owned() })
    }

    /// How many there are.
    ///
    /// # Errors
    /// [`SystemError::Source`]: the server did not answer.
    pub async fn count(&self) -> Result<u64, SystemError> {
        let mut count = 0;
        for dead in self.source.dead_streams().await? {
            count += self.source.count_letters(&dead).await?;
        }
        Ok(count)
    }

    /// Lists them by stream, oldest first, at most this many, behind one of them.
    ///
    /// # Errors
    /// [`SystemError::Source`]: the server did not answer.
    pub async fn list(&self, after: Option<&LetterId>, most: usize) -> Result<Vec<LetterFacts>, SystemError> {
        let mut all = Vec::new();
        let streams = self.source.dead_streams().await?;
        let first = after.and_then(|after| streams.iter().position(|stream| *stream == after.stream)).unwrap_or(0);
        for stream in &streams[first..] {
            let mut behind = after.filter(|after| after.stream == *stream).map(|after| after.id);
            while all.len() < most {
                let page = self.source.letters(stream, behind, PAGE.min(most - all.len())).await?;
                let Some(last) = page.last() else { break };
                behind = Some(last.id);
                all.extend(page.into_iter().map(facts));
            }
        }
        Ok(all)
    }

    /// One of them; `None` if it is not there any more.
    ///
    /// # Errors
    /// [`SystemError::Source`]: the server did not answer. [`SystemError::Settings`]: its stream is not one of the consumer.
    pub async fn get(&self, id: &LetterId) -> Result<Option<LetterFacts>, SystemError> {
        self.require(id).await?;
        Ok(self.source.letter(&id.stream, id.id).await?.map(facts))
    }

    /// Gives them to the consumer's group again, and to no other group: each is delivered as if it were new. Their order is that
    /// of `ids`. [`OutboxAdmin::change_letters`](crate::OutboxAdmin::change_letters) also records it.
    ///
    /// # Errors
    /// [`SystemError::Source`]: the server did not answer, and some may have been retried. [`SystemError::Settings`]: a stream is
    /// not one of the consumer.
    pub async fn retry(&self, ids: &[LetterId]) -> Result<LettersChanged, SystemError> {
        let mut changed = LettersChanged::default();
        self.change(LetterAction::Retry, ids, &mut changed).await.map(|()| changed)
    }

    /// Deletes them.
    ///
    /// # Errors
    /// As [`retry`](Self::retry).
    pub async fn delete(&self, ids: &[LetterId]) -> Result<LettersChanged, SystemError> {
        let mut changed = LettersChanged::default();
        self.change(LetterAction::Delete, ids, &mut changed).await.map(|()| changed)
    }

    /// Retries or deletes them, and logs who asked for it and from where.
    ///
    /// # Errors
    /// As [`retry`](Self::retry).
    pub async fn change_as(
        &self,
        action: LetterAction,
        ids: &[LetterId],
        by: &str,
        from: &str,
    ) -> Result<LettersChanged, SystemError> {
        let mut changed = LettersChanged::default();
        self.change_and_log(action, ids, by, from, &mut changed).await.map(|()| changed)
    }

    pub(crate) async fn change_and_log(
        &self,
        action: LetterAction,
        ids: &[LetterId],
        by: &str,
        from: &str,
        changed: &mut LettersChanged,
    ) -> Result<(), SystemError> {
        let outcome = self.change(action, ids, changed).await;
        if changed.changed > 0 {
            let (consumer, action, letters) = (&self.consumer, action.name(), changed.changed);
            tracing::info!(consumer, action, letters, by, from, "an operator changed dead letters");
        }
        outcome
    }

    /// Changes them one after the other. `changed` is what was done, also after an error.
    async fn change(
        &self,
        action: LetterAction,
        ids: &[LetterId],
        changed: &mut LettersChanged,
    ) -> Result<(), SystemError> {
        for id in ids {
            self.require(id).await?;
        }
        for run in ids.chunk_by(|one, next| one.stream == next.stream).flat_map(|run| run.chunks(PAGE)) {
            let (stream, numbers) = (&run[0].stream, run.iter().map(|id| id.id).collect::<Vec<_>>());
            let done = match action {
                LetterAction::Retry => self.source.retry_letters(stream, &numbers).await?,
                LetterAction::Delete => self.source.delete_letters(stream, &numbers).await?,
            };
            changed.changed += done.len();
            changed.missing.extend(run.iter().filter(|id| !done.contains(&id.id)).cloned());
        }
        Ok(())
    }

    /// Only streams of dead letters are touched.
    async fn require(&self, id: &LetterId) -> Result<(), SystemError> {
        if self.source.dead_streams().await?.contains(&id.stream) {
            return Ok(());
        }
        Err(SystemError::Settings(SettingsError::Invalid {
            key: id.to_string(),
            origin: "the dead letters".to_owned(),
            problem: "its stream does not contain dead letters of this consumer".to_owned(),
        }))
    }
}

fn facts(letter: StoredLetter) -> LetterFacts {
    let StoredLetter { dead, id, stream, entry, consumer, deliveries, reason, fields, event } = letter;
    let event = event.ok();
    let text = |of: fn(&crate::event::OutboxEvent) -> String| event.as_deref().map(of).unwrap_or_default();
    let millis = i64::try_from(id.millis).unwrap_or(i64::MAX);
    LetterFacts {
        id: LetterId { stream: dead, id },
        at: DateTime::from_timestamp_millis(millis).unwrap_or_default(),
        stream,
        entry,
        consumer,
        deliveries,
        reason,
        event_id: text(|event| event.cloud_event_id()),
        event_type: text(|event| event.event_type.clone()),
        source: text(|event| event.source.clone()),
        fields,
        cloud_event: event.map(|event| event.to_cloud_event_json()),
    }
}
