//! The console's queries and changes, for pages and the API alike.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use uuid::Uuid;

use super::access::Role;
use super::event_scan::{EventScan, LONGEST_CHUNK};
use super::requests::{Action, BulkAction, Cursor, Filter, PageRequest, Selection};
use super::responses::{Changed, Count, Detail, EventListItem, Events, Outcome, Overview};
use super::single_flight::{CachedValue, SingleFlightCache};
use crate::error::StoreError;
use crate::event::OutboxEvent;
use crate::explain::{Explanation, explain};
use crate::outbox_status::OutboxStatus;
use crate::settings::Settings;
use crate::store::{CountMode, CreatedCursor, EventFilter, HistoryBucket, Resolution, Store};

/// Events on a page: the default, and the maximum.
pub(crate) const PAGE: u16 = 50;
pub(crate) const LARGEST_PAGE: u16 = 200;

/// How long events without a suitable index are scanned for: by default, and with `patient`.
const SCAN_TIME: Duration = Duration::from_millis(40);
const PATIENT_SCAN_TIME: Duration = Duration::from_secs(10);

/// How long events are counted.
const COUNT_TIME: Duration = Duration::from_secs(2);

/// Other events of the same key that are shown with an event: this many newer ones, and this many older ones.
const NEIGHBOURS: usize = 5;

/// Events changed in one transaction.
const BATCH: usize = 500;

/// A request that changes many events ends after this time, or if the database fails, and reports what it has done. A batch
/// that starts just before may take as long again twice: waiting for a connection, and for its statement.
const CHANGE_TIME: Duration = Duration::from_secs(8);

/// Events changed by one request; the next request continues from there.
pub(crate) const MOST_CHANGED: usize = 10_000;

type Result<T> = std::result::Result<T, StoreError>;

pub(crate) struct Desk {
    store: Arc<dyn Store>,
    settings: Settings,
    overview: SingleFlightCache<Overview, StoreError>,
}

impl Desk {
    pub(crate) fn new(store: Arc<dyn Store>, settings: Settings) -> Self {
        Self { store, settings, overview: SingleFlightCache::default() }
    }

    /// The cached overview. It has neither an answer nor a failure if counting takes longer than `patience`.
    pub(crate) async fn overview(&self, patience: Duration) -> CachedValue<Overview, StoreError> {
        let (store, settings) = (Arc::clone(&self.store), self.settings.clone());
        self.overview.get(|| async move { load_overview(&*store, &settings).await }, patience).await
    }

    pub(crate) async fn events(&self, filter: &Filter, page: PageRequest) -> Result<Events> {
        let PageRequest { newest_first, after, limit, is_patient } = page;
        let limit = usize::from(limit.clamp(1, LARGEST_PAGE));
        let filter = EventFilter::from(filter);
        let time = if is_patient { PATIENT_SCAN_TIME } else { SCAN_TIME };
        let mut scan = EventScan::new(&*self.store, &filter, newest_first, after.map(|cursor| cursor.0), time);
        // One more than is shown, to know whether there is a next page.
        let mut places = scan.first(limit + 1).await?;
        let is_full = places.len() > limit;
        places.truncate(limit);
        let stopped_at = scan.resume_after().filter(|_| !is_full);
        let next = if is_full { places.last().copied() } else { stopped_at };
        Ok(Events {
            events: self.list(&places).await?,
            next: next.map(Cursor),
            stopped_at: stopped_at.and_then(|place| self.time_of(place)),
        })
    }

    /// The time of a cursor; none beyond the calendar.
    fn time_of(&self, place: CreatedCursor) -> Option<DateTime<Utc>> {
        self.store.epoch().checked_add_signed(TimeDelta::microseconds(place.created_at))
    }

    async fn list(&self, places: &[CreatedCursor]) -> Result<Vec<EventListItem>> {
        Ok(self.store.load_without_data(&ids(places)).await?.into_iter().map(EventListItem::from).collect())
    }

    pub(crate) async fn event(&self, id: Uuid) -> Result<Detail> {
        let loading = async { self.store.load(&[id]).await?.into_iter().next().ok_or(StoreError::NotFound(id)) };
        let (event, explanation) = tokio::try_join!(loading, explain(&*self.store, &self.settings, id))?;
        let neighbours = match &event {
            Ok(event) if !event.partition_key.is_empty() => self.neighbours(event).await?,
            _ => Vec::new(),
        };
        Ok(Detail { event, explanation, neighbours })
    }

    /// The events of the same key that were created just before and after it, newest first.
    async fn neighbours(&self, event: &OutboxEvent) -> Result<Vec<EventListItem>> {
        let filter = EventFilter { key: Some(event.partition_key.clone()), ..EventFilter::default() };
        let since_epoch = (event.created_at - self.store.epoch()).num_microseconds().unwrap_or(i64::MAX);
        let after = Some(CreatedCursor { created_at: since_epoch, id: event.id });
        let find = async |newest_first| {
            EventScan::new(&*self.store, &filter, newest_first, after, SCAN_TIME / 2).first(NEIGHBOURS).await
        };
        let (newer, older) = tokio::try_join!(find(false), find(true))?;
        let places: Vec<CreatedCursor> = newer.into_iter().rev().chain(older).collect();
        self.list(&places).await
    }

