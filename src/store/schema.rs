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

    /// The steps that [`migrate`](Self::migrate) would run now; changes nothing.
    async fn plan_migration(&self) -> Result<MigrationPlan>;

    /// Creates, adopts or upgrades the tables, and returns the steps that it ran. Adopting a large table may take long.
    async fn migrate(&self, watch: &ProgressFn) -> Result<MigrationPlan>;
}
