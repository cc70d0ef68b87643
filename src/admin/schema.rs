//! Creating and upgrading the tables.

use super::{AdminError, MigrationPlan, MigrationProgress, OutboxAdmin, Result};
use crate::store::NotifyStore;

impl OutboxAdmin {
    /// The steps that [`migrate`](Self::migrate) would run now; changes nothing.
    ///
    /// # Errors
    /// [`StoreError::NotAdoptable`](crate::StoreError::NotAdoptable): the table belongs to something else.
    pub async fn plan_migration(&self) -> Result<MigrationPlan> {
        self.store.plan_migration().await
    }

    /// Creates, adopts or upgrades the tables, and returns the steps that it ran. Adopting a large table may take long;
    /// `progress` is told how far it is.
    ///
    /// # Errors
    /// [`StoreError::NotAdoptable`](crate::StoreError::NotAdoptable): the table belongs to something else.
    pub async fn migrate(
        &self,
        progress: impl Fn(MigrationProgress<'_>) + Send + Sync + 'static,
    ) -> Result<MigrationPlan> {
        self.store.migrate(&progress).await
    }

    /// The steps that [`migrate_inbox`](Self::migrate_inbox) would run now; changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Unsuitable`](crate::StoreError::Unsuitable): another table has the inbox's name.
    pub async fn plan_inbox_migration(&self) -> Result<MigrationPlan> {
        self.store.plan_inbox().await
    }

    /// Creates the inbox's table if it does not exist, and returns the steps that it ran. The database needs no outbox.
    ///
    /// # Errors
    /// [`StoreError::Unsuitable`](crate::StoreError::Unsuitable): another table has the inbox's name.
    pub async fn migrate_inbox(&self) -> Result<MigrationPlan> {
        self.store.migrate_inbox().await
    }

    /// The steps that [`set_notify_trigger`](Self::set_notify_trigger) would run now; changes nothing.
    ///
    /// # Errors
    /// [`AdminError::NoNotifications`] on SQLite.
    pub async fn plan_notify_trigger(&self, wanted: bool) -> Result<MigrationPlan, AdminError> {
        Ok(self.notify_store()?.plan_trigger(wanted).await?)
    }

    /// Creates or drops the trigger that wakes workers when a writer inserts that does not wake them itself. It slows every
    /// writer.
    ///
    /// # Errors
    /// [`AdminError::NoNotifications`] on SQLite.
    pub async fn set_notify_trigger(&self, wanted: bool) -> Result<MigrationPlan, AdminError> {
        Ok(self.notify_store()?.set_trigger(wanted).await?)
    }

    pub(super) fn notify_store(&self) -> Result<&dyn NotifyStore, AdminError> {
        self.store.notify_store().ok_or(AdminError::NoNotifications)
    }
}
