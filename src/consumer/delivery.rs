//! The delivery of one entry: given to its handlers, and again after each rejection, until it is done, set aside, or left to
//! other consumers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::context::{Call, ConsumerContext};
use super::held::Hold;
use crate::backend::event_source::{DeadLetter, EntryRef, LeaseId, Received, Renewal, SetAside};
use crate::backoff::{NextTry, pause_after};
use crate::clock::BootInstant;
use crate::event::OutboxEvent;
use crate::handlers::{Attempt, HandlerError, Outcome, Subscription};

/// An entry that was delivered this often and not answered may be what ended its consumers.
const SUSPECT_FROM: u32 = 2;

/// How long an event waits for a handler that has stopped or hangs. No delivery is counted.
const HANDLER_PAUSE: Duration = Duration::from_secs(1);

/// How a delivery ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ending {
    /// Its handlers are done.
    Handled,
    /// It is a dead letter.
    SetAside,
    /// The consumer stops, or gives up the stream, before its handlers are done.
    Released(Renewal),
    /// Another consumer has it.
    Lost,
}

struct Delivery {
    context: Arc<ConsumerContext>,
    entry: EntryRef,
    lease: Option<LeaseId>,
    event: Arc<OutboxEvent>,
    /// The deliveries that Redis counts.
    deliveries: u32,
    /// These include the next one.
    is_counted: bool,
    is_suspect: bool,
    /// Its stream refused the last call for it.
    is_refused: bool,
    /// The handlers that are not done.
    pending: Vec<Arc<Subscription>>,
}

/// What allows a delivery.
struct Permits<'a> {
    #[expect(dead_code, reason = "given back when it is dropped")]
    work: SemaphorePermit<'a>,
    #[expect(dead_code, reason = "given back when it is dropped")]
    alone: Option<SemaphorePermit<'a>>,
    quota: Option<SemaphorePermit<'a>>,
}

impl Permits<'_> {
    fn use_quota(self, context: &ConsumerContext) {
        if let Some(quota) = self.quota {
            quota.forget();
            context.use_quota();
        }
    }
}

async fn acquire(semaphore: Option<&Semaphore>) -> Option<SemaphorePermit<'_>> {
    // None of them is ever closed.
    semaphore?.acquire().await.ok()
}

/// Whether a delivery may begin.
enum Start {
    Now,
    /// Its stream refuses calls.
    Later,
    Never(Ending),
}

/// Why handlers are not done, and when they are asked again.
struct Rejection {
    reason: String,
    next_try: NextTry,
}

/// Delivers an entry.
pub(super) async fn deliver(context: Arc<ConsumerContext>, received: Received) -> Ending {
    let Received { entry, deliveries, is_claimed, lease, event, .. } = received;
    let event = match event {
        Ok(event) => event,
        Err(reason) => {
            let letter = DeadLetter { entry, deliveries, reason, event: None };
            return set_aside(&context, lease, letter).await;
        }
    };
    let pending: Vec<_> =
        context.handlers.iter().filter(|handler| handler.covers(&event.event_type)).cloned().collect();
    if pending.is_empty() {
        return Ending::Handled;
    }
    let is_suspect = is_claimed && deliveries >= SUSPECT_FROM;
    let (is_counted, is_refused) = (!is_claimed, false);
    let delivery = Delivery { context, entry, lease, event, deliveries, is_counted, is_suspect, is_refused, pending };
    delivery.run().await
}

