//! The role of a store in housekeeping.

use std::time::Duration;

use async_trait::async_trait;

use super::{CreatedCursor, LaneName, OutcomeCounts, Result};
use crate::settings::RetentionSettings;

/// The cutoff of retention: older events are deleted; `None` keeps them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetentionCutoff {
    pub(crate) published: Option<Duration>,
    pub(crate) failed: Option<Duration>,
    /// The most events in one batch.
    pub(crate) limit: i64,
}

/// Deleted in one transaction, small enough that no other statement waits for long.
const EXPIRED_AT_ONCE: i64 = 1_000;

/// The batches in which the database refused to delete events after which a janitor does something else: each costs more
/// statements than others.
const MANY_REFUSED_BATCHES: usize = 20;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How far retention has come past events that the database refuses to delete.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RetentionCursor {
    pub(crate) published: Option<CreatedCursor>,
    pub(crate) failed: Option<CreatedCursor>,
}

/// One batch of retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExpiredBatch {
    pub(crate) deleted: usize,
    /// Where the next one begins; it moves past a batch in which an event was refused.
    pub(crate) next: RetentionCursor,
}

/// A run of retention, batch after batch. The next run begins at the oldest event again.
#[derive(Debug, Default)]
pub(crate) struct RetentionRun {
    after: RetentionCursor,
    refused: usize,
}

impl RetentionRun {
    /// Deletes the next batch and returns how many events it deleted; `None`: the run is over.
    pub(crate) async fn delete_batch(
        &mut self,
        store: &dyn MaintenanceStore,
        expiry: RetentionCutoff,
        failed_blocks: &[LaneName],
    ) -> Result<Option<usize>> {
        let ExpiredBatch { deleted, next } = store.delete_expired(expiry, failed_blocks, self.after).await?;
        let is_refused = next != self.after;
        if deleted == 0 && !is_refused {
            *self = Self::default();
            return Ok(None);
        }
        self.after = next;
        self.refused += usize::from(is_refused);
        Ok(Some(deleted))
    }

    /// Whether so much was refused that the rest of the run should come later. Once it was asked, it begins to count again.
    pub(crate) fn should_pause(&mut self) -> bool {
        let pauses = self.refused >= MANY_REFUSED_BATCHES;
        if pauses {
            self.refused = 0;
        }
        pauses
    }
}

impl From<RetentionSettings> for RetentionCutoff {
    fn from(retention: RetentionSettings) -> Self {
        Self {
            published: retention.cleanup_published.then_some(DAY * retention.published_retention_days),
            failed: Some(DAY * retention.failed_retention_days),
            limit: EXPIRED_AT_ONCE,
        }
    }
}

impl RetentionSettings {
    /// How long the inbox keeps its notes.
    pub(crate) fn inbox_kept(self) -> Duration {
        DAY * self.inbox_retention_days
    }
}

/// What a janitor does, each time in a small batch.
#[async_trait]
pub(crate) trait MaintenanceStore: Send + Sync {
    /// Publishes a small batch of events that are no longer owed to any handler, and ends deliveries whose handler was
    /// dropped; returns how many.
    async fn finish_settled(&self) -> Result<usize>;

    /// Assigns a `seq` to unsettled rows that another writer inserted without one; returns how many.
    async fn repair_missing_seq(&self) -> Result<usize>;

    /// Deletes a small batch of events past retention, the oldest behind the cursor.
    /// `failed_blocks`: lanes in which a failed event with a key stays.
    async fn delete_expired(
        &self,
        expiry: RetentionCutoff,
        failed_blocks: &[LaneName],
        after: RetentionCursor,
    ) -> Result<ExpiredBatch>;

    /// Deletes a small batch of operators' changes that are older than the history; returns how many.
    async fn delete_old_audit(&self) -> Result<usize>;

    /// Deletes a small batch of the inbox's notes that are older than this; returns how many.
    /// [`StoreError::NoInbox`](crate::StoreError::NoInbox): the database has no inbox.
    async fn delete_handled(&self, kept: Duration) -> Result<usize>;

    /// Adds outcomes of events, by publisher, to the current minute and hour by the database's clock, and deletes old
    /// buckets.
    async fn add_to_history(&self, outcomes: &[(String, OutcomeCounts)]) -> Result<()>;
}
