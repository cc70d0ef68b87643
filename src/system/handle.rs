//! `Outbox`: the handle that applications keep.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, MailboxError};
use diesel_async::{AsyncConnection, TransactionManager};
use uuid::Uuid;

use super::gauges;
use super::messages::{HealthReport, Shutdown, Subscribe};
use super::outbox_system::OutboxSystem;
use super::shared::Shared;
use super::supervisor::{Supervisor, report};
use crate::error::{PublishError, StoreError, SystemError};
use crate::event::OutboxEvent;
use crate::explain::{Explanation, explain};
use crate::publish::NewEvent;
use crate::store::Wakeup;

/// How often [`Outbox::drained`] looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How often it is looked for an actor that replaces a dead one.
const REPLACEMENT_LOOKS: usize = 50;

/// A running outbox. Cheap to clone; the system runs until [`shutdown`](Self::shutdown) or until actix' own system stops.
#[derive(Clone)]
pub struct Outbox {
    shared: Arc<Shared>,
}

impl Outbox {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Its address, for applications that speak in messages.
    ///
    /// # Errors
    /// [`SystemError::Stopped`] after a shutdown.
    pub fn addr(&self) -> Result<Addr<OutboxSystem>, SystemError> {
        self.shared.addresses().system.clone().ok_or(SystemError::Stopped)
    }

    fn supervisor(&self) -> Result<Addr<Supervisor>, SystemError> {
        self.shared.addresses().supervisor.clone().ok_or(SystemError::Stopped)
    }

    /// Writes an event in a transaction of its own and returns it as stored. Calls that arrive together share one INSERT.
    /// Waits where too many events wait already; one whose caller gives up before it is written is dropped.
    ///
    /// # Errors
    /// [`PublishError::Invalid`] for an event that breaks a rule; [`PublishError::IdConflict`] where its id is that of an
    /// event with other content; [`PublishError::Store`] where the database refused it or gave no answer. If that error is
    /// transient, the event may have been stored: publish it again under the same id to be sure.
    /// [`PublishError::Stopped`] after a shutdown.
    pub async fn send(&self, event: NewEvent) -> Result<OutboxEvent, PublishError> {
        let system = living(|| self.addr()).await.map_err(|_| PublishError::Stopped)?;
        system.send(event.in_current_trace()).await.unwrap_or(Err(PublishError::Stopped))
    }

    /// Runs `work` in a transaction on the caller's connection and wakes the workers once it has committed.
    ///
    /// # Errors
    /// What `work` returns, after rolling back; or diesel's error when the transaction itself fails.
    pub async fn transaction<C, T, E>(
        &self,
        conn: &mut C,
        work: impl AsyncFnOnce(&mut C) -> Result<T, E>,
    ) -> Result<T, E>
    where
        C: AsyncConnection,
        E: From<diesel::result::Error>,
    {
        C::TransactionManager::begin_transaction(conn).await?;
        match work(conn).await {
            Ok(done) => {
                C::TransactionManager::commit_transaction(conn).await?;
                self.wake();
                Ok(done)
            }
            Err(error) => {
                // Where the connection broke this fails as well; what `work` says is the cause.
                let _ = C::TransactionManager::rollback_transaction(conn).await;
                Err(error)
            }
        }
    }

    /// Says that something was committed: the worker of this process and, on Postgres, those of others look at once rather
    /// than at their next poll. Returns at once, and cannot fail: what nobody hears is found by polling.
    pub fn wake(&self) {
        self.shared.announce(Wakeup::EveryLane);
    }

    /// Subscribes a handler actor while the system runs. Handlers that are to see every event belong to the builder.
    ///
    /// # Errors
    /// [`SystemError::HandlerNameTaken`] where a running handler for other events has its name; [`SystemError::Stopped`] after a
    /// shutdown.
    pub async fn subscribe(&self, subscription: Subscribe) -> Result<(), SystemError> {
        self.supervisor()?;
        Shared::subscribe(&self.shared, subscription).await
    }

    /// How the system is.
    ///
    /// # Errors
    /// [`SystemError::Stopped`] after a shutdown.
    pub async fn health(&self) -> Result<HealthReport, SystemError> {
        self.supervisor()?;
        Ok(report(Arc::clone(&self.shared)).await)
    }

