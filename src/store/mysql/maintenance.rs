//! The store's role in housekeeping.

use std::time::Duration;

use async_trait::async_trait;

use super::session::{in_transaction, on_session};
use super::{MysqlStore, audit, handlers, history, retention};
use crate::store::{ExpiredBatch, LaneName, MaintenanceStore, OutcomeCounts, Result, RetentionCursor, RetentionCutoff};

#[async_trait]
impl MaintenanceStore for MysqlStore {
    async fn finish_settled(&self) -> Result<usize> {
        handlers::finish_settled(self).await
    }

    /// Every row draws its `seq` when it is inserted.
    async fn repair_missing_seq(&self) -> Result<usize> {
        Ok(0)
    }

    async fn delete_expired(
        &self,
        expiry: RetentionCutoff,
        failed_blocks: &[LaneName],
        after: RetentionCursor,
    ) -> Result<ExpiredBatch> {
        retention::delete_expired(&self.pool, expiry, failed_blocks, after).await
    }

    async fn delete_old_audit(&self) -> Result<usize> {
        on_session!(self.pool, "delete old changes of operators", |session| audit::delete_old(session))
    }

    async fn delete_handled(&self, kept: Duration) -> Result<usize> {
        self.delete_notes(kept).await
    }

    async fn add_to_history(&self, outcomes: &[(String, OutcomeCounts)]) -> Result<()> {
        in_transaction!(self.pool, "write the history", |session| history::add(session, outcomes))
    }
}
