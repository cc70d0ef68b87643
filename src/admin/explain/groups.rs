//! What the consumer groups of an event's stream have done with it.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::sentence::{sentence, time};
use crate::admin::{OutboxAdmin, Result};
use crate::backend::redis::source::glob::glob_matches;
use crate::backend::redis::source::groups::{EntryState, FoundEntry, StreamGroups};
use crate::backend::redis::stream::streams::stream_of;
use crate::event::OutboxEvent;
use crate::settings::{ConsumerSettings, PublisherSettings, Settings};

/// How long Redis may take for all answers.
const LIMIT: Duration = Duration::from_secs(1);

/// What the consumer groups of an event's stream have done with it, as far as Redis knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EventGroups {
    /// The stream.
    pub stream: String,
    /// The id of its entry in it; none if it was not found.
    pub entry: Option<String>,
    /// The stream's groups.
    pub groups: Vec<EventGroup>,
    /// Why nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What one group has done with an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EventGroup {
    /// The group.
    pub group: String,
    /// The name under `[consumers]` of the consumer that reads the stream in this group, if its `source` is the event's publisher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configured_as: Option<String>,
    /// What it has done.
    #[serde(flatten)]
    pub state: GroupState,
}

/// What a group has done with an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum GroupState {
    /// It has not read it.
    Unread,
    /// A consumer has read it and not acknowledged it.
    Pending {
        /// Since when the stream has it.
        since: DateTime<Utc>,
        /// The consumer.
        consumer: String,
        /// How often it was delivered.
        deliveries: u32,
    },
    /// It was read and acknowledged, or was in the stream before the group began.
    Acknowledged,
    /// It is a dead letter.
    Dead {
        /// The dead letter, as `outbox dead` names it.
        letter: String,
        /// How often it was delivered.
        deliveries: u32,
        /// Why it was set aside.
        error: String,
    },
    /// It was a dead letter, which an operator has retried; that is not handled yet.
    Retried,
}

impl OutboxAdmin {
    /// What the consumer groups of an event's stream have done with it. `None`: no backend has it, or the settings do not say
    /// that its backend is a stream of Redis.
    ///
    /// The table has no entry's id, so the entry is searched among 500 entries around the time at which the event was recorded as
    /// sent. Redis gets a second; what it does not answer is the `problem` of the result.
    ///
    /// # Errors
    /// [`StoreError::NotFound`](crate::StoreError::NotFound): no event has this id.
    pub async fn event_groups(&self, id: Uuid) -> Result<Option<EventGroups>> {
        let Ok(event) = self.get_row_without_data(id).await? else { return Ok(None) };
        let lane = event.publisher_backend.as_str();
        let publisher = self.settings.publishers.iter().find(|(name, publisher)| {
            publisher.backend == "redis_stream" && self.settings.lanes_of(name).contains(&lane)
        });
        let Some(((name, publisher), at)) = publisher.zip(event.published_at) else { return Ok(None) };
        let Some(stream) = stream_of(publisher, &event) else { return Ok(None) };
        let asked = tokio::time::timeout(LIMIT, find(&self.settings, (name, publisher), &stream, &event, at)).await;
        let found = asked.unwrap_or_else(|_| Err(format!("Redis: no answer within {LIMIT:?}")));
        let mut groups = EventGroups::new(stream, found);
        for group in &mut groups.groups {
            let consumer = consumer_of(&self.settings, name, &groups.stream, &group.group);
            group.configured_as = consumer.map(|(name, _)| name.clone());
        }
        Ok(Some(groups))
    }
}