    /// Why an event has not been sent, or where it went.
    ///
    /// # Errors
    /// [`StoreError::NotFound`](crate::StoreError::NotFound) for an id that no event has, and what else the database says;
    /// [`SystemError::Stopped`] after a shutdown.
    pub async fn explain(&self, id: Uuid) -> Result<Explanation, SystemError> {
        let shared = Arc::clone(&self.shared);
        let asked = self.shared.runtime.spawn(async move { explain(&*shared.store, &shared.settings, id).await });
        Ok(asked.await.map_err(|_| SystemError::Stopped)??)
    }

    /// Whether this process does its work: the loop that reads has turned within the lease time, whatever the database and
    /// the backends say. Asks nobody.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn alive(&self) -> Result<(), String> {
        let silent = self.shared.silent_for();
        let lease = self.shared.settings.worker.lease;
        if self.shared.publishers.is_empty() || silent < lease || self.shared.is_stopping() {
            return Ok(());
        }
        Err(format!("the loop that reads has not turned for {silent:.1?}, longer than the lease time of {lease:?}"))
    }

    /// Brings those metrics up to date that say what is, not what happened: `outbox_events_due` and
    /// `outbox_oldest_due_age_seconds`, for which the database is asked, and what is in flight, owned and paused. Before each
    /// scrape, say; the others need no call.
    ///
    /// # Errors
    /// What the database says; the gauges that need none of it are up to date all the same. [`SystemError::Stopped`] after a
    /// shutdown.
    pub async fn update_gauges(&self) -> Result<(), SystemError> {
        self.update_own_gauges();
        let shared = Arc::clone(&self.shared);
        let updated = self.shared.runtime.spawn(async move { gauges::update_due(&shared).await });
        Ok(updated.await.map_err(|_| SystemError::Stopped)??)
    }

    /// Those of them that the database is not asked for.
    pub(crate) fn update_own_gauges(&self) {
        gauges::update_own(&self.shared);
    }

    /// Waits until nothing that is due for the served backends is left to deliver, by this worker or another. What is
    /// held, and what waits behind a retry that is not due, does not count; a paused backend's events do, and so does what
    /// handlers of this process are owed. Waits on while the database cannot be reached.
    pub async fn drained(&self) {
        let lanes: Vec<_> = self.shared.lanes().cloned().collect();
        let holding = self.shared.settings.holding_lanes();
        loop {
            if self.shared.is_idle() {
                let (shared, lanes, holding) = (Arc::clone(&self.shared), lanes.clone(), holding.clone());
                let handlers: Vec<String> =
                    shared.subscriptions().iter().map(|handler| handler.name().to_owned()).collect();
                let asked = self.shared.runtime.spawn(async move {
                    Ok::<_, StoreError>(
                        shared.store.has_due(&lanes, &holding).await?
                            || shared.store.has_due_deliveries(&handlers).await?,
                    )
                });
                if matches!(asked.await, Ok(Ok(false))) && self.shared.is_idle() {
                    return;
                }
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Finishes what is in flight, releases the leases and stops the actors: within `shutdown_timeout` and 5 s, whatever
    /// does not answer.
    ///
    /// # Errors
    /// [`SystemError::ShutdownTimeout`] where that took longer than `shutdown_timeout`: everything is stopped all the
    /// same, and what was in flight stays in the outbox. [`SystemError::Stopped`] when it had been shut down before.
    pub async fn shutdown(&self) -> Result<(), SystemError> {
        living(|| self.supervisor()).await?.send(Shutdown).await.map_err(stopped)?
    }
}

/// An actor; where it has died, the one that takes its place in a moment.
async fn living<A: Actor>(address: impl Fn() -> Result<Addr<A>, SystemError>) -> Result<Addr<A>, SystemError> {
    for _ in 0..REPLACEMENT_LOOKS {
        let actor = address()?;
        if actor.connected() {
            return Ok(actor);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Err(SystemError::Stopped)
}

fn stopped(_: MailboxError) -> SystemError {
    SystemError::Stopped
}

#[cfg(all(test, feature = "postgres"))]
#[path = "sharing_tests.rs"]
mod tests;
