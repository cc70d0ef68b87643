//! Throughput, latency and age of events over time.

use std::time::Duration;

use actix_outbox::StoreError;
use actix_outbox::admin::{HistoryBucket, OutboxAdmin, Resolution, Wait, WaitQuery};
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use serde::Deserialize;

use super::single_flight::{CachedValue, Pace, SingleFlightCache};

/// Events of each period whose latency is read, at most.
pub(crate) const SAMPLED: u16 = 20;

/// The time that charts show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TimeRange {
    #[default]
    Hour,
    Day,
    Month,
}

impl TimeRange {
    pub(crate) const ALL: [Self; 3] = [Self::Hour, Self::Day, Self::Month];

    /// As addresses have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// The length of a period, and the number of periods.
    pub(crate) fn periods(self) -> (TimeDelta, u16) {
        match self {
            Self::Hour => (TimeDelta::minutes(1), 60),
            Self::Day => (TimeDelta::hours(1), 24),
            Self::Month => (TimeDelta::hours(6), 120),
        }
    }

    fn resolution(self) -> Resolution {
        if self == Self::Hour { Resolution::Minute } else { Resolution::Hour }
    }
}

/// What is known of the periods of a range.
#[derive(Debug, Clone)]
pub(crate) struct Timeline {
    range: TimeRange,
    /// When the first period begins.
    from: DateTime<Utc>,
    /// Until when it is known.
    until: DateTime<Utc>,
    outcomes: Vec<HistoryBucket>,
    waits: Vec<Wait>,
}

/// One period.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Period {
    pub(crate) began_at: DateTime<Utc>,
    pub(crate) published: u64,
    pub(crate) rejected: u64,
    pub(crate) failed: u64,
    /// Seconds from the time when an event was due to its publication, of the sampled events that were due in this period.
    pub(crate) median: Option<f64>,
    pub(crate) slowest: Option<f64>,
    /// The number of these events.
    pub(crate) sampled: usize,
    /// Seconds for which the oldest event that is known to have waited was due when the period ended.
    pub(crate) oldest: Option<f64>,
}

impl Period {
    fn add_waiting(&mut self, age: TimeDelta) {
        self.oldest = Some(self.oldest.unwrap_or_default().max(seconds(age)));
    }
}

impl Timeline {
    async fn load(admin: &OutboxAdmin, range: TimeRange) -> Result<Self, StoreError> {
        let until = Utc::now();
        let (period, periods) = range.periods();
        let from = until.duration_trunc(period).unwrap_or(until) - period * i32::from(periods - 1);
        // The database's clock may be ahead; what is before the first period is left out later.
        let since = (until - from + period).to_std().unwrap_or_default();
        let query = WaitQuery { from, period: period.to_std().unwrap_or_default(), periods, each: SAMPLED };
        let (outcomes, waits) = tokio::try_join!(admin.history(range.resolution(), since), admin.waits(query))?;
        Ok(Self { range, from, until, outcomes, waits })
    }

    pub(crate) fn range(&self) -> TimeRange {
        self.range
    }

    /// The periods, oldest first; of one backend, or of all. `oldest_due`: since when the first event that is waiting now has
    /// been due.
    pub(crate) fn periods(&self, backend: Option<&str>, oldest_due: Option<DateTime<Utc>>) -> Vec<Period> {
        let (length, count) = self.range.periods();
        let is_meant = |name: &str| backend.is_none_or(|backend| backend == name);
        let starts = (0..count).map(|n| self.from + length * i32::from(n));
        let mut periods: Vec<Period> = starts.map(|began_at| Period { began_at, ..Period::default() }).collect();
        let place =
            |at: DateTime<Utc>| usize::try_from((at - self.from).num_seconds().div_euclid(length.num_seconds()));
        for bucket in self.outcomes.iter().filter(|bucket| is_meant(&bucket.backend)) {
            if let Some(period) = place(bucket.began_at).ok().and_then(|n| periods.get_mut(n)) {
                period.published += bucket.outcomes.published;
                period.rejected += bucket.outcomes.rejected;
                period.failed += bucket.outcomes.failed;
            }
        }
        let mut latencies: Vec<Vec<f64>> = vec![Vec::new(); periods.len()];
        for wait in self.waits.iter().filter(|wait| is_meant(&wait.backend)) {
            if let Some(latencies) = place(wait.due_at).ok().and_then(|n| latencies.get_mut(n)) {
                latencies.push(seconds(wait.published_at - wait.due_at));
            }
            for period in &mut periods {
                let end = (period.began_at + length).min(self.until);
                if (wait.due_at..wait.published_at).contains(&end) {
                    period.add_waiting(end - wait.due_at);
                }
            }
        }
        for (period, mut latencies) in periods.iter_mut().zip(latencies) {
            latencies.sort_unstable_by(f64::total_cmp);
            period.sampled = latencies.len();
            period.median = latencies.get(latencies.len() / 2).copied();
            period.slowest = latencies.last().copied();
            let end = (period.began_at + length).min(self.until);
            if let Some(due) = oldest_due.filter(|due| *due < end) {
                period.add_waiting(end - due);
            }
        }
        periods
    }
}

