//! `Retry`: decides whether an event is retried or failed, and records it. The poller finds the event again in the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use futures_util::FutureExt;

use super::completer::{AGAIN_INTERVAL, by_publisher, note_settled, outcomes_of, wake_handlers};
use super::context::SystemContext;
use super::death_watch::{DeathWatch, panics_on_demand};
use super::delivery::Delivery;
use super::in_flight::InFlight;
use super::messages::{ActorKind, Cause, Failed, Failure};
use super::reconnect::retry_until_recorded;
use super::settle_queue::{SettleBatch, SettleJob, SettleQueue};
use crate::backoff::NextTry;
use crate::clock::BootInstant;
use crate::event::Status;
use crate::store::{Care, FailureRecord, Settled};

/// The most events in one statement.
const MOST: usize = 500;

/// The longest reason in the log.
const MAX_REASON: usize = 500;

pub(crate) struct Retry {
    context: Arc<SystemContext>,
    /// The queues by publisher, so that one backend's rows never hold up another's.
    queues: BTreeMap<String, SettleQueue<Rejection>>,
    _death_watch: DeathWatch,
}

/// A failure, and what must be recorded about it.
struct Rejection {
    delivery: Delivery,
    settle: FailureRecord,
}

impl SettleJob for Rejection {
    fn is_in_flight(&self) -> bool {
        self.delivery.is_in_flight()
    }

    fn set_aside(&mut self, reason: &str) {
        self.delivery.set_aside(reason);
    }
}

impl Retry {
    pub(crate) fn new(context: Arc<SystemContext>) -> Self {
        let death_watch = context.death_watch(ActorKind::Retry);
        let queues = context.publishers.keys().map(|name| (name.clone(), SettleQueue::new())).collect();
        Self { context, queues, _death_watch: death_watch }
    }

    fn write(&mut self, name: &str, ctx: &mut Context<Self>) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        let fresh = queue.next(MOST, 1, MOST);
        let again = queue.next_again(MOST, BootInstant::now());
        for batch in [fresh, again].into_iter().flatten() {
            self.record(name.to_owned(), batch, ctx);
        }
    }

    fn record(&self, name: String, batch: SettleBatch<Rejection>, ctx: &mut Context<Self>) {
        let again = batch.again;
        let work = self.context.runtime.spawn(record(Arc::clone(&self.context), batch));
        ctx.spawn(work.into_actor(self).map(move |result, retry, ctx| match result {
            Ok((batch, outcomes)) => {
                retry.finish(&name, batch, &outcomes);
                retry.write(&name, ctx);
            }
            Err(error) => {
                tracing::error!(%error, "recording of failures aborted");
                retry.queues.get_mut(&name).into_iter().for_each(|queue| queue.abandon(again));
            }
        }));
    }

    fn finish(&mut self, name: &str, batch: SettleBatch<Rejection>, outcomes: &[Settled]) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        for (rejection, outcome) in queue.finish(batch, outcomes, BootInstant::now()) {
            // Superseded: another worker holds the lease by now, or an operator changed the event. The present owner
            // decides.
            if outcome == Settled::Recorded {
                self.note_recorded(rejection);
            }
        }
    }

    fn note_recorded(&self, Rejection { delivery, settle }: Rejection) {
        let context = &self.context;
        count(context, &settle);
        log_refusal(context, &delivery, &settle);
        note_settled(context, std::slice::from_ref(&delivery));
        if settle.status == Status::Retry {
            note_retry(context, &settle);
        }
        let holds_key = !settle.holds_for_handlers && context.settings.holds_on_failure(&settle.shard.lane);
        let key = delivery.key().to_owned();
        let owing = delivery.settled(settle.status != Status::Failed || holds_key);
        wake_handlers(context, &owing);
        // It may have waited for an event that was recorded before it.
        if settle.status == Status::Pending && !key.is_empty() {
            in_flight_of(context, &settle).inspect(|in_flight| in_flight.reread_key(&key));
        }
    }
}

impl Actor for Retry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.context.settings.worker.max_in_flight + 16);
        ctx.run_interval(AGAIN_INTERVAL, |retry, ctx| {
            // No address of the actor is left; the interval alone would keep it alive.
            if !ctx.connected() {
                return ctx.stop();
            }
            let names: Vec<String> = retry.queues.keys().cloned().collect();
            names.iter().for_each(|name| retry.write(name, ctx));
        });
    }
}

impl Handler<Failed> for Retry {
    type Result = ();

    fn handle(&mut self, Failed(failures): Failed, ctx: &mut Self::Context) {
        let rejections = failures.into_iter().map(|failure| decide(&self.context, failure)).collect();
        for (name, rejections) in by_publisher(&self.context, rejections, |rejection| &rejection.delivery) {
            if let Some(queue) = self.queues.get_mut(&name) {
                queue.push(rejections);
            }
            self.write(&name, ctx);
        }
    }
}

panics_on_demand!(Retry);

