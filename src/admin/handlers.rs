//! The handlers of all services, and what they are owed.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use super::{AdminError, OutboxAdmin, Result};
use crate::store::{OwedHandler, WorkerRow, handler_lane};

/// One handler that is registered or owed events.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HandlerStatus {
    /// Its name.
    pub name: String,
    /// Events that it must still handle, up to 100,000, except those that the delivering process passes to it directly.
    pub owed: i64,
    /// Those of them whose types the handler no longer accepts, in any process that has it.
    pub types_no_longer_handled: i64,
    /// How long the oldest of them has been owed.
    pub oldest_owed_seconds: Option<f64>,
    /// Whether a live process has it.
    pub alive: bool,
    /// Whether new events are no longer owed to it, because no live process has had it for its `handlers_owed`.
    pub expired: bool,
}

impl OutboxAdmin {
    /// The handlers that are registered or owed events, by name.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn handlers(&self) -> Result<Vec<HandlerStatus>> {
        let (owed, workers) = tokio::try_join!(self.store.owed(), self.store.workers())?;
        Ok(list(owed, &workers, self.settings.worker.lease))
    }

    /// Drops a handler whose service will not come back: no event waits for it any more, and events that waited only for it
    /// are done. Returns how many waited. A service that starts with a handler of that name later gets only events committed
    /// after that.
    ///
    /// # Errors
    /// [`AdminError::UnknownHandler`], and [`AdminError::LiveHandler`] while a process has it.
    pub async fn drop_handler(&self, name: &str) -> Result<usize, AdminError> {
        let handlers = self.handlers().await?;
        match handlers.iter().find(|handler| handler.name == name) {
            None => Err(AdminError::UnknownHandler { name: name.to_owned() }),
            Some(handler) if handler.alive => Err(AdminError::LiveHandler { name: name.to_owned() }),
            Some(_) => Ok(self.store.drop_handler(name).await?),
        }
    }
}

/// Each handler, and whether one of these workers has it.
fn list(owed: Vec<OwedHandler>, workers: &[WorkerRow], lease: Duration) -> Vec<HandlerStatus> {
    let living: BTreeSet<String> = workers
        .iter()
        .filter(|worker| worker.is_alive(lease))
        .flat_map(|worker| worker.reports().into_keys())
        .collect();
    let status = |handler: OwedHandler| HandlerStatus {
        alive: living.contains(&*handler_lane(&handler.name)),
        expired: handler.expired,
        name: handler.name,
        owed: handler.owed,
        types_no_longer_handled: handler.not_covered,
        oldest_owed_seconds: handler.oldest.map(|oldest| oldest.as_secs_f64()),
    };
    owed.into_iter().map(status).collect()
}
