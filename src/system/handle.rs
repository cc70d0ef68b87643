//! `Outbox`: the handle that applications keep.

use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, MailboxError};
use diesel_async::{AsyncConnection, TransactionManager};
use uuid::Uuid;

use super::addresses::SupervisorAddress;
use super::context::SystemContext;
use super::gauges;
use super::health::HealthReport;
use super::messages::Shutdown;
use super::outbox_system::OutboxSystem;
use super::supervisor::report;
use crate::admin::explain::{Explanation, explain};
use crate::error::{PublishError, StoreError, SystemError};
use crate::event::OutboxEvent;
use crate::handlers::Subscribe;
use crate::opaque_debug::opaque_debug;
use crate::publish::NewEvent;
use crate::store::{OutboxConnection, Wakeup};
use crate::transaction::{Rollback, TransactionError};

/// How often the handle checks for something.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// How often the handle checks for the replacement of a dead actor.
const REPLACEMENT_CHECKS: usize = 50;

/// A running outbox. Cheap to clone; the system runs until [`shutdown`](Self::shutdown) or until actix' own system stops.
#[derive(Clone)]
pub struct Outbox {
    pub(super) context: Arc<SystemContext>,
}

opaque_debug!(Outbox);

impl Outbox {
    pub(crate) fn new(context: Arc<SystemContext>) -> Self {
        Self { context }
    }

    /// The address of the system, for applications that send messages.
    ///
    /// # Errors
    /// [`SystemError::Stopped`] after a shutdown.
    pub fn addr(&self) -> Result<Addr<OutboxSystem>, SystemError> {
        self.context.addresses().system.clone().ok_or(SystemError::Stopped)
    }

    fn supervisor(&self) -> Result<SupervisorAddress, SystemError> {
        self.context.addresses().supervisor.clone().ok_or(SystemError::Stopped)
    }

    /// Writes an event in a transaction of its own and returns it as stored. Calls that arrive together share one INSERT.
    /// Waits if too many events are waiting already; an event is dropped if its caller stops waiting before it is written.
    ///
    /// # Errors
    /// [`PublishError::Invalid`]: the event breaks a rule. [`PublishError::IdConflict`]: an event with its id and other
    /// content is stored. [`PublishError::Store`]: the database refused it or did not answer; if that error is transient,
    /// the event may have been stored: publish it again with the same id to be sure. [`PublishError::Stopped`]: after a
    /// shutdown.
    pub async fn send(&self, event: NewEvent) -> Result<OutboxEvent, PublishError> {
        let system = living(|| self.addr(), Addr::connected).await.map_err(|_| PublishError::Stopped)?;
        system.send(event.in_current_trace()).await.unwrap_or(Err(PublishError::Stopped))
    }

    /// As [`send`](Self::send), for a thread that may wait: of a thread pool, of `spawn_blocking`, of a `SyncArbiter`. On a
    /// worker thread of a tokio runtime it works, too, and keeps that thread from other tasks meanwhile.
    ///
    /// # Errors
    /// Those of [`send`](Self::send). [`PublishError::WouldBlock`]: this thread runs actors, which the call would stop.
    pub fn send_blocking(&self, event: NewEvent) -> Result<OutboxEvent, PublishError> {
        if actix_rt::Arbiter::try_current().is_some() {
            return Err(PublishError::WouldBlock);
        }
        let (answer, stored) = std::sync::mpsc::channel();
        let (outbox, event) = (self.clone(), event.in_current_trace());
        self.context.runtime.spawn(async move {
            // The caller waits.
            let _ = answer.send(outbox.send(event).await);
        });
        stored.recv().unwrap_or(Err(PublishError::Stopped))
    }

    /// Runs `work` in a transaction on the caller's connection and wakes the workers once it has committed. In `work`, every
    /// error can be returned with `?`; it rolls the transaction back.
    ///
    /// ```no_run
    /// # use actix_outbox::{NewEvent, Outbox, TransactionError, publish};
    /// # use diesel_async::{AsyncPgConnection, RunQueryDsl};
    /// # async fn work(outbox: &Outbox, conn: &mut AsyncPgConnection, names: &[String]) -> Result<(), TransactionError> {
    /// let event = outbox
    ///     .transaction(conn, async |conn| {
    ///         diesel::sql_query("UPDATE users SET seen = now()").execute(conn).await?;
    ///         let first = names.first().ok_or("no user is given")?;
    ///         Ok(publish(conn, NewEvent::new("user.seen", "users").subject(first)).await?)
    ///     })
    ///     .await?;
    /// # let _: actix_outbox::OutboxEvent = event;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The error of `work`, after a rollback; or diesel's error if the transaction itself fails. Both are found by
    /// [`TransactionError::downcast_ref`].
    pub async fn transaction<C: AsyncConnection, T>(
        &self,
        conn: &mut C,
        work: impl AsyncFnOnce(&mut C) -> Result<T, Rollback>,
    ) -> Result<T, TransactionError> {
        C::TransactionManager::begin_transaction(conn).await?;
        match work(conn).await {
            Ok(done) => {
                C::TransactionManager::commit_transaction(conn).await?;
                self.wake();
                Ok(done)
            }
            Err(error) => {
                // If the connection broke, this fails as well; the error of `work` is the cause.
                let _ = C::TransactionManager::rollback_transaction(conn).await;
                Err(error.into())
            }
        }
    }

