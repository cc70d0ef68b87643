//! The changes that operators made.

use super::{OutboxAdmin, Result};
use crate::store::AuditEntry;

impl OutboxAdmin {
    /// The changes that operators made to events and backends in the last 30 days, newest first: at most `limit`, and only those before
    /// the entry with the id `before`.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn audit(&self, before: Option<i64>, limit: usize) -> Result<Vec<AuditEntry>> {
        self.store.audit(before, i64::try_from(limit).unwrap_or(i64::MAX)).await
    }
}
