//! What became of events: a day by minute, 30 days by hour.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// How finely it is kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolution {
    Minute,
    Hour,
}

impl Resolution {
    pub(crate) const ALL: [Self; 2] = [Self::Minute, Self::Hour];

    /// As the table holds it.
    pub(crate) fn minutes(self) -> i16 {
        match self {
            Self::Minute => 1,
            Self::Hour => 60,
        }
    }

    pub(crate) fn kept_for(self) -> Duration {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        match self {
            Self::Minute => DAY,
            Self::Hour => 30 * DAY,
        }
    }
}

/// What became of events in some span of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OutcomeCounts {
    pub(crate) published: u64,
    /// Times that one was refused.
    pub(crate) rejected: u64,
    pub(crate) failed: u64,
}

impl OutcomeCounts {
    pub(crate) fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// What became of one publisher's events in a minute or an hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HistoryBucket {
    pub(crate) began_at: DateTime<Utc>,
    /// The publisher's name.
    pub(crate) backend: String,
    pub(crate) outcomes: OutcomeCounts,
}
