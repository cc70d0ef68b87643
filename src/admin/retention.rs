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

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::conformance::Fixture;
    use crate::store::sqlite::fixture::SqliteFixture;

    #[tokio::test]
    async fn more_events_than_one_batch_has_that_may_not_be_deleted_hide_no_other() {
        let fixture = SqliteFixture::fresh().await;
        let old = fixture.time(-40 * 24 * 3_600_000);
        fixture
            .execute(&format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1503)
                 INSERT INTO outbox_events
                   (id, event_type, source, scheduled_at, subject, status, created_at, published_at, updated_at)
                 SELECT randomblob(16), 't', 's', {old}, CASE WHEN i <= 1500 THEN 'kept' ELSE '' END, 'published',
                   {old} + i, {old} + i, {old} + i FROM n"
            ))
            .await;
        fixture
            .execute(
                "CREATE TRIGGER refuse BEFORE DELETE ON outbox_events WHEN old.subject = 'kept'
                 BEGIN SELECT RAISE(ABORT, 'not this one'); END",
            )
            .await;
        let admin = OutboxAdmin {
            store: fixture.store(),
            settings: Arc::default(),
            backends: Arc::default(),
            retention: Arc::default(),
        };
        let mut deleted = Vec::new();
        for _ in 0..3 {
            deleted.push(admin.delete_expired().await.unwrap());
        }
        assert_eq!(deleted, [3, 0, 0]);
        assert_eq!(fixture.number("SELECT count(*) FROM outbox_events").await, 1_500);
        fixture.execute("DROP TRIGGER refuse").await;
        assert_eq!(admin.delete_expired().await.unwrap(), 1_000);
    }
}