fn seconds(time: TimeDelta) -> f64 {
    (time.num_microseconds().unwrap_or(i64::MAX) as f64 / 1e6).max(0.0)
}

/// The timelines, each loaded by one request at a time.
pub(crate) struct TimelineCache([SingleFlightCache<Timeline, StoreError>; 3]);

impl Default for TimelineCache {
    fn default() -> Self {
        const PACE: Pace =
            Pace { min_interval: Duration::from_secs(10), factor: 40, grace: Some(Duration::from_secs(30)) };
        Self([(); 3].map(|()| SingleFlightCache::new(PACE)))
    }
}

impl TimelineCache {
    /// The timeline. It has neither an answer nor a failure if loading takes longer than `patience`.
    pub(crate) async fn get(
        &self,
        admin: &OutboxAdmin,
        range: TimeRange,
        patience: Duration,
    ) -> CachedValue<Timeline, StoreError> {
        let [hour, day, month] = &self.0;
        let cache = match range {
            TimeRange::Hour => hour,
            TimeRange::Day => day,
            TimeRange::Month => month,
        };
        let admin = admin.clone();
        cache.get(|| async move { Timeline::load(&admin, range).await }, patience).await
    }
}

#[cfg(test)]
mod tests {
    use actix_outbox::admin::OutcomeCounts;

    use super::*;

    fn at(minute: i64, second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minute) + TimeDelta::seconds(second)
    }

    /// An hour that ends within its last minute.
    fn timeline() -> Timeline {
        Timeline { range: TimeRange::Hour, from: at(0, 0), until: at(59, 30), outcomes: Vec::new(), waits: Vec::new() }
    }

    #[test]
    fn an_event_counts_where_it_was_due_and_ages_until_it_is_published() {
        let wait = |backend: &str, due_at, published_at| Wait { backend: backend.to_owned(), due_at, published_at };
        let waits = vec![
            wait("a", at(10, 0), at(10, 2)),
            wait("a", at(10, 30), at(12, 15)),
            wait("a", at(10, 40), at(10, 41)),
            wait("b", at(10, 50), at(11, 50)),
        ];
        let outcomes = [("a", 7), ("b", 5)].map(|(backend, published)| HistoryBucket {
            began_at: at(10, 0),
            backend: backend.to_owned(),
            outcomes: OutcomeCounts { published, rejected: 1, failed: 0 },
        });
        let timeline = Timeline { waits, outcomes: outcomes.to_vec(), ..timeline() };
        let [ten, eleven, twelve] = [10, 11, 12].map(|n| timeline.periods(Some("a"), None)[n].clone());
        assert_eq!((ten.published, ten.rejected, ten.sampled), (7, 1, 3));
        assert_eq!((ten.median, ten.slowest), (Some(2.0), Some(105.0)));
        assert_eq!([ten.oldest, eleven.oldest, twelve.oldest], [Some(30.0), Some(90.0), None]);
        let all = &timeline.periods(None, None)[10];
        assert_eq!((all.published, all.rejected, all.sampled), (12, 2, 4));
    }

    #[test]
    fn what_is_waiting_now_has_been_getting_older_since_it_was_due() {
        let periods = timeline().periods(None, Some(at(57, 15)));
        let ages: Vec<Option<f64>> = periods[56..].iter().map(|period| period.oldest).collect();
        assert_eq!(ages, [None, Some(45.0), Some(105.0), Some(135.0)]);
        assert!(periods.iter().all(|period| period.median.is_none() && period.sampled == 0));
    }
}
