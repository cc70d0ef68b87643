//! The role of a store in migrations.

use async_trait::async_trait;
use uuid::Uuid;

use super::Result;
use super::migrate::{MigrationPlan, ProgressFn};

/// The outbox's tables as such: creating, adopting and upgrading them.
#[async_trait]
pub(crate) trait SchemaStore: Send + Sync {
    /// The outbox's own id; an error if the tables are missing or out of date.
    async fn outbox_id(&self) -> Result<Uuid>;

    /// The schema of the tables, once a connection has found it; `None` if the database has none.
    fn schema(&self) -> Option<String> {
        None
    }

    /// The most connections that a worker has to the server; `None` if the database has no server.
    fn most_connections(&self) -> Option<usize> {
        None
    }

    /// An error if the database hides rows of the outbox from this process.
    async fn check_visibility(&self) -> Result<()> {
        Ok(())
    }

    /// An error if this process may not do what a worker does, or the database hides rows from it.
    async fn check_worker(&self) -> Result<()> {
        Ok(())
    }

    /// The steps that [`migrate`](Self::migrate) would run now; changes nothing.
    async fn plan_migration(&self) -> Result<MigrationPlan>;

    /// Creates, adopts or upgrades the tables, and returns the steps that it ran. Adopting a large table may take long.
    async fn migrate(&self, watch: &ProgressFn) -> Result<MigrationPlan>;

    /// The steps that [`migrate_inbox`](Self::migrate_inbox) would run now; changes nothing.
    async fn plan_inbox(&self) -> Result<MigrationPlan>;

    /// Creates the inbox's table if it does not exist, and nothing else, and returns the steps that it ran.
    async fn migrate_inbox(&self) -> Result<MigrationPlan>;
}