/// The consumer of the settings that reads a publisher's stream in this group.
fn consumer_of<'a>(
    settings: &'a Settings,
    publisher: &str,
    stream: &str,
    group: &str,
) -> Option<(&'a String, &'a ConsumerSettings)> {
    let is_group = |(name, consumer): &(&String, &ConsumerSettings)| {
        consumer.source.as_deref() == Some(publisher) && consumer.group.as_ref().unwrap_or(name) == group
    };
    // Without names it reads all streams of the publisher.
    let reads = |(_, consumer): &(&String, &ConsumerSettings)| {
        consumer.streams.is_empty() || consumer.streams.iter().any(|name| glob_matches(name, stream))
    };
    settings.consumers.iter().filter(is_group).find(reads)
}

async fn find(
    settings: &Settings,
    (name, publisher): (&str, &PublisherSettings),
    stream: &str,
    event: &OutboxEvent,
    at: DateTime<Utc>,
) -> Result<Option<FoundEntry>, String> {
    let groups = StreamGroups::new(publisher, stream.to_owned())?;
    let letters = |group: &str| {
        let reading = consumer_of(settings, name, stream, group);
        reading.map_or_else(|| ConsumerSettings::default().dead_letters, |(_, consumer)| consumer.dead_letters.clone())
    };
    groups.find(event, at, letters).await.map_err(|error| error.0)
}

impl EventGroups {
    fn new(stream: String, found: Result<Option<FoundEntry>, String>) -> Self {
        match found {
            Ok(Some(FoundEntry { id, groups })) => {
                let millis = i64::try_from(id.millis).unwrap_or(i64::MAX);
                let since = DateTime::from_timestamp_millis(millis).unwrap_or_default();
                let group =
                    |(group, state)| EventGroup { group, configured_as: None, state: GroupState::new(state, since) };
                let groups = groups.into_iter().map(group).collect();
                Self { stream, entry: Some(id.to_string()), groups, problem: None }
            }
            Ok(None) => {
                let problem =
                    "its entry was trimmed, or is not among the 500 around the time at which it was recorded as sent";
                Self { stream, entry: None, groups: Vec::new(), problem: Some(problem.to_owned()) }
            }
            Err(problem) => Self { stream, entry: None, groups: Vec::new(), problem: Some(problem) },
        }
    }
}

impl GroupState {
    fn new(state: EntryState, since: DateTime<Utc>) -> Self {
        match state {
            EntryState::Unread => Self::Unread,
            EntryState::Pending { consumer, deliveries } => Self::Pending { since, consumer, deliveries },
            EntryState::Acknowledged => Self::Acknowledged,
            EntryState::Dead { stream, letter, deliveries, reason } => {
                Self::Dead { letter: format!("{stream}/{letter}"), deliveries, error: reason }
            }
            EntryState::Retried => Self::Retried,
        }
    }
}

/// One sentence for each group, each on its line.
impl fmt::Display for EventGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stream = &self.stream;
        if let Some(problem) = &self.problem {
            return write!(
                f,
                "What the groups of stream `{stream}` have done with it is unknown: {}",
                sentence(problem)
            );
        }
        if self.groups.is_empty() {
            return write!(f, "Stream `{stream}` has it, and no group reads that.");
        }
        for (number, group) in self.groups.iter().enumerate() {
            f.write_str(if number > 0 { "\n" } else { "" })?;
            group.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for EventGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, state, .. } = self;
        match state {
            GroupState::Unread => write!(f, "Group {group} has not read it."),
            GroupState::Pending { since, consumer, deliveries } => write!(
                f,
                "It has waited in group {group} since {}, with consumer {consumer}, delivery {deliveries}.",
                time(*since)
            ),
            GroupState::Acknowledged => {
                write!(f, "Group {group} has read and acknowledged it, or began behind it.")
            }
            GroupState::Dead { letter, deliveries, error } => {
                write!(
                    f,
                    "It is a dead letter of group {group}, {letter}, after delivery {deliveries}: {}",
                    sentence(error)
                )
            }
            GroupState::Retried => {
                write!(
                    f,
                    "It was a dead letter of group {group}; an operator has retried it, and it waits for the group."
                )
            }
        }
    }
}
