//! Throughput, latency and age of events over time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_outbox::StoreError;
use actix_outbox::admin::{HistoryBucket, OutboxAdmin, Resolution, Wait, WaitQuery};
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::single_flight::{CachedValue, Pace, SingleFlightCache};

/// Events of each period whose latency is read, at most.
pub(crate) const SAMPLED: u16 = 20;

/// Events that are read to find those of one backend, at most: a third of a second for PostgreSQL.
const MOST_READ: u32 = 240_000;

/// Timelines of single backends that are kept.
const KEPT: usize = 16;

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

    /// Events of each period that are read to find those of one backend, at most.
    pub(crate) fn most_read(self) -> u32 {
        MOST_READ / u32::from(self.periods().1)
    }

    fn resolution(self) -> Resolution {
        if self == Self::Hour { Resolution::Minute } else { Resolution::Hour }
    }
}

/// What is known of the periods of a range.
#[derive(Debug, Clone)]
pub(crate) struct Timeline {
    range: TimeRange,
    /// The publisher; none: all.
    backend: Option<String>,
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
    async fn load(admin: &OutboxAdmin, range: TimeRange, backend: Option<String>) -> Result<Self, StoreError> {
        let until = Utc::now();
        let (period, periods) = range.periods();
        let from = until.duration_trunc(period).unwrap_or(until) - period * i32::from(periods - 1);
        // The database's clock may be ahead; what is before the first period is left out later.
        let since = (until - from + period).to_std().unwrap_or_default();
        let query = WaitQuery {
            from,
            period: period.to_std().unwrap_or_default(),
            periods,
            each: SAMPLED,
            backends: backend.iter().cloned().collect(),
            most_read: range.most_read(),
        };
        let (outcomes, waits) = tokio::try_join!(admin.history(range.resolution(), since), admin.waits(query))?;
        Ok(Self { range, backend, from, until, outcomes, waits })
    }

    pub(crate) fn range(&self) -> TimeRange {
        self.range
    }

    /// The periods, oldest first. `oldest_due`: since when the first event that is waiting now has been due.
    pub(crate) fn periods(&self, oldest_due: Option<DateTime<Utc>>) -> Vec<Period> {
        let (length, count) = self.range.periods();
        let is_meant = |name: &str| self.backend.as_ref().is_none_or(|backend| backend == name);
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
            period.median = median(&latencies);
            period.slowest = latencies.last().copied();
            let end = (period.began_at + length).min(self.until);
            if let Some(due) = oldest_due.filter(|due| *due < end) {
                period.add_waiting(end - due);
            }
        }
        periods
    }
}

/// The value in the middle, or half-way between the two in the middle; none: there is no value.
fn median(sorted: &[f64]) -> Option<f64> {
    let half = sorted.len() / 2;
    let upper = sorted.get(half)?;
    let lower = if sorted.len().is_multiple_of(2) { sorted.get(half - 1)? } else { upper };
    Some(f64::midpoint(*lower, *upper))
}

fn seconds(time: TimeDelta) -> f64 {
    (time.num_microseconds().unwrap_or(i64::MAX) as f64 / 1e6).max(0.0)
}

type Cache = Arc<SingleFlightCache<Timeline, StoreError>>;

/// The timelines, each loaded by one request at a time.
pub(crate) struct TimelineCache {
    of_all: [Cache; 3],
    /// Those of single backends, the last used one at the end.
    of_one: Mutex<Vec<(TimeRange, String, Cache)>>,
    /// One of a single backend is loaded at a time, because it reads more.
    loading: Arc<Semaphore>,
}

impl Default for TimelineCache {
    fn default() -> Self {
        Self { of_all: [(); 3].map(|()| new_cache()), of_one: Mutex::default(), loading: Arc::new(Semaphore::new(1)) }
    }
}

fn new_cache() -> Cache {
    const PACE: Pace = Pace { min_interval: Duration::from_secs(10), factor: 40, grace: Some(Duration::from_secs(30)) };
    Arc::new(SingleFlightCache::new(PACE))
}

