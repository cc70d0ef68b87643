//! Going through events in the order of their creation, a stretch at a time: what one statement costs is bounded, whatever
//! is looked for.

use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::store::{CreatedCursor, EventFilter, Page, ScanPage, Store};

/// Events that are looked at by the first statement, which is enough for most pages, and by each one after it.
const FIRST_STRETCH: usize = 1_000;
pub(super) const LONGEST_CHUNK: usize = 20_000;

/// A walk that stands where it stopped.
pub(super) struct EventScan<'a> {
    store: &'a dyn Store,
    filter: &'a EventFilter,
    newest_first: bool,
    after: Option<CreatedCursor>,
    chunk: usize,
    at_end: bool,
    ends_at: Instant,
}

impl<'a> EventScan<'a> {
    /// Begins after a place, or with the first event, and lasts so long, and for one stretch at least.
    pub(super) fn new(
        store: &'a dyn Store,
        filter: &'a EventFilter,
        newest_first: bool,
        after: Option<CreatedCursor>,
        time: Duration,
    ) -> Self {
        let (chunk, ends_at) = (FIRST_STRETCH, Instant::now() + time);
        Self { store, filter, newest_first, after, chunk, at_end: false, ends_at }
    }

    /// Whether the time is over.
    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.ends_at
    }

    /// Where it goes on, unless it has come to the end.
    pub(super) fn goes_on_after(&self) -> Option<CreatedCursor> {
        self.after.filter(|_| !self.at_end)
    }

    /// The next of those that are meant, `limit` at most and perhaps none; `None` at the end and when the time is over.
    pub(super) async fn next(&mut self, limit: usize) -> Result<Option<Vec<CreatedCursor>>, StoreError> {
        let has_begun = self.chunk != FIRST_STRETCH;
        if self.at_end || (has_begun && self.is_over()) {
            return Ok(None);
        }
        let page = Page { newest_first: self.newest_first, after: self.after, limit: limit as i64 };
        let ScanPage { places, stopped_at } = self.store.scan(self.filter, page, self.chunk as i64).await?;
        self.chunk = LONGEST_CHUNK;
        // Cut off by the limit, the rest of the stretch has not been seen.
        let last = if places.len() == limit { places.last().copied() } else { stopped_at };
        self.at_end = last.is_none();
        self.after = last.or(self.after);
        Ok(Some(places))
    }

    /// The next of those that are meant, so many or as many as there is time to find.
    pub(super) async fn first(&mut self, count: usize) -> Result<Vec<CreatedCursor>, StoreError> {
        let mut places = Vec::new();
        while places.len() < count
            && let Some(found) = self.next(count - places.len()).await?
        {
            places.extend(found);
        }
        Ok(places)
    }
}
