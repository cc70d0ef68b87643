//! The connection of a source, and the streams on it.

use std::error::Error;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::client::{RequestError, RequestErrorKind};
use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, Stream};

use super::group::Group;
use super::records::subjects_of;
use super::{NatsSource, Result};
use crate::backend::event_source::SourceUnavailable;
use crate::backend::nats::connection::LastComplaint;
use crate::backend::nats::errors;
use crate::backend::nats::stream::is_missing;

/// What was made and is used again until a call fails.
#[derive(Default)]
pub(super) struct Cached {
    pub(super) link: Option<Arc<Link>>,
    pub(super) group: Option<Arc<Group>>,
}

pub(super) struct Link {
    pub(super) client: Client,
    pub(super) context: Context,
    complaint: LastComplaint,
    made: Instant,
}

impl Link {
    /// Whether it is connected, and was made within this time: other calls fail because of the one before.
    fn is_new(&self, time: Duration) -> bool {
        self.made.elapsed() < time && self.client.connection_state() == State::Connected
    }
}

impl NatsSource {
    pub(super) fn cached(&self) -> MutexGuard<'_, Cached> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection; a new one after a call has failed.
    pub(super) async fn link(&self) -> Result<Arc<Link>> {
        if let Some(link) = &self.cached().link {
            return Ok(Arc::clone(link));
        }
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(link) = &self.cached().link {
            return Ok(Arc::clone(link));
        }
        let connected = self.address.connect().await.map_err(|error| SourceUnavailable(error.to_string()));
        let (client, complaint) = connected?;
        let context = self.address.context(&client);
        let link = Arc::new(Link { client, context, complaint, made: Instant::now() });
        self.cached().link = Some(Arc::clone(&link));
        Ok(link)
    }

    /// What an error means. The next call looks for the group again, and connects again unless that was done after the call that
    /// failed began.
    pub(super) fn failed(&self, what: &str, error: &(dyn Error + 'static)) -> SourceUnavailable {
        let mut cached = self.cached();
        cached.group = None;
        let complaint = cached.link.as_ref().and_then(|link| link.complaint.take());
        cached.link.take_if(|link| !link.is_new(self.address.socket_timeout));
        drop(cached);
        let complaint = complaint.map(|text| format!("; the server said: {text}")).unwrap_or_default();
        SourceUnavailable(format!("NATS: {what}: {}{complaint}", errors::with_causes(error)))
    }

    /// The stream of events.
    pub(super) async fn events(&self, link: &Link) -> Result<Stream> {
        match link.context.get_stream(&self.stream).await {
            Ok(stream) => Ok(stream),
            Err(error) if is_missing(&error) => {
                let stream = &self.stream;
                Err(SourceUnavailable(format!(
                    "JetStream: there is no stream {stream}: start a worker that writes to it"
                )))
            }
            Err(error) => Err(self.failed(&format!("stream {}", self.stream), &error)),
        }
    }

    /// The stream of the group's records; `None` if it does not exist.
    pub(super) async fn existing_records(&self, link: &Link) -> Result<Option<Stream>> {
        match link.context.get_stream(&self.records).await {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(self.failed(&format!("stream {}", self.records), &error)),
        }
    }

    pub(super) fn no_records(&self) -> String {
        format!("JetStream: there is no stream {}: the group has no records", self.records)
    }

    /// Likewise, created where it is missing. One message is kept of each subject.
    pub(super) async fn records(&self, link: &Link, replicas: usize) -> Result<Stream> {
        if let Some(stream) = self.existing_records(link).await? {
            return Ok(stream);
        }
        let config = Config {
            name: self.records.clone(),
            description: Some(format!("dead letters and tries of the group {} of {}", self.group, self.stream)),
            subjects: vec![subjects_of(&self.records)],
            max_messages_per_subject: 1,
            num_replicas: replicas,
            allow_message_ttl: link.client.is_server_compatible(2, 11, 0),
            ..Config::default()
        };
        let created = link.context.create_stream(config).await;
        created.map_err(|error| self.failed(&format!("stream {} cannot be created", self.records), &error))
    }
}

/// An answer that is not answered: the server knows nothing of the delivery, or is unavailable.
pub(super) fn may_be_forgotten(error: &RequestError) -> bool {
    matches!(error.kind(), RequestErrorKind::NoResponders | RequestErrorKind::TimedOut)
}
