//! The builder of a consumer.

use std::time::Duration;

use super::handle::OutboxConsumer;
use crate::handlers::Subscribe;
use crate::opaque_debug::opaque_debug;
use crate::settings::Settings;

/// Builds a consumer from settings and handlers. Made by [`OutboxConsumer::builder`].
pub struct ConsumerBuilder {
    pub(super) settings: Settings,
    pub(super) name: String,
    pub(super) subscriptions: Vec<Subscribe>,
    pub(super) limit: Option<usize>,
    pub(super) starters: Vec<Box<dyn FnOnce() -> Subscribe + Send>>,
}

opaque_debug!(ConsumerBuilder);

impl OutboxConsumer {
    /// Starts building the consumer that the settings describe under `[consumers.NAME]`.
    #[must_use]
    pub fn builder(settings: Settings, name: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder { settings, name: name.into(), subscriptions: Vec::new(), limit: None, starters: Vec::new() }
    }
}

impl ConsumerBuilder {
    /// Subscribes a handler actor, as for a worker. An event for which there are several handlers is done when all of them are;
    /// one for which there is none is acknowledged.
    #[must_use]
    pub fn subscribe(mut self, subscription: Subscribe) -> Self {
        self.subscriptions.push(subscription);
        self
    }

    /// Subscribes a handler that [`start`](Self::start) makes, inside its actix system.
    #[must_use]
    pub fn subscribe_with(mut self, start: impl FnOnce() -> Subscribe + Send + 'static) -> Self {
        self.starters.push(Box::new(start));
        self
    }

    /// Handles this many events and then stops; [`OutboxConsumer::ended`] then returns. Events without a handler, and dead
    /// letters, do not count.
    #[must_use]
    pub fn limit(mut self, most: usize) -> Self {
        self.limit = Some(most);
        self
    }

    /// The time limit of a handler for one event, instead of the settings'.
    #[must_use]
    pub fn handler_timeout(mut self, limit: Duration) -> Self {
        if let Some(consumer) = self.settings.consumers.get_mut(&self.name) {
            consumer.handler_timeout = limit;
        }
        self
    }
}