    /// A pool of at most `size` connections to the outbox's database, for the application's own statements: with the outbox's
    /// address, TLS and secrets, which are read again for each connection. On PostgreSQL, `database.schema` is the last schema
    /// of the connections' search path unless it is in the path already; a path that leads to another outbox is an error.
    ///
    /// ```no_run
    /// use diesel_async::AsyncPgConnection;
    ///
    /// # fn pool(outbox: actix_outbox::Outbox) -> Result<(), actix_outbox::StoreError> {
    /// let pool = outbox.pool::<AsyncPgConnection>(16)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Unsuitable`]: the outbox is in another kind of database. Connections are made when they are first used.
    pub fn pool<C: OutboxConnection>(&self, size: usize) -> Result<C::Pool, StoreError> {
        C::build_pool(self.context.store.application_target(), size)
    }

    /// A connection as a [`pool`](Self::pool) makes it.
    ///
    /// # Errors
    /// Those of connecting; [`StoreError::Unsuitable`]: the outbox is in another kind of database.
    pub async fn connection<C: OutboxConnection>(&self) -> Result<C, StoreError> {
        C::connect(self.context.store.application_target()).await
    }

    /// Announces that events were committed: the worker of this process and, on Postgres, those of others fetch immediately
    /// instead of at their next poll. Returns immediately and cannot fail: events whose wake-up is lost are found by
    /// polling.
    pub fn wake(&self) {
        self.context.announce(Wakeup::EveryLane);
    }

    /// Subscribes a handler actor while the system runs. Handlers that must see every event belong in the builder.
    ///
    /// # Errors
    /// [`SystemError::HandlerName`]: the name is empty or too long. [`SystemError::HandlerNameTaken`]: a running handler for
    /// other events has the name. [`SystemError::Stopped`]: after a shutdown.
    pub async fn subscribe(&self, subscription: Subscribe) -> Result<(), SystemError> {
        self.supervisor()?;
        self.context.subscribe(subscription).await
    }

    /// Passes no further event to the handler of this name in this process; returns whether there was one. Events that are
    /// in the actor's mailbox are still handled.
    ///
    /// The handler stays announced: events are owed to it as to a handler whose process has ended, for
    /// `worker.handlers_owed`, and reach it when it is subscribed again, here or in another process.
    /// [`OutboxAdmin::drop_handler`](crate::OutboxAdmin::drop_handler) ends that.
    pub fn unsubscribe(&self, name: &str) -> bool {
        self.context.unsubscribe(name)
    }

    /// Reports the health of the system.
    ///
    /// # Errors
    /// [`SystemError::Stopped`] after a shutdown.
    pub async fn health(&self) -> Result<HealthReport, SystemError> {
        self.supervisor()?;
        Ok(report(Arc::clone(&self.context)).await)
    }

    /// Explains why an event has not been sent, or where it went.
    ///
    /// # Errors
    /// [`StoreError::NotFound`](crate::StoreError::NotFound) if no event has the id, and other errors of the database;
    /// [`SystemError::Stopped`] after a shutdown.
    pub async fn explain(&self, id: Uuid) -> Result<Explanation, SystemError> {
        let context = Arc::clone(&self.context);
        let asked = self.context.runtime.spawn(async move { explain(&*context.store, &context.settings, id).await });
        Ok(asked.await.map_err(|_| SystemError::Stopped)??)
    }

    /// Checks whether the poll loop of this process has run within the lease time, whatever the state of the database and
    /// the backends. Queries neither.
    ///
    /// # Errors
    /// A description of the problem, for the operator.
    pub fn alive(&self) -> Result<(), String> {
        let silent = self.context.liveness.silent_for();
        let lease = self.context.settings.worker.lease;
        if self.context.publishers.is_empty() || silent < lease || self.context.liveness.is_stopping() {
            return Ok(());
        }
        Err(format!("poll loop has not run for {silent:.1?}, longer than the lease time of {lease:?}"))
    }

    /// Updates the metrics that show a state: `outbox_events_due` and `outbox_oldest_due_age_seconds`, for which the
    /// database is queried, and what is in flight, owned and paused. Call it before each scrape, for example; the other
    /// metrics need no call.
    ///
    /// # Errors
    /// Errors of the database; the gauges that do not need it are updated all the same. [`SystemError::Stopped`] after a
    /// shutdown.
    pub async fn update_gauges(&self) -> Result<(), SystemError> {
        self.update_own_gauges();
        let context = Arc::clone(&self.context);
        let updated = self.context.runtime.spawn(async move { gauges::update_due(&context).await });
        Ok(updated.await.map_err(|_| SystemError::Stopped)??)
    }

    /// Updates the gauges for which the database is not queried.
    pub fn update_own_gauges(&self) {
        gauges::update_own(&self.context);
    }

    /// Finishes what is in flight, releases the leases and stops the actors, within `shutdown_timeout` plus 5 s even if
    /// something does not answer.
    ///
    /// # Errors
    /// [`SystemError::ShutdownTimeout`]: this took longer than `shutdown_timeout`; everything is stopped all the same, and
    /// what was in flight stays in the outbox. [`SystemError::Stopped`]: it had been shut down before.
    pub async fn shutdown(&self) -> Result<(), SystemError> {
        let supervisor = living(|| self.supervisor(), |supervisor| supervisor.shutdown.connected()).await?;
        supervisor.shutdown.send(Shutdown).await.map_err(stopped)?
    }
}

/// The address of an actor; if the actor has died, that of its replacement, which starts in a moment.
async fn living<A>(
    address: impl Fn() -> Result<A, SystemError>,
    is_connected: impl Fn(&A) -> bool,
) -> Result<A, SystemError> {
    for _ in 0..REPLACEMENT_CHECKS {
        let actor = address()?;
        if is_connected(&actor) {
            return Ok(actor);
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
    Err(SystemError::Stopped)
}

fn stopped(_: MailboxError) -> SystemError {
    SystemError::Stopped
}

#[cfg(all(test, feature = "postgres"))]
#[path = "sharing_tests.rs"]
mod tests;
