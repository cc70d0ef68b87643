//! Lists and counts of events.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::event_scan::{EventScan, LONGEST_CHUNK};
use super::{OutboxAdmin, Result};
use crate::event::OutboxEvent;
use crate::store::{Action, CreatedCursor, EventFilter, Unreadable};

/// Which part of a list is read, and how.
#[derive(Debug, Clone, Copy)]
pub struct ListRequest {
    /// Newest first, by the time of creation; else oldest first.
    pub newest_first: bool,
    /// [`EventPage::next`] of the page before.
    pub after: Option<CreatedCursor>,
    /// The most events on the page.
    pub limit: usize,
    /// How long to scan for events of a filter for which the table has no index.
    pub scan_time: Duration,
    /// Whether `data` and `data_binary` are read; else both are `None`.
    pub with_data: bool,
}

impl Default for ListRequest {
    /// The newest 50 events without their data, scanned for at most ten seconds.
    fn default() -> Self {
        Self { newest_first: true, after: None, limit: 50, scan_time: Duration::from_secs(10), with_data: false }
    }
}

/// A page of events.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EventPage {
    /// The events; a row that is not a valid event says why.
    pub events: Vec<Result<OutboxEvent, Unreadable>>,
    /// Where the next page begins; `None` on the last page.
    pub next: Option<CreatedCursor>,
    /// The scan's time ended at events created at this time; `next` continues there.
    pub stopped_at: Option<DateTime<Utc>>,
}

/// A number of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventCount {
    /// The events that were counted.
    pub count: usize,
    /// The time ended first: there may be more.
    pub more: bool,
}

impl OutboxAdmin {
    /// A page of the events that match, in the order of their creation.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn list(&self, filter: &EventFilter, request: &ListRequest) -> Result<EventPage> {
        let ListRequest { newest_first, after, limit, scan_time, with_data } = *request;
        let mut scan = EventScan::new(&*self.store, filter, newest_first, after, scan_time);
        // One more than is shown, to know whether there is a next page.
        let mut places = scan.first(limit.saturating_add(1)).await?;
        let is_full = places.len() > limit;
        places.truncate(limit);
        let stopped = scan.resume_after().filter(|_| !is_full);
        let next = if is_full { places.last().copied() } else { stopped };
        let stopped_at = stopped.and_then(|place| self.time_of(place));
        Ok(EventPage { events: self.load(&places, with_data).await?, next, stopped_at })
    }

    /// The `count` events with this event's key that were created just before it and just after it, newest first, as far as
    /// `scan_time` finds them. None if it has no key.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn neighbours(
        &self,
        event: &OutboxEvent,
        count: usize,
        scan_time: Duration,
    ) -> Result<Vec<Result<OutboxEvent, Unreadable>>> {
        if event.partition_key.is_empty() {
            return Ok(Vec::new());
        }
        let filter = EventFilter { key: Some(event.partition_key.clone()), ..EventFilter::default() };
        let since_epoch = (event.created_at - self.store.epoch()).num_microseconds().unwrap_or(i64::MAX);
        let after = Some(CreatedCursor { created_at: since_epoch, id: event.id });
        let find = async |newest_first| {
            EventScan::new(&*self.store, &filter, newest_first, after, scan_time / 2).first(count).await
        };
        let (newer, older) = tokio::try_join!(find(false), find(true))?;
        let places: Vec<CreatedCursor> = newer.into_iter().rev().chain(older).collect();
        self.load(&places, false).await
    }

    /// How many events match, counted for at most `scan_time`.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn count(&self, filter: &EventFilter, scan_time: Duration) -> Result<EventCount> {
        let mut scan = EventScan::new(&*self.store, filter, false, None, scan_time);
        let mut count = 0;
        while let Some(found) = scan.next(LONGEST_CHUNK).await? {
            count += found.len();
        }
        Ok(EventCount { count, more: scan.resume_after().is_some() })
    }

    /// How many of these events the action would change.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn count_these(&self, action: &Action, ids: &[Uuid]) -> Result<EventCount> {
        let events = self.store.load_without_data(ids).await?;
        let statuses =
            events.iter().map(|event| event.as_ref().map_or_else(|row| row.status, |event| Some(event.status)));
        let count = statuses.filter(|status| status.is_none_or(|status| action.may_change(status))).count();
        Ok(EventCount { count, more: false })
    }

    /// The time of a cursor; `None` beyond the calendar.
    fn time_of(&self, place: CreatedCursor) -> Option<DateTime<Utc>> {
        self.store.epoch().checked_add_signed(TimeDelta::microseconds(place.created_at))
    }

    async fn load(&self, places: &[CreatedCursor], with_data: bool) -> Result<Vec<Result<OutboxEvent, Unreadable>>> {
        let ids: Vec<Uuid> = places.iter().map(|place| place.id).collect();
        if with_data { self.store.load(&ids).await } else { self.store.load_without_data(&ids).await }
    }
}
