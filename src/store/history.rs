//! Outcomes of events over time: a day by minute, 30 days by hour.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// The length of a bucket, which determines how long it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}

impl Resolution {
    pub(crate) const ALL: [Self; 2] = [Self::Minute, Self::Hour];

    /// The value of the table's column.
    pub(crate) fn minutes(self) -> i16 {
        match self {
            Self::Minute => 1,
            Self::Hour => 60,
        }
    }

    /// How long buckets of this length are kept.
    #[must_use]
    pub fn kept_for(self) -> Duration {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        match self {
            Self::Minute => DAY,
            Self::Hour => 30 * DAY,
        }
    }
}

/// Counts of outcomes in some period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutcomeCounts {
    /// Events that were published.
    pub published: u64,
    /// The number of rejections.
    pub rejected: u64,
    /// Events that failed.
    pub failed: u64,
}

impl OutcomeCounts {
    pub(crate) fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// The outcomes of one publisher's events in a minute or an hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryBucket {
    /// When the minute or the hour began.
    pub began_at: DateTime<Utc>,
    /// The publisher's name.
    pub backend: String,
    /// Its outcomes.
    pub outcomes: OutcomeCounts,
}
