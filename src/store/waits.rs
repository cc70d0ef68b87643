//! How long published events waited: a sample over time.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// A sample of the published events: the first `each` of those that were created in each of `periods` periods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitQuery {
    /// When the first period begins.
    pub from: DateTime<Utc>,
    /// The length of a period.
    pub period: Duration,
    /// The number of periods.
    pub periods: u16,
    /// The most events of a period.
    pub each: u16,
    /// Only events with one of these values of `publisher_backend`; empty: all events.
    pub backends: Vec<String>,
    /// With `backends`: the most events of a period that are read to find those of the sample.
    pub most_read: u32,
}

impl WaitQuery {
    /// The most events of a period that are read.
    pub(crate) fn limit(&self) -> i64 {
        if self.backends.is_empty() { i64::from(self.each) } else { i64::from(self.most_read) }
    }
}

#[cfg(any(feature = "mysql", feature = "sqlite"))]
impl WaitQuery {
    /// The begin and the end of each period in microseconds since 1970.
    pub(crate) fn bounds(&self) -> impl Iterator<Item = (i64, i64)> + use<> {
        let from = self.from.timestamp_micros();
        let period = i64::try_from(self.period.as_micros()).unwrap_or(i64::MAX);
        let at = move |n: u16| from.saturating_add(period.saturating_mul(i64::from(n)));
        (0..self.periods).map(move |n| (at(n), at(n + 1)))
    }
}

/// A published event that had waited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// Its `publisher_backend`, or the publisher that this means.
    pub backend: String,
    /// When it was created and its scheduled time had come.
    pub due_at: DateTime<Utc>,
    /// When it was recorded as published.
    pub published_at: DateTime<Utc>,
}

#[cfg(any(feature = "mysql", feature = "sqlite"))]
impl Wait {
    /// From times in microseconds since 1970; none if the event is not published.
    pub(crate) fn from_micros(backend: String, due_at: i64, published_at: Option<i64>) -> Option<Self> {
        let time = DateTime::from_timestamp_micros;
        Some(Self { backend, due_at: time(due_at)?, published_at: time(published_at?)? })
    }
}
