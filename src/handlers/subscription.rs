//! A handler as the registry knows it, and how it is called with an event.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::Span;

use super::recipient::EventRecipient;
use super::timer::{HandlerTimer, Verdict};
use super::{Attempt, EventTypes, HandleEvent, HandlerError, Subscribe};
use crate::clock::BootInstant;
use crate::event::OutboxEvent;
use crate::metrics::HandlerMetrics;
use crate::trace;

pub(crate) struct Subscription {
    name: Arc<str>,
    events: EventTypes,
    /// None once it is unsubscribed; its actor may stop then.
    recipient: Mutex<Option<Arc<dyn EventRecipient>>>,
    timer: Mutex<HandlerTimer>,
    metrics: HandlerMetrics,
}

/// The outcome of an event in a handler.
pub(crate) enum Outcome {
    Handled,
    Failed(HandlerError),
    /// It did not start the event, because it has stopped or hangs: nothing was rejected, so no retry is spent.
    NotStarted,
}

impl From<Subscribe> for Subscription {
    fn from(handler: Subscribe) -> Self {
        let Subscribe { name, events, recipient } = handler;
        let metrics = HandlerMetrics::new(&name);
        Self { name: name.into(), events, recipient: Mutex::new(Some(recipient)), timer: Mutex::default(), metrics }
    }
}

impl Subscription {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn recipient(&self) -> MutexGuard<'_, Option<Arc<dyn EventRecipient>>> {
        self.recipient.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its actor is running and still subscribed.
    pub(crate) fn is_alive(&self) -> bool {
        self.recipient().as_ref().is_some_and(|recipient| recipient.is_connected())
    }

    /// Whether it was unsubscribed in this process.
    pub(crate) fn is_unsubscribed(&self) -> bool {
        self.recipient().is_none()
    }

    /// Passes no further event to the actor; returns whether it was subscribed.
    pub(crate) fn unsubscribe(&self) -> bool {
        self.recipient().take().is_some()
    }

    /// Whether it is registered for events that another registration of the same name does not name.
    pub(crate) fn conflicts_with(&self, other: &Self) -> bool {
        self.is_alive() && self.events != other.events
    }

    pub(crate) fn events(&self) -> &EventTypes {
        &self.events
    }

    /// Whether the handler is for events of this type.
    pub(crate) fn covers(&self, event_type: &str) -> bool {
        self.events.contains(event_type)
    }

    /// Whether this handler must still receive this event.
    pub(crate) fn wants(&self, event: &OutboxEvent) -> bool {
        let pending =
            event.pending_handlers.as_ref().is_none_or(|pending| pending.iter().any(|name| **name == *self.name));
        pending && self.covers(&event.event_type)
    }

    /// Calls the handler with an event; `limit` is the time that it may take once it has started.
    pub(crate) async fn ask(&self, event: Arc<OutboxEvent>, attempt: Attempt, limit: Duration) -> Outcome {
        let span = trace::handling(self.name(), &event);
        let outcome = self.ask_in(span.clone(), event, attempt, limit).await;
        match &outcome {
            Outcome::Handled => self.metrics.handled.increment(1),
            Outcome::Failed(error) => {
                self.metrics.failures.increment(1);
                trace::fail(&span, &error.reason);
            }
            Outcome::NotStarted => {}
        }
        outcome
    }

    async fn ask_in(&self, span: Span, event: Arc<OutboxEvent>, attempt: Attempt, limit: Duration) -> Outcome {
        let recipient = self.recipient().clone();
        let Some(recipient) = recipient.filter(|recipient| recipient.is_connected()) else {
            return Outcome::NotStarted;
        };
        let number = TimedEvent::begin(&self.timer);
        let message = HandleEvent { event, handler: Arc::clone(&self.name), attempt, span };
        let mut answer = match recipient.send(message) {
            Ok(answer) => answer,
            Err(error) => return Outcome::Failed(error),
        };
        drop(recipient);
        loop {
            let wait = match number.judge(limit) {
                Verdict::Wait(wait) => wait,
                Verdict::TimedOut => {
                    return Outcome::Failed(HandlerError::retry(format_args!("no answer within {limit:?}")));
                }
                Verdict::NotRun => return Outcome::NotStarted,
            };
            match tokio::time::timeout(wait, &mut answer).await {
                Ok(Ok(result)) => {
                    number.answered();
                    return result.map_or_else(Outcome::Failed, |()| Outcome::Handled);
                }
                Ok(Err(_)) if number.is_refused_by_a_stop() => {
                    return Outcome::Failed(HandlerError::retry("stopped while it handled the event"));
                }
                Ok(Err(_)) => return Outcome::NotStarted,
                Err(_) => {}
            }
        }
    }
}

/// An event's entry in a handler's timer; removed when dropped, also by a panic of the registry.
struct TimedEvent<'a> {
    timer: &'a Mutex<HandlerTimer>,
    number: u64,
}

impl<'a> TimedEvent<'a> {
    fn begin(timer: &'a Mutex<HandlerTimer>) -> Self {
        let number = lock(timer).begin(BootInstant::now());
        Self { timer, number }
    }

    fn judge(&self, limit: Duration) -> Verdict {
        lock(self.timer).judge(self.number, limit, BootInstant::now())
    }

    fn answered(&self) {
        lock(self.timer).answered();
    }

    fn is_refused_by_a_stop(&self) -> bool {
        lock(self.timer).is_refused_by_a_stop(self.number)
    }
}

impl Drop for TimedEvent<'_> {
    fn drop(&mut self) {
        lock(self.timer).end(self.number, BootInstant::now());
    }
}

fn lock(timer: &Mutex<HandlerTimer>) -> MutexGuard<'_, HandlerTimer> {
    timer.lock().unwrap_or_else(PoisonError::into_inner)
}
