//! Registering handlers, at the start and while the system runs.

use std::sync::{Arc, PoisonError};

use super::context::SystemContext;
use super::messages::Subscribed;
use super::reconnect::retry_until_recorded;
use crate::error::SystemError;
use crate::handlers::Subscribe;
use crate::handlers::{Subscription, check_handler_name};
use crate::store::Announcement;

impl SystemContext {
    /// Registers a handler durably: from then on it receives every event that commits, whichever worker delivers it.
    ///
    /// One at a time, so that what is recorded for a name are the types of the handler that has it; and to its end, also when
    /// the caller gives up: an announced handler is owed events.
    pub(crate) async fn subscribe(self: &Arc<Self>, subscription: Subscribe) -> Result<(), SystemError> {
        // Its counters belong to the recorder of this thread.
        let handler = Arc::new(Subscription::from(subscription));
        let context = Arc::clone(self);
        let registered = self.runtime.spawn(async move {
            let _alone = context.subscribing.lock().await;
            context.check_handler(&handler)?;
            context.record_handler(&handler).await?;
            context.add_handler(handler);
            Ok(())
        });
        registered.await.map_err(|_| SystemError::Stopped)?
    }

    async fn record_handler(&self, handler: &Subscription) -> Result<(), SystemError> {
        let announcement = Announcement {
            name: handler.name().to_owned(),
            types: handler.events().patterns(),
            owed_for: self.settings.worker.handlers_owed,
        };
        let record = |_| {
            let announcement = announcement.clone();
            async move {
                match self.store.announce(&[announcement]).await {
                    Err(error) if error.is_transient() => Err(error),
                    answer => Ok(answer),
                }
            }
        };
        retry_until_recorded("a handler's registration", 1, record).await?;
        Ok(())
    }

    /// Passes no further event to the handler of this name; returns whether there was one.
    ///
    /// It stays known, as a handler whose actor has stopped does: its announcement and what it is owed outlive it, and its
    /// leases are released.
    pub(crate) fn unsubscribe(&self, name: &str) -> bool {
        let subscriptions = self.subscriptions();
        let was_subscribed =
            subscriptions.iter().find(|handler| handler.name() == name).is_some_and(|handler| handler.unsubscribe());
        self.wakeups.heartbeat.notify_one();
        was_subscribed
    }

    fn check_handler(&self, handler: &Subscription) -> Result<(), SystemError> {
        let name = handler.name();
        let subscriptions = self.subscriptions();
        if subscriptions.iter().any(|other| other.name() == name && other.conflicts_with(handler)) {
            return Err(SystemError::HandlerNameTaken { name: name.to_owned() });
        }
        check_handler_name(name)
    }

    pub(super) fn add_handler(&self, handler: Arc<Subscription>) {
        {
            let mut all = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|other| other.name() != handler.name());
            all.push(handler);
        }
        self.wakeups.heartbeat.notify_one();
        if let Some(supervisor) = self.addresses().supervisor.clone() {
            // A supervisor that is being replaced starts what is needed.
            let _ = supervisor.subscriptions.try_send(Subscribed);
        }
        self.wakeups.handler_poller.notify_one();
    }
}
