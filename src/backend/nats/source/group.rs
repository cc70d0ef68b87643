//! The group: a durable consumer of the stream of events, and one of the records, for dead letters that were retried.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, PullConsumer};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::Stream;
use chrono::Utc;

use super::records::{Kind, all_of};
use super::{NatsSource, Result};
use crate::backend::event_source::{Backlog, EntryRef, SourceUnavailable};
use crate::backend::nats::subject;
use crate::settings::StartAt;

/// The group as it is read.
pub(super) struct Group {
    pub(super) events: PullConsumer,
    pub(super) retried: PullConsumer,
}

impl NatsSource {
    /// The group, created where it is missing and the settings allow that.
    pub(super) async fn group(&self) -> Result<Arc<Group>> {
        let link = self.link().await?;
        if let Some(group) = &self.cached().group {
            return Ok(Arc::clone(group));
        }
        let stream = self.events(&link).await?;
        let records = self.records(&link, stream.cached_info().config.num_replicas).await?;
        let subjects = subjects_of_events(&stream);
        let start = if self.had_group.load(Ordering::Relaxed) { StartAt::First } else { self.start };
        let events = self.prepare(&stream, subjects, start, self.may_create).await?;
        let retried = self.prepare(&records, vec![all_of(&self.records, Kind::Retry)], StartAt::First, true).await?;
        self.had_group.store(true, Ordering::Relaxed);
        let group = Arc::new(Group { events, retried });
        self.cached().group = Some(Arc::clone(&group));
        Ok(group)
    }

    /// A durable consumer that delivers every message until it is acknowledged.
    async fn prepare(
        &self,
        stream: &Stream,
        subjects: Vec<String>,
        start: StartAt,
        may_create: bool,
    ) -> Result<PullConsumer> {
        let name = &stream.cached_info().config.name;
        let what = || format!("group {} of stream {name}", self.group);
        let Some(found) = self.found(stream).await? else {
            if !may_create {
                return Err(SourceUnavailable(format!(
                    "JetStream: there is no {}; set `create_group = true`, or run: nats consumer add",
                    what()
                )));
            }
            let created = stream.create_consumer(self.config(subjects, start)).await;
            let created = created.map_err(|error| self.failed(&format!("the {} cannot be created", what()), &error))?;
            match self.had_group.load(Ordering::Relaxed) {
                true => tracing::warn!(stream = name, group = self.group, "the group was gone; it begins again"),
                false => tracing::info!(stream = name, group = self.group, "the group is created"),
            }
            return Ok(created);
        };
        if found.deliver_subject.is_some() || found.ack_policy != AckPolicy::Explicit {
            return Err(SourceUnavailable(format!(
                "JetStream: the {} does not have its entries pulled and acknowledged one by one; use another name for the \
                 group, or delete it: nats consumer rm {name} {}",
                what(),
                self.group
            )));
        }
        let mut wanted = self.config(subjects, start);
        // Another process may renew its entries less often.
        wanted.ack_wait = wanted.ack_wait.max(found.ack_wait);
        (wanted.deliver_policy, wanted.num_replicas) = (found.deliver_policy, found.num_replicas);
        match fits(&found, &wanted) {
            true => stream.get_consumer(&self.group).await.map_err(|error| self.failed(&what(), &*error)),
            false => stream.update_consumer(wanted).await.map_err(|error| self.failed(&what(), &error)),
        }
    }

    async fn found(&self, stream: &Stream) -> Result<Option<consumer::Config>> {
        match stream.consumer_info(&self.group).await {
            Ok(info) => Ok(Some(info.config)),
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(&format!("group {}", self.group), &error)),
        }
    }

    fn config(&self, filter_subjects: Vec<String>, start: StartAt) -> Config {
        let deliver_policy = match start {
            StartAt::First => DeliverPolicy::All,
            StartAt::Next => DeliverPolicy::New,
            StartAt::Time(start_time) => DeliverPolicy::ByStartTime { start_time },
        };
        Config {
            durable_name: Some(self.group.clone()),
            description: Some("actix-outbox".to_owned()),
            deliver_policy,
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.reclaim_after,
            max_deliver: -1,
            max_ack_pending: -1,
            filter_subjects,
            ..Config::default()
        }
    }

    /// Whether the server knows nothing of a delivery: the group was deleted, or the server was killed before it had stored that
    /// it delivered the entry. It delivers it again then.
    pub(super) async fn is_forgotten(&self, entry: EntryRef) -> Result<bool> {
        let stream = self.stream(entry.stream).await?;
        let is_forgotten = match stream.consumer_info(&self.group).await {
            Ok(info) => info.delivered.stream_sequence < entry.id.number,
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => true,
            Err(error) => return Err(self.failed(&format!("group {}", self.group), &error)),
        };
        if is_forgotten {
            self.cached().group = None;
        }
        Ok(is_forgotten)
    }

    pub(super) async fn read_backlogs(&self) -> Result<Vec<Backlog>> {
        let link = self.link().await?;
        let stream = self.events(&link).await?;
        let dead = match self.existing_records(&link).await? {
            Some(records) => self.count(&records, Kind::Dead).await?,
            None => 0,
        };
        let of_stream = Backlog { stream: self.stream.clone(), dead, ..Backlog::default() };
        let info = match self.found(&stream).await? {
            None => return Ok(vec![Backlog { unread: Some(stream.cached_info().state.messages), ..of_stream }]),
            Some(_) => stream.consumer_info(&self.group).await.map_err(|error| self.failed("its group", &error))?,
        };
        let oldest = match info.num_ack_pending {
            0 => None,
            _ => self.age_of(&stream, info.ack_floor.stream_sequence + 1).await?,
        };
        let pending = u64::try_from(info.num_ack_pending).unwrap_or(u64::MAX);
        Ok(vec![Backlog { unread: Some(info.num_pending), has_group: true, pending, oldest, ..of_stream }])
    }

    /// The age of the first message from this number on.
    async fn age_of(&self, stream: &Stream, sequence: u64) -> Result<Option<Duration>> {
        let message = self.next_message(stream, ">", sequence).await?;
        Ok(message.map(|message| (Utc::now() - message.time).to_std().unwrap_or_default()))
    }
}

/// The subjects of a stream without those of its journals.
fn subjects_of_events(stream: &Stream) -> Vec<String> {
    let config = &stream.cached_info().config;
    let journals = subject::of_journals(&config.name);
    config.subjects.iter().filter(|pattern| **pattern != journals).cloned().collect()
}

/// Whether a durable consumer delivers as this program needs it.
fn fits(found: &consumer::Config, wanted: &Config) -> bool {
    let mut subjects = match found.filter_subject.is_empty() {
        true => found.filter_subjects.clone(),
        false => vec![found.filter_subject.clone()],
    };
    subjects.sort();
    let mut wanted_subjects = wanted.filter_subjects.clone();
    wanted_subjects.sort();
    let limits = |most: i64| most <= 0;
    subjects == wanted_subjects
        && found.ack_wait == wanted.ack_wait
        && limits(found.max_deliver)
        && limits(found.max_ack_pending)
}
