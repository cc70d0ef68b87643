//! The events of streams, read without a group.

use std::sync::Arc;

use crate::backend::event_source::{ConsumerSource, Positions};
use crate::error::SystemError;
use crate::event::OutboxEvent;
use crate::opaque_debug::opaque_debug;
use crate::settings::{Settings, StartAt};

/// The events in a consumer's streams as they come, like `tail -f`. Nothing is acknowledged, and nothing is written.
pub struct StreamTail {
    source: Box<dyn ConsumerSource>,
    start: StartAt,
    positions: Positions,
}

opaque_debug!(StreamTail);

impl StreamTail {
    /// Begins where the consumer's `start` says. Nothing is connected. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`SystemError::Settings`]: there is no such consumer, or its settings are wrong.
    pub fn of(settings: &Settings, consumer: &str) -> Result<Self, SystemError> {
        settings.check()?;
        let start = settings.consumer(consumer)?.start;
        Ok(Self { source: super::starting::source_of(settings, consumer)?, start, positions: Positions::new() })
    }

    /// The next events, in the order of each stream; none if there was none for about a second. An entry that is not an event is
    /// its reason.
    ///
    /// # Errors
    /// [`SystemError::Source`]: the server did not answer; the next call continues behind the last event.
    pub async fn next(&mut self) -> Result<Vec<Result<Arc<OutboxEvent>, String>>, SystemError> {
        let read = self.source.read_after(&mut self.positions, self.start).await?;
        Ok(read.into_iter().map(|received| received.event).collect())
    }
}
