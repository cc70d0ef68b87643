//! Scans events in the order of their creation, in chunks, so that the cost of each statement is bounded for any filter.

use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::store::{CreatedCursor, EventFilter, Page, ScanPage, Store};

/// Events scanned by the first statement, which is enough for most pages, and by each later one.
const FIRST_CHUNK: usize = 1_000;
pub(super) const LONGEST_CHUNK: usize = 20_000;

/// A scan that can be resumed where it stopped.
pub(super) struct EventScan<'a> {
    store: &'a dyn Store,
    filter: &'a EventFilter,
    newest_first: bool,
    after: Option<CreatedCursor>,
    chunk: usize,
    at_end: bool,
    /// `None`: never.
    ends_at: Option<Instant>,
}

impl<'a> EventScan<'a> {
    /// Starts after a cursor, or with the first event. Lasts for `time`, but reads at least one chunk.
    pub(super) fn new(
        store: &'a dyn Store,
        filter: &'a EventFilter,
        newest_first: bool,
        after: Option<CreatedCursor>,
        time: Duration,
    ) -> Self {
        let (chunk, ends_at) = (FIRST_CHUNK, Instant::now().checked_add(time));
        Self { store, filter, newest_first, after, chunk, at_end: false, ends_at }
    }

    /// Whether the scan's time is over.
    pub(super) fn is_out_of_time(&self) -> bool {
        self.ends_at.is_some_and(|end| Instant::now() >= end)
    }

    /// Where a later scan continues; none at the end.
    pub(super) fn resume_after(&self) -> Option<CreatedCursor> {
        self.after.filter(|_| !self.at_end)
    }

    /// The next matching events, at most `limit` and perhaps none; `None` at the end or when the time is over.
    pub(super) async fn next(&mut self, limit: usize) -> Result<Option<Vec<CreatedCursor>>, StoreError> {
        let has_begun = self.chunk != FIRST_CHUNK;
        if self.at_end || (has_begun && self.is_out_of_time()) {
            return Ok(None);
        }
        let page = Page {
            newest_first: self.newest_first,
            after: self.after,
            limit: i64::try_from(limit).unwrap_or(i64::MAX),
        };
        let ScanPage { places, stopped_at } = self.store.scan(self.filter, page, self.chunk as i64).await?;
        self.chunk = LONGEST_CHUNK;
        // If the limit cut the chunk off, its rest has not been scanned.
        let last = if places.len() == limit { places.last().copied() } else { stopped_at };
        self.at_end = last.is_none();
        self.after = last.or(self.after);
        Ok(Some(places))
    }

    /// The next `count` matching events, or as many as it finds in its time.
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
