//! What the groups of a stream have done with one entry, for operators.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use redis::{Pipeline, Value, from_redis_value};

use super::Result;
use super::letters_template::LettersTemplate;
use super::link::{Link, LinkError};
use super::streams::retry_stream_of;
use crate::backend::event_source::{EntryId, SourceUnavailable};
use crate::backend::redis::Script;
use crate::event::OutboxEvent;
use crate::settings::PublisherSettings;

static FIND: Script = Script::new(include_str!("find.lua"));

/// How many entries are searched on each side of the event's time, and how many of the last dead letters.
pub(crate) const MOST_SEARCHED: usize = 250;

/// The most groups that are asked.
const MOST_GROUPS: usize = 50;

/// What a group has done with an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryState {
    Unread,
    Pending { consumer: String, deliveries: u32 },
    Acknowledged,
    Dead { stream: String, letter: EntryId, deliveries: u32, reason: String },
    Retried,
}

/// An entry, and what each group has done with it.
#[derive(Debug)]
pub(crate) struct FoundEntry {
    pub(crate) id: EntryId,
    pub(crate) groups: Vec<(String, EntryState)>,
}

/// One stream of a publisher.
pub(crate) struct StreamGroups {
    link: Link,
    stream: String,
}

/// An entry that was found, and the values of its fields that were asked for.
type Found = Option<(String, Vec<String>)>;

impl StreamGroups {
    /// Reads the address; nothing is connected.
    pub(crate) fn new(server: &PublisherSettings, stream: String) -> Result<Self, String> {
        let server = PublisherSettings { stream_name: stream.clone(), ..server.clone() };
        Ok(Self { link: Link::new(&server)?, stream })
    }

    /// Looks for an event's entry near this time. `letters` is the template for the dead letters of a group.
    pub(crate) async fn find(
        &self,
        event: &OutboxEvent,
        near: DateTime<Utc>,
        letters: impl Fn(&str) -> String,
    ) -> Result<Option<FoundEntry>> {
        let (id, seq) = (event.id.to_string(), event.seq.to_string());
        let same = [("event_id", id.as_str()), ("seq", seq.as_str())];
        let near = EntryId { millis: u64::try_from(near.timestamp_millis()).unwrap_or(0), number: u64::MAX };
        let Some((entry, _)) = self.search(&self.stream, &near.to_string(), &[], &same).await? else { return Ok(None) };
        let entry: EntryId =
            entry.parse().map_err(|()| SourceUnavailable(format!("Redis: {entry:?} is not the id of an entry")))?;
        let mut groups = Vec::new();
        for (group, state) in self.read_states(entry).await? {
            let state = match state {
                EntryState::Acknowledged => {
                    let dead = LettersTemplate::new(&letters(&group)).name(&self.stream, &group);
                    self.letter_state(&dead, entry, &same).await?.unwrap_or(state)
                }
                state => state,
            };
            groups.push((group, state));
        }
        Ok(Some(FoundEntry { id: entry, groups }))
    }

    /// What the groups' own records say: an entry that is a dead letter was acknowledged.
    async fn read_states(&self, entry: EntryId) -> Result<Vec<(String, EntryState)>> {
        let mut question = redis::cmd("XINFO");
        question.arg("GROUPS").arg(&self.stream);
        let groups: Vec<HashMap<String, Value>> = self.link.query(&question).await.map_err(unavailable)?;
        let groups: Vec<(String, EntryId)> = groups.into_iter().filter_map(name_and_last).take(MOST_GROUPS).collect();
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let mut questions = Pipeline::new();
        for (group, _) in &groups {
            let id = entry.to_string();
            questions.cmd("XPENDING").arg(&self.stream).arg(group).arg(&id).arg(&id).arg(1);
        }
        let pending: Vec<Vec<(String, String, u64, u32)>> =
            self.link.pipeline(&questions).await.map_err(unavailable)?;
        let states = groups.into_iter().zip(pending).map(|((group, last), pending)| {
            let state = match pending.into_iter().next() {
                Some((_, consumer, _, deliveries)) => EntryState::Pending { consumer, deliveries },
                None if entry <= last => EntryState::Acknowledged,
                None => EntryState::Unread,
            };
            (group, state)
        });
        Ok(states.collect())
    }

    /// Whether an entry is among the last dead letters, or among those that were retried.
    async fn letter_state(&self, dead: &str, entry: EntryId, same: &[(&str, &str)]) -> Result<Option<EntryState>> {
        let entry = entry.to_string();
        let letter = [("dead_entry", entry.as_str()), ("dead_stream", self.stream.as_str())];
        if let Some((id, values)) = self.search(dead, "+", &["dead_deliveries", "dead_reason"], &letter).await? {
            let [deliveries, reason] = <[String; 2]>::try_from(values).unwrap_or_default();
            let (deliveries, letter) = (deliveries.parse().unwrap_or(0), id.parse().ok());
            return Ok(letter.map(|letter| EntryState::Dead { stream: dead.to_owned(), letter, deliveries, reason }));
        }
        let retried = self.search(&retry_stream_of(dead), "+", &[], same).await?;
        Ok(retried.map(|_| EntryState::Retried))
    }

    async fn search(&self, stream: &str, near: &str, values: &[&str], fields: &[(&str, &str)]) -> Result<Found> {
        let mut request = FIND.request();
        request.arg(1).arg(stream).arg(near).arg(MOST_SEARCHED).arg(values.len()).arg(values);
        fields.iter().for_each(|(name, value)| _ = request.arg(name).arg(value));
        self.link.call(&FIND, &request).await.map_err(unavailable)
    }
}

fn unavailable(error: LinkError) -> SourceUnavailable {
    SourceUnavailable(error.reason())
}

fn name_and_last(mut facts: HashMap<String, Value>) -> Option<(String, EntryId)> {
    let mut text = |name: &str| from_redis_value::<String>(facts.remove(name)?).ok();
    Some((text("name")?, text("last-delivered-id")?.parse().ok()?))
}
