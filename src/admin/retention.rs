//! Deleting old events.

use super::{OutboxAdmin, Result};
use crate::store::RetentionCutoff;

impl OutboxAdmin {
    /// Deletes a small batch of the events that `[retention]` no longer keeps; returns how many. 0: none is left. A failed
    /// event that holds its key is kept, and so is one that the database refuses to delete. Operators' changes of more than 30 days ago are deleted too.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn delete_expired(&self) -> Result<usize> {
        self.store.delete_old_audit().await?;
        let cutoff = RetentionCutoff::from(self.settings.retention);
        let mut run = self.retention.lock().await;
        while let Some(deleted) = run.delete_batch(&*self.store, cutoff, &self.settings.holding_lanes()).await? {
            if deleted > 0 {
                return Ok(deleted);
            }
        }
        Ok(0)
    }

    /// Deletes a small batch of the inbox's notes that `[retention]` no longer keeps; returns how many. 0: none is left.
    ///
    /// # Errors
    /// [`StoreError::NoInbox`](crate::StoreError::NoInbox): the database has no inbox. Other errors of the database.
    pub async fn delete_handled(&self) -> Result<usize> {
        self.store.delete_handled(self.settings.retention.inbox_kept()).await
    }
}