impl TimelineCache {
    /// The timeline of one backend, or of all. It has neither an answer nor a failure if loading takes longer than `patience`.
    pub(crate) async fn get(
        &self,
        admin: &OutboxAdmin,
        range: TimeRange,
        backend: Option<&str>,
        patience: Duration,
    ) -> CachedValue<Timeline, StoreError> {
        let admin = admin.clone();
        let Some(backend) = backend.map(str::to_owned) else {
            let [hour, day, month] = &self.of_all;
            let cache = match range {
                TimeRange::Hour => hour,
                TimeRange::Day => day,
                TimeRange::Month => month,
            };
            return cache.get(|| async move { Timeline::load(&admin, range, None).await }, patience).await;
        };
        let (cache, loading) = (self.of_one(range, &backend), Arc::clone(&self.loading));
        let load = || async move {
            // It is never closed.
            let _permit = loading.acquire().await;
            Timeline::load(&admin, range, Some(backend)).await
        };
        cache.get(load, patience).await
    }

    /// The cache of a backend's timeline. Of more than [`KEPT`], the one that was not used for the longest time is dropped.
    fn of_one(&self, range: TimeRange, backend: &str) -> Cache {
        let mut kept = self.of_one.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.iter().position(|(of_range, of_backend, _)| *of_range == range && of_backend == backend);
        let entry = match known {
            Some(place) => kept.remove(place),
            None => (range, backend.to_owned(), new_cache()),
        };
        let cache = Arc::clone(&entry.2);
        kept.push(entry);
        if kept.len() > KEPT {
            kept.remove(0);
        }
        cache
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
        let (outcomes, waits) = (Vec::new(), Vec::new());
        Timeline { range: TimeRange::Hour, backend: None, from: at(0, 0), until: at(59, 30), outcomes, waits }
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
        let all = Timeline { waits, outcomes: outcomes.to_vec(), ..timeline() };
        let timeline = Timeline { backend: Some("a".to_owned()), ..all.clone() };
        let [ten, eleven, twelve] = [10, 11, 12].map(|n| timeline.periods(None)[n].clone());
        assert_eq!((ten.published, ten.rejected, ten.sampled), (7, 1, 3));
        assert_eq!((ten.median, ten.slowest), (Some(2.0), Some(105.0)));
        assert_eq!([ten.oldest, eleven.oldest, twelve.oldest], [Some(30.0), Some(90.0), None]);
        let all = &all.periods(None)[10];
        assert_eq!((all.published, all.rejected, all.sampled), (12, 2, 4));
    }

    #[test]
    fn what_is_waiting_now_has_been_getting_older_since_it_was_due() {
        let periods = timeline().periods(Some(at(57, 15)));
        let ages: Vec<Option<f64>> = periods[56..].iter().map(|period| period.oldest).collect();
        assert_eq!(ages, [None, Some(45.0), Some(105.0), Some(135.0)]);
        assert!(periods.iter().all(|period| period.median.is_none() && period.sampled == 0));
    }

    #[test]
    fn the_median_of_an_even_count_is_between_the_two_in_the_middle() {
        for (values, expected) in [
            (&[][..], None),
            (&[3.0], Some(3.0)),
            (&[1.0, 100.0], Some(50.5)),
            (&[1.0, 2.0, 100.0], Some(2.0)),
            (&[1.0, 2.0, 4.0, 100.0], Some(3.0)),
        ] {
            assert_eq!(median(values), expected, "{values:?}");
        }
    }

    #[test]
    fn the_timelines_that_were_used_last_are_kept() {
        let cache = TimelineCache::default();
        let first = cache.of_one(TimeRange::Hour, "first");
        for n in 0..KEPT - 1 {
            cache.of_one(TimeRange::Day, &format!("backend-{n}"));
        }
        assert!(Arc::ptr_eq(&first, &cache.of_one(TimeRange::Hour, "first")));
        assert!(!Arc::ptr_eq(&first, &cache.of_one(TimeRange::Day, "first")), "another range is another timeline");
        let second = cache.of_one(TimeRange::Day, "backend-1");
        for n in 0..KEPT {
            cache.of_one(TimeRange::Month, &format!("backend-{n}"));
        }
        assert!(!Arc::ptr_eq(&second, &cache.of_one(TimeRange::Day, "backend-1")));
        assert_eq!(cache.of_one.lock().unwrap().len(), KEPT);
    }
}
