//! Registering handlers, at the start and while the system runs.

use std::sync::{Arc, PoisonError};

use super::context::SystemContext;
use super::messages::{Subscribe, Subscribed};
use super::reconnect::retry_until_recorded;
use super::subscription::Subscription;
use crate::error::SystemError;
use crate::store::Announcement;

/// The most characters of a handler's name: with its prefix it names a lane.
const MAX_HANDLER_NAME: usize = 92;

impl SystemContext {
    /// Registers a handler durably: from then on it receives every event that commits, whichever worker delivers it.
    pub(crate) async fn subscribe(&self, subscription: Subscribe) -> Result<(), SystemError> {
        self.check_handler(&subscription)?;
        let announcement = Announcement {
            name: subscription.name.clone(),
            types: subscription.events.patterns(),
            owed_for: self.settings.worker.handlers_owed,
        };
        let store = Arc::clone(&self.store);
        let announced = self.runtime.spawn(async move {
            retry_until_recorded("a handler's registration", 1, |_| {
                let (store, announcement) = (Arc::clone(&store), announcement.clone());
                async move {
                    match store.announce(&[announcement]).await {
                        Err(error) if error.is_transient() => Err(error),
                        answer => Ok(answer),
                    }
                }
            })
            .await
        });
        announced.await.map_err(|_| SystemError::Stopped)??;
        self.add_handler(subscription)?;
        if let Some(supervisor) = self.addresses().supervisor.clone() {
            // A supervisor that is being replaced starts what is needed.
            let _ = supervisor.subscriptions.try_send(Subscribed);
        }
        self.wakeups.handler_poller.notify_one();
        Ok(())
    }

    fn check_handler(&self, subscription: &Subscribe) -> Result<(), SystemError> {
        let name = &subscription.name;
        let subscriptions = self.subscriptions();
        if subscriptions.iter().any(|other| other.name() == name && other.conflicts_with(subscription)) {
            return Err(SystemError::HandlerNameTaken { name: name.clone() });
        }
        match name.chars().count() {
            1..=MAX_HANDLER_NAME => Ok(()),
            _ => Err(SystemError::HandlerName { name: name.clone(), max: MAX_HANDLER_NAME }),
        }
    }

    fn add_handler(&self, subscription: Subscribe) -> Result<(), SystemError> {
        let mut all = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |other: &Arc<Subscription>| other.name() == subscription.name;
        if all.iter().any(|other| is_same(other) && other.conflicts_with(&subscription)) {
            return Err(SystemError::HandlerNameTaken { name: subscription.name });
        }
        all.retain(|other| !is_same(other));
        all.push(Arc::new(subscription.into()));
        self.wakeups.heartbeat.notify_one();
        Ok(())
    }
}
