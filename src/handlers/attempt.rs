//! How often an event was given to a handler.

use crate::event::OutboxEvent;

/// The number of an attempt to handle an event, and of the attempts that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// 1 is the first attempt. A worker counts the rejections of the event, also by its backend; a consumer counts its
    /// deliveries, also those to a process that ended before the handler answered.
    pub number: u32,
    /// `max_retries` of the event, or `max_deliveries` of the consumer.
    pub max: u32,
}

impl Attempt {
    pub(crate) fn new(number: u32, max: u32) -> Self {
        Self { number, max }
    }

    /// The attempt after this many rejections.
    pub(crate) fn after(rejections: i32, max: i32) -> Self {
        let unsigned = |number: i32| u32::try_from(number).unwrap_or(0);
        Self::new(unsigned(rejections).saturating_add(1), unsigned(max).max(1))
    }

    /// The attempt that a worker makes with an event that it has read.
    pub(crate) fn of(event: &OutboxEvent) -> Self {
        Self::after(event.retry_count, event.max_retries)
    }

    /// Whether any error in answer to this attempt is final: the event is then `failed`, or a dead letter of the consumer.
    #[must_use]
    pub fn is_last(self) -> bool {
        self.number >= self.max
    }
}
