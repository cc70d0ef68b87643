//! The role of a store in waking the workers of other processes.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::migrate::MigrationPlan;
use super::{Notification, Result, Wakeup};

/// Wake-ups between the processes that share an outbox. They may be lost; polling then finds the events.
#[async_trait]
pub(crate) trait NotifyStore: Send + Sync {
    /// Notifies other processes of what was committed, in a transaction of its own.
    async fn announce(&self, outbox: Uuid, sender: Uuid, wakeup: &Wakeup) -> Result<()>;

    /// Listens, on a connection of its own, for notifications of processes other than `reader` from now on. An error that is
    /// not transient: no notification arrives over this address. `least_silence`: the shortest silence after which it is proved
    /// that notifications still arrive.
    async fn subscribe(&self, outbox: Uuid, reader: Uuid, least_silence: Duration) -> Result<Box<dyn Listener + '_>>;

    /// The steps that [`set_trigger`](Self::set_trigger) would run now; changes nothing.
    async fn plan_trigger(&self, wanted: bool) -> Result<MigrationPlan>;

    /// Creates or drops the trigger that sends notifications for writers that send none.
    async fn set_trigger(&self, wanted: bool) -> Result<MigrationPlan>;
}

/// A connection that receives notifications of other processes.
#[async_trait]
pub(crate) trait Listener: Send {
    /// The next notification. After an error the subscription has ended.
    async fn next(&mut self) -> Result<Notification>;
}
