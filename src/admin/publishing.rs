//! Publishing without a connection or a running system of one's own.

use std::time::Duration;

use uuid::Uuid;

use super::{OutboxAdmin, Result};
use crate::error::{InvalidEvent, PublishError};
use crate::event::OutboxEvent;
use crate::publish::NewEvent;
use crate::store::{Wakeup, unserved};

/// How long to wait after the events are stored: for waking workers, and for asking which backends are served.
const WAKE_LIMIT: Duration = Duration::from_secs(1);

impl OutboxAdmin {
    /// Checks an event against the rules of CloudEvents and the limits of the settings, and returns it with the settings'
    /// defaults, and the backend of its route.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn prepare(&self, event: NewEvent) -> Result<NewEvent, InvalidEvent> {
        let worker = &self.settings.worker;
        let event = self.settings.routed(event.or_defaults(worker.max_retries, worker.max_event_bytes));
        event.check()?;
        Ok(event)
    }

    /// Writes an event in a transaction of its own, wakes the workers, and returns it as stored.
    ///
    /// # Errors
    /// As [`publish_many`](Self::publish_many).
    pub async fn publish(&self, event: NewEvent) -> Result<OutboxEvent, PublishError> {
        let stored = self.publish_many(vec![event]).await.map_err(PublishError::alone)?;
        stored.into_iter().next().ok_or(PublishError::Stopped)
    }

    /// Writes events in one transaction, all or none, wakes the workers, and returns the events as stored. Warns in the log
    /// of a backend that neither the settings nor a live worker knows.
    ///
    /// # Errors
    /// [`PublishError::InvalidInBatch`] and [`PublishError::IdConflictInBatch`] name the event; [`PublishError::Store`]: the
    /// database refused or did not answer.
    pub async fn publish_many(&self, events: Vec<NewEvent>) -> Result<Vec<OutboxEvent>, PublishError> {
        let worker = &self.settings.worker;
        let events = events.into_iter().map(|event| event.or_defaults(worker.max_retries, worker.max_event_bytes));
        let events = events.map(|event| self.settings.routed(event));
        let stored = self.store.insert(events.collect()).await?;
        let wakeup = stored.iter().map(|event| event.publisher_backend.as_str()).collect();
        self.wake_in_time(&wakeup).await;
        self.warn_of_unserved(&stored).await;
        Ok(stored)
    }

    /// Warns in the log if no live worker serves a backend.
    pub async fn warn_of_unserved_backend(&self, name: &str) {
        let names = [name.to_owned()].into_iter().collect();
        let asked = unserved::unserved(&*self.store, names, self.settings.worker.lease);
        if let Ok(Ok(lanes)) = tokio::time::timeout(WAKE_LIMIT, asked).await {
            unserved::warn(&lanes);
        }
    }

    /// Warns of a name that neither the settings nor a live worker knows: it is probably misspelt. An event without a name
    /// gives no warning, because it is common that no worker runs yet.
    async fn warn_of_unserved(&self, stored: &[OutboxEvent]) {
        let is_known = |name: &String| name.is_empty() || self.settings.publishers.contains_key(name);
        let names = stored.iter().map(|event| &event.publisher_backend);
        let unknown = names.filter(|name| !is_known(name)).cloned().collect();
        let asked = unserved::unserved(&*self.store, unknown, self.settings.worker.lease);
        match tokio::time::timeout(WAKE_LIMIT, asked).await {
            Ok(Ok(lanes)) => unserved::warn(&lanes),
            _ => tracing::debug!("could not find out whether a worker serves these events"),
        }
    }

    /// Wakes the workers if that is quick; otherwise they poll.
    pub(super) async fn wake_in_time(&self, wakeup: &Wakeup) {
        match tokio::time::timeout(WAKE_LIMIT, self.wake(wakeup)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "workers were not woken"),
            Err(_) => tracing::debug!("workers were not woken in time"),
        }
    }

    async fn wake(&self, wakeup: &Wakeup) -> Result<()> {
        match self.store.notify_store() {
            Some(notifications) => notifications.announce(self.store.outbox_id().await?, Uuid::nil(), wakeup).await,
            None => Ok(()),
        }
    }
}