impl Delivery {
    async fn run(mut self) -> Ending {
        let context = Arc::clone(&self.context);
        let most = context.settings.max_deliveries;
        loop {
            if !self.is_counted && self.deliveries >= most {
                return self.set_aside("its consumers ended before they answered".to_owned()).await;
            }
            let Some(permits) = self.permits(&context).await else { return self.release() };
            match self.begin().await {
                Start::Now => {
                    if std::mem::take(&mut self.is_refused) {
                        context.held.set_active(self.entry);
                    }
                }
                Start::Never(ending) => return ending,
                Start::Later => {
                    drop(permits);
                    self.is_refused = true;
                    context.held.set_refused(self.entry);
                    if !self.has_passed(HANDLER_PAUSE).await {
                        return self.release();
                    }
                    continue;
                }
            }
            let asked = self.ask().await;
            let Some(rejection) = asked else {
                permits.use_quota(&context);
                return Ending::Handled;
            };
            drop(permits);
            let Some(Rejection { reason, next_try }) = rejection else {
                if !self.pause(HANDLER_PAUSE).await {
                    return self.release();
                }
                continue;
            };
            // It has been answered, so it is not what ends its consumers.
            (self.is_counted, self.is_suspect) = (false, false);
            if next_try == NextTry::Never || self.deliveries >= most {
                return self.set_aside(reason).await;
            }
            let backoff = context.settings.retry_backoff.delay(self.deliveries, rand::random_range(0.0..=1.0));
            let delay = next_try.delay(backoff);
            tracing::debug!(
                consumer = context.name, event.id = %self.event.id, deliveries = self.deliveries,
                "handlers rejected an event; it is delivered again in {delay:?}: {reason}"
            );
            if !self.pause(delay).await {
                return self.release();
            }
        }
    }

    /// Waits for this time; `false` if handlers may not have it any more.
    async fn pause(&self, time: Duration) -> bool {
        self.context.held.set_waiting(self.entry);
        self.has_passed(time).await
    }

    /// Likewise, for an entry whose wait is noted.
    async fn has_passed(&self, time: Duration) -> bool {
        let has_passed = tokio::select! {
            has_passed = self.context.pause(time) => has_passed,
            () = self.context.lease_ended(self.lease) => false,
        };
        if !self.is_refused {
            self.context.held.set_active(self.entry);
        }
        has_passed
    }

    /// Waits until handlers may have it; `None` if they may not any more.
    async fn permits<'a>(&self, context: &'a ConsumerContext) -> Option<Permits<'a>> {
        if context.is_stopping() {
            return None;
        }
        if !self.is_suspect
            && context.quota.is_none()
            && let Ok(work) = context.permits.try_acquire()
        {
            return Some(Permits { work, alone: None, quota: None });
        }
        let all = async {
            let quota = acquire(context.quota.as_ref()).await;
            let waits = self.is_suspect && !self.is_refused;
            if waits {
                context.held.set_waiting(self.entry);
            }
            let alone = acquire(self.is_suspect.then_some(&context.suspects)).await;
            if waits {
                context.held.set_active(self.entry);
            }
            Some(Permits { work: context.permits.acquire().await.ok()?, alone, quota })
        };
        tokio::select! {
            permits = all => permits,
            () = context.stopped() => None,
            () = context.lease_ended(self.lease) => None,
        }
    }

    /// Ensures that it is still this consumer's, and counts the delivery.
    async fn begin(&mut self) -> Start {
        let mut failures = 0;
        loop {
            match self.context.hold(self.entry, self.lease) {
                Hold::Lost => return Start::Never(Ending::Lost),
                Hold::GivenUp => return Start::Never(self.release()),
                Hold::Ours if self.is_counted => return Start::Now,
                Hold::Ours | Hold::Doubtful => {}
            }
            // The number is absolute, so a call whose reply was lost can be repeated.
            let deliveries = if self.is_counted { self.deliveries } else { self.deliveries + 1 };
            let renewal = Renewal { entry: self.entry, deliveries, idle: Duration::ZERO };
            let asked = BootInstant::now();
            match self.context.source.renew(&[renewal]).await {
                Ok(renewed) if !renewed.refused.is_empty() => return Start::Later,
                Ok(renewed) if renewed.lost.is_empty() => {
                    if !self.is_counted {
                        self.context.metrics.redelivered.increment(1);
                    }
                    (self.deliveries, self.is_counted) = (deliveries, true);
                    self.context.held.renewed(&[renewal], &[], asked);
                    self.context.held.count(self.entry, deliveries);
                }
                Ok(_) => return Start::Never(Ending::Lost),
                Err(error) => {
                    tracing::debug!(consumer = self.context.name, %error, "an entry cannot be renewed; retrying");
                    if !self.pause(pause_after(failures)).await {
                        return Start::Never(self.release());
                    }
                    failures = failures.saturating_add(1);
                }
            }
        }
    }

    /// Asks the handlers that are not done. `None`: all are now. `Some(None)`: one did not start it, and none rejected it.
    async fn ask(&mut self) -> Option<Option<Rejection>> {
        let limit = self.context.settings.handler_timeout;
        let attempt = Attempt::new(self.deliveries, self.context.settings.max_deliveries);
        let outcomes = match self.pending.as_slice() {
            [only] => vec![only.ask(Arc::clone(&self.event), attempt, limit).await],
            several => {
                join_all(several.iter().map(|handler| handler.ask(Arc::clone(&self.event), attempt, limit))).await
            }
        };
        let (mut left, mut reasons, mut tries) = (Vec::new(), Vec::new(), Vec::new());
        for (handler, outcome) in std::mem::take(&mut self.pending).into_iter().zip(outcomes) {
            match outcome {
                Outcome::Handled => continue,
                Outcome::Failed(HandlerError { reason, next_try }) => {
                    reasons.push(format!("handler `{}`: {reason}", handler.name()));
                    tries.push(next_try);
                }
                // It wants to be asked.
                Outcome::NotStarted => tries.push(NextTry::ByBackoff),
            }
            left.push(handler);
        }
        self.pending = left;
        if self.pending.is_empty() {
            return None;
        }
        let rejection = Rejection { reason: reasons.join("; "), next_try: NextTry::of_all(tries) };
        Some((!reasons.is_empty()).then_some(rejection))
    }

    /// A delivery that did not begin is not counted.
    fn release(&self) -> Ending {
        if self.context.hold(self.entry, self.lease) == Hold::Lost {
            return Ending::Lost;
        }
        let deliveries = if self.is_counted { self.deliveries.saturating_sub(1) } else { self.deliveries };
        let idle = self.context.settings.reclaim_after;
        Ending::Released(Renewal { entry: self.entry, deliveries, idle })
    }

    async fn set_aside(&self, reason: String) -> Ending {
        let event = Some(Arc::clone(&self.event));
        let letter = DeadLetter { entry: self.entry, deliveries: self.deliveries, reason, event };
        set_aside(&self.context, self.lease, letter).await
    }
}