async fn record(context: Arc<SystemContext>, batch: SettleBatch<Rejection>) -> (SettleBatch<Rejection>, Vec<Settled>) {
    let settles: Vec<FailureRecord> = batch.jobs.iter().map(|rejection| rejection.settle.clone()).collect();
    let write = |_| {
        let settled = context.store.settle_rescheduled(context.worker, &settles);
        settled.map(|settled| outcomes_of(&context, &batch.jobs, |rejection| &rejection.delivery, settled))
    };
    let outcomes = if batch.again {
        write(Care::AfterDoubt).await.unwrap_or_else(|_| vec![Settled::Untried; settles.len()])
    } else {
        retry_until_recorded("retries and failures", settles.len(), write).await
    };
    (batch, outcomes)
}

fn count(context: &SystemContext, settle: &FailureRecord) {
    let Some(publisher) = context.publisher_of(&settle.shard.lane) else { return };
    if is_deferred(settle) {
        publisher.metrics.deferred.increment(1);
    } else if settle.error.is_some() {
        publisher.metrics.rejected.add(1);
        match settle.status {
            Status::Failed => publisher.metrics.failed.add(1),
            _ => publisher.metrics.retried.increment(1),
        }
    }
}

/// Whether the event waits without having spent a retry.
fn is_deferred(settle: &FailureRecord) -> bool {
    settle.status == Status::Retry && settle.retry_count == settle.fetched_retry_count
}

/// Logs a refusal with its event and reason, as long as there are not too many.
fn log_refusal(context: &SystemContext, delivery: &Delivery, settle: &FailureRecord) {
    let Some(reason) = settle.error.as_deref() else { return };
    let reason: String = reason.chars().take(MAX_REASON).collect();
    let event_type = delivery.event().map_or("", |event| event.event_type.as_str());
    let retries = settle.retry_count;
    let Some(publisher) =
        context.publisher_of(&settle.shard.lane).filter(|publisher| publisher.refusals.is_written(BootInstant::now()))
    else {
        return;
    };
    if settle.status == Status::Failed {
        tracing::error!(event.id = %settle.id, event.r#type = event_type, backend = %publisher.name, retries, reason, "event failed");
    } else if is_deferred(settle) {
        tracing::warn!(event.id = %settle.id, event.r#type = event_type, backend = %publisher.name, reason, "event waits for its part of the backend");
    } else {
        tracing::warn!(event.id = %settle.id, event.r#type = event_type, backend = %publisher.name, retries, reason, "event refused; it will be retried");
    }
}

fn note_retry(context: &SystemContext, settle: &FailureRecord) {
    if let Some(in_flight) = in_flight_of(context, settle) {
        in_flight.note_retry(BootInstant::now().after(settle.delay));
    }
}

fn in_flight_of<'a>(context: &'a SystemContext, settle: &FailureRecord) -> Option<&'a Arc<InFlight>> {
    let lane = &settle.shard.lane;
    context.publisher_of(lane)?.in_flight(lane)
}

/// The record of a failure.
fn decide(context: &SystemContext, Failure { delivery, cause }: Failure) -> Rejection {
    let backoff = context.settings.worker.retry_backoff;
    let delay = |failures: i32| backoff.delay(u32::try_from(failures).unwrap_or(0), rand::random());
    let before = delivery.event().and_then(|event| event.pending_handlers.clone());
    let counted = delivery.retry_count.saturating_add(1);
    let mut settle = FailureRecord {
        id: delivery.id,
        seq: delivery.position.seq,
        shard: delivery.shard.clone(),
        epoch: delivery.session.epoch,
        fetched_retry_count: delivery.retry_count,
        fetched_updated_at: delivery.updated_at,
        retry_count: counted,
        status: if counted >= delivery.max_retries { Status::Failed } else { Status::Retry },
        delay: delay(counted),
        error: None,
        published: delivery.is_accepted(),
        pending_handlers: before,
        asked: Arc::clone(&delivery.asked),
        left: delivery.left.clone(),
        holds_for_handlers: false,
    };
    match cause {
        Cause::Rejected(reason, next_try) => {
            settle.error = Some(reason);
            settle.delay = next_try.delay(settle.delay);
        }
        Cause::Deferred(reason, wait) => {
            settle.status = Status::Retry;
            settle.retry_count = delivery.retry_count;
            settle.error = Some(reason);
            settle.delay = NextTry::After(wait).delay(wait);
        }
        Cause::Invalid(reason) => {
            settle.status = Status::Failed;
            settle.error = Some(reason);
        }
        Cause::Handlers { pending, error, next_try } => {
            settle.pending_handlers = Some(pending);
            settle.error = Some(error);
            settle.delay = next_try.delay(settle.delay);
            if next_try == NextTry::Never {
                settle.status = Status::Failed;
            }
            let holds = !delivery.key().is_empty() && context.settings.holds_on_failure(&delivery.shard.lane);
            settle.holds_for_handlers = settle.status == Status::Failed && holds && context.liveness.owes_handlers();
        }
        Cause::NotStarted { pending } => {
            settle.status = Status::Retry;
            settle.retry_count = delivery.retry_count;
            settle.delay = delay(0);
            settle.pending_handlers = Some(pending);
        }
        // It keeps its place in its key's order; the poller fetches it again once the event before it is settled.
        Cause::BlockedByEarlier { pending } => {
            settle.status = Status::Pending;
            settle.retry_count = delivery.retry_count;
            settle.pending_handlers = Some(pending);
        }
    }
    Rejection { delivery, settle }
}