    pub(crate) async fn explain(&self, id: Uuid) -> Result<Explanation> {
        explain(&*self.store, &self.settings, id).await
    }

    /// How many events an action would change.
    pub(crate) async fn count(&self, action: Action, filter: &Filter) -> Result<Count> {
        let Some(filter) = action.filter(filter) else { return Ok(Count { count: 0, more: false }) };
        let mut scan = EventScan::new(&*self.store, &filter, false, None, COUNT_TIME);
        let mut count = 0;
        while let Some(found) = scan.next(LONGEST_CHUNK).await? {
            count += found.len();
        }
        Ok(Count { count, more: scan.resume_after().is_some() })
    }

    /// How many of these events an action would change.
    pub(crate) async fn count_these(&self, action: Action, ids: &[Uuid]) -> Result<Count> {
        let events = self.store.load_without_data(ids).await?;
        let statuses =
            events.iter().map(|event| event.as_ref().map_or_else(|row| row.status, |event| Some(event.status)));
        let count = statuses.filter(|status| status.is_none_or(|status| action.may_change(status))).count();
        Ok(Count { count, more: false })
    }

    /// Changes those of the selected events whose status allows it, and logs each change. Continues if the caller no longer
    /// waits.
    pub(crate) async fn change(self: Arc<Self>, action: BulkAction, by: Role) -> Result<Changed> {
        let changing = actix_rt::spawn(async move {
            let mut done = Changed::default();
            match self.change_all(&action, by, &mut done).await {
                Err(error) if done.changed == 0 => Err(error),
                outcome => Ok(Changed { error: outcome.err().map(|error| error.to_string()), ..done }),
            }
        });
        // The task ends early only with its thread.
        changing.await.unwrap_or(Err(StoreError::Timeout { operation: "change events", limit: CHANGE_TIME }))
    }

    /// A filter's events are changed in the order of their creation, so that each is visited once, even if its status changes
    /// meanwhile; up to `MOST_CHANGED` events and for `CHANGE_TIME`.
    async fn change_all(&self, action: &BulkAction, by: Role, done: &mut Changed) -> Result<()> {
        let (filter, after) = match &action.meant {
            Selection::These(ids) => {
                for batch in ids.chunks(BATCH) {
                    done.changed += self.change_batch(action, by, batch).await?;
                }
                return Ok(());
            }
            Selection::AllThatMatch { filter, after } => (action.action.filter(filter), after.map(|cursor| cursor.0)),
        };
        let Some(filter) = filter else { return Ok(()) };
        let mut scan = EventScan::new(&*self.store, &filter, false, after, CHANGE_TIME);
        let mut met = 0;
        while met < MOST_CHANGED
            && let Some(places) = scan.next(MOST_CHANGED - met).await?
        {
            met += places.len();
            for batch in places.chunks(BATCH) {
                done.changed += self.change_batch(action, by, &ids(batch)).await?;
                done.next = batch.last().copied().map(Cursor);
                if scan.is_out_of_time() {
                    return Ok(());
                }
            }
        }
        done.next = scan.resume_after().map(Cursor);
        Ok(())
    }

    async fn change_batch(&self, action: &BulkAction, by: Role, ids: &[Uuid]) -> Result<usize> {
        let changed = self.store.change(&action.action.change(&action.reason), ids).await?;
        if let [first, ..] = changed.as_slice() {
            let (action, events) = (action.action, changed.len());
            tracing::info!(?action, role = ?by, events, %first, "events changed over HTTP");
        }
        Ok(changed.len())
    }
}

fn ids(places: &[CreatedCursor]) -> Vec<Uuid> {
    places.iter().map(|place| place.id).collect()
}

async fn load_overview(store: &dyn Store, settings: &Settings) -> Result<Overview> {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let counted_at = Utc::now();
    let (overview, minutes, hours) = tokio::try_join!(
        store.overview(CountMode::Roughly),
        store.history(Resolution::Minute, HOUR),
        store.history(Resolution::Hour, 24 * HOUR)
    )?;
    let OutboxStatus { counts, backends, workers } = OutboxStatus::new(&overview, settings);
    let published_is_estimate = overview.published_is_estimate;
    Ok(Overview {
        counted_at,
        counts,
        published_is_estimate,
        backends,
        workers,
        published_a_minute: published_a_minute(&minutes, counted_at),
        minutes: Outcome::sum_backends(minutes),
        hours: Outcome::sum_backends(hours),
    })
}

/// The number of events that each backend published in the last complete minute.
fn published_a_minute(minutes: &[HistoryBucket], now: DateTime<Utc>) -> BTreeMap<String, u64> {
    let minute = TimeDelta::minutes(1);
    let last = now.duration_trunc(minute).unwrap_or(now) - minute;
    let in_last = minutes.iter().filter(|bucket| bucket.began_at == last);
    in_last.map(|bucket| (bucket.backend.clone(), bucket.outcomes.published)).collect()
}
