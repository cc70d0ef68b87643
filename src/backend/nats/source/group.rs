//! The group: a durable consumer of the stream of events, and one of the records, for dead letters that were retried.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, FromConsumer, PullConsumer};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::Stream;
use chrono::{DateTime, Utc};

use super::records::{Kind, all_of};
use super::{NatsSource, RETRIED, Result};
use crate::backend::event_source::{Backlog, EntryRef, SourceUnavailable};
use crate::backend::nats::subject;
use crate::settings::StartAt;

/// How long a group is read before its settings, and the stream's subjects, are looked at again.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// The group as it is read.
pub(super) struct Group {
    pub(super) events: PullConsumer,
    pub(super) retried: PullConsumer,
    /// The records may be of limited duration.
    pub(super) takes_ttl: bool,
    looked_at: Instant,
}

impl Group {
    pub(super) fn consumer(&self, stream: usize) -> &PullConsumer {
        if stream == RETRIED { &self.retried } else { &self.events }
    }

    /// When the server's consumer for this stream was created: one that is created again knows nothing of earlier deliveries.
    pub(super) fn created(&self, stream: usize) -> DateTime<Utc> {
        self.consumer(stream).cached_info().created
    }
}

impl NatsSource {
    /// The group, created where it is missing and the settings allow that.
    pub(super) async fn group(&self) -> Result<Arc<Group>> {
        let link = self.link().await?;
        if let Some(group) = self.cached().group.as_ref().filter(|group| group.looked_at.elapsed() < LOOK_INTERVAL) {
            return Ok(Arc::clone(group));
        }
        let stream = self.events(&link).await?;
        let records = self.records(&link, stream.cached_info().config.num_replicas).await?;
        let subjects = subjects_of_events(&stream);
        let start = if self.had_group.load(Ordering::Relaxed) { StartAt::First } else { self.start };
        let events = self.prepare(&stream, subjects, start, self.may_create).await?;
        let retried = self.prepare(&records, vec![all_of(&self.records, Kind::Retry)], StartAt::First, true).await?;
        self.had_group.store(true, Ordering::Relaxed);
        let takes_ttl = records.cached_info().config.allow_message_ttl;
        let group = Arc::new(Group { events, retried, takes_ttl, looked_at: Instant::now() });
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
            // If another process creates it meanwhile, the next call finds it.
            let created = stream.create_consumer_strict(self.config(subjects, start)).await;
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
        // Another process may renew its entries less often.
        let ack_wait = self.reclaim_after.max(found.ack_wait);
        let has_subjects = has_subjects(&found, &subjects);
        if has_subjects && found.ack_wait == ack_wait && delivers_all(&found) {
            return stream.get_consumer(&self.group).await.map_err(|error| self.failed(&what(), &*error));
        }
        if !has_subjects {
            tracing::warn!(
                stream = name,
                group = self.group,
                ?subjects,
                "the subjects of the stream were changed: what the group has not read of the new ones is not delivered if it \
                 has read later entries"
            );
        }
        let wanted = Config {
            filter_subject: String::new(),
            filter_subjects: subjects,
            ack_wait,
            max_deliver: -1,
            max_ack_pending: -1,
            backoff: Vec::new(),
            headers_only: false,
            inactive_threshold: Duration::ZERO,
            max_batch: 0,
            max_bytes: 0,
            max_expires: Duration::ZERO,
            ..Config::try_from_consumer_config(found).map_err(|error| self.failed(&what(), &*error))?
        };
        stream.update_consumer(wanted).await.map_err(|error| self.failed(&what(), &error))
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

/// The subjects of a stream without those of journals. No other pattern includes these: a server refuses one that begins with a
/// wildcard.
fn subjects_of_events(stream: &Stream) -> Vec<String> {
    let subjects = stream.cached_info().config.subjects.iter();
    subjects.filter(|pattern| !subject::is_of_journals(pattern)).cloned().collect()
}

fn has_subjects(found: &consumer::Config, subjects: &[String]) -> bool {
    let one = (!found.filter_subject.is_empty()).then_some(&found.filter_subject);
    let found: BTreeSet<&String> = one.into_iter().chain(&found.filter_subjects).collect();
    found == subjects.iter().collect()
}

/// Whether a consumer delivers every message whole and until it is acknowledged, as many as it is asked for, and stays.
fn delivers_all(found: &consumer::Config) -> bool {
    let is_unlimited = |limit: i64| limit <= 0;
    [found.max_deliver, found.max_ack_pending, found.max_batch, found.max_bytes].into_iter().all(is_unlimited)
        && found.backoff.is_empty()
        && !found.headers_only
        && found.inactive_threshold.is_zero()
        && found.max_expires.is_zero()
}