async fn set_aside(context: &ConsumerContext, lease: Option<LeaseId>, letter: DeadLetter) -> Ending {
    let mut failures = 0;
    let call = Call::SettingAside { stream: letter.entry.stream };
    // The consumer that gets the entry then sets it aside.
    let idle = context.settings.reclaim_after;
    let released = Ending::Released(Renewal { entry: letter.entry, deliveries: letter.deliveries, idle });
    loop {
        match context.hold(letter.entry, lease) {
            Hold::Lost => {
                context.forget_trouble(call);
                return Ending::Lost;
            }
            // The partition waits for this entry.
            Hold::GivenUp if failures > 0 => return released,
            Hold::GivenUp | Hold::Ours | Hold::Doubtful => {}
        }
        let (outcome, is_refused) = match context.source.set_aside(&letter).await {
            Ok(SetAside::Refused(reason)) => (Err(reason), true),
            outcome => (outcome, false),
        };
        context.note(call, &outcome);
        match outcome {
            Ok(SetAside::Lost | SetAside::Refused(_)) => return Ending::Lost,
            Ok(SetAside::Moved) => {
                tracing::warn!(
                    consumer = context.name, stream = context.source.stream_name(letter.entry.stream),
                    entry = %letter.entry.id, event.id = letter.event.as_ref().map(|event| event.id.to_string()),
                    deliveries = letter.deliveries,
                    "an entry is now a dead letter: {}; fix the cause, then run `outbox dead retry {}`",
                    letter.reason, context.name
                );
                context.metrics.dead_lettered.increment(1);
                return Ending::SetAside;
            }
            Err(_) => {
                // It takes no room from others meanwhile.
                match is_refused {
                    true => context.held.set_refused(letter.entry),
                    false => context.held.set_waiting(letter.entry),
                }
                let goes_on = tokio::select! {
                    goes_on = context.pause(pause_after(failures)) => goes_on,
                    () = context.lease_ended(lease) => true,
                };
                if !goes_on {
                    return released;
                }
                failures = failures.saturating_add(1);
            }
        }
    }
}
