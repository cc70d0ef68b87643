//! What handlers answer to deliveries, and how it is recorded.

use std::sync::Arc;
use std::time::Duration;

use actix::Message;
use futures_util::FutureExt;

use crate::backoff::NextTry;
use crate::event::OutboxEvent;
use crate::handlers::{Attempt, HandlerError};
use crate::store::{Care, FetchedDelivery, HandledDelivery, NOT_COVERED, RejectedDelivery, Settled, Shard};
use crate::system::completer::refused_or;
use crate::system::context::SystemContext;
use crate::system::credit::CreditPermit;
use crate::system::owed::DeliveryGuard;
use crate::system::reconnect::retry_until_recorded;
use crate::system::settle_queue::{SettleBatch, SettleJob};

/// The shortest delay of a delivery whose type the handler does not accept in this process.
const LEAST_PUT_OFF: Duration = Duration::from_secs(2);
const LONGEST_PUT_OFF: Duration = Duration::from_secs(120);

/// A handler's answer to a delivery.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Answered {
    pub(super) delivery: HandlerDelivery,
    /// `None`: handled.
    pub(super) rejection: Option<RejectedDelivery>,
}

/// Deliveries to this handler left the memory without an answer: they are still due.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Unanswered(pub(super) String);

/// A delivery in memory.
pub(super) struct HandlerDelivery {
    pub(super) fetched: FetchedDelivery,
    pub(super) shard: Shard,
    pub(super) epoch: i64,
    pub(super) guard: DeliveryGuard,
    pub(super) _permit: CreditPermit,
}

impl HandlerDelivery {
    pub(super) fn attempt(&self) -> Attempt {
        Attempt::after(self.fetched.attempts, self.fetched.max_attempts)
    }
}

impl SettleJob for Answered {
    fn is_in_flight(&self) -> bool {
        true
    }

    fn set_aside(&mut self, reason: &str) {
        let FetchedDelivery { id, handler, .. } = &self.delivery.fetched;
        self.delivery.guard.set_aside();
        tracing::warn!(event.id = %id, handler, reason, "handler's answer not recorded; retrying");
    }
}

pub(super) fn rejection(context: &SystemContext, delivery: &HandlerDelivery, error: HandlerError) -> RejectedDelivery {
    let HandlerError { reason, next_try } = error;
    let FetchedDelivery { handler, id, seq, attempts, max_attempts, event, lane, .. } = &delivery.fetched;
    let counted = attempts.saturating_add(1);
    let retries = u32::try_from(counted).unwrap_or(0);
    RejectedDelivery {
        handler: handler.clone(),
        id: *id,
        seq: *seq,
        shard: delivery.shard.clone(),
        epoch: delivery.epoch,
        fetched_attempts: *attempts,
        attempts: counted,
        delay: next_try.delay(context.settings.worker.retry_backoff.delay(retries, rand::random())),
        error: reason,
        gives_up: next_try == NextTry::Never || counted >= *max_attempts,
        holds: event.as_ref().is_ok_and(|event| !event.partition_key.is_empty())
            && context.settings.holds_on_failure(lane),
    }
}

/// Delays a delivery without counting an attempt. It waits as long again as it has waited so far, so that many cost little.
pub(super) fn put_off(context: &SystemContext, delivery: &HandlerDelivery, event: &OutboxEvent) -> RejectedDelivery {
    let waited = context.liveness.database_now() - event.scheduled_at;
    RejectedDelivery {
        attempts: delivery.fetched.attempts,
        delay: waited.to_std().unwrap_or_default().clamp(LEAST_PUT_OFF, LONGEST_PUT_OFF),
        gives_up: false,
        ..rejection(context, delivery, HandlerError::retry(NOT_COVERED))
    }
}

pub(super) async fn record_handled(
    context: Arc<SystemContext>,
    batch: SettleBatch<Answered>,
) -> (SettleBatch<Answered>, Vec<Settled>) {
    let answer = |answered: &Answered| {
        let FetchedDelivery { handler, id, seq, lane, .. } = &answered.delivery.fetched;
        HandledDelivery {
            deletes: context.settings.deletes_published(lane),
            ..HandledDelivery::kept(handler, *id, *seq)
        }
    };
    let handled: Vec<HandledDelivery> = batch.jobs.iter().map(answer).collect();
    let settle = |care| context.store.settle_handled(&handled, care).map(|settled| refused_or(handled.len(), settled));
    let outcomes = if batch.again {
        settle(Care::AfterDoubt).await.unwrap_or_else(|_| vec![Settled::Untried; handled.len()])
    } else {
        retry_until_recorded("answers of handlers", handled.len(), settle).await
    };
    (batch, outcomes)
}

pub(super) async fn record_rejected(
    context: Arc<SystemContext>,
    batch: SettleBatch<Answered>,
) -> (SettleBatch<Answered>, Vec<Settled>) {
    let rejected: Vec<RejectedDelivery> = batch.jobs.iter().filter_map(|answered| answered.rejection.clone()).collect();
    let is_attempt = |rejection: &&RejectedDelivery| rejection.attempts > rejection.fetched_attempts;
    for rejection in rejected.iter().filter(is_attempt).filter(|_| !batch.again) {
        tracing::warn!(
            event.id = %rejection.id, handler = rejection.handler, attempts = rejection.attempts,
            gives_up = rejection.gives_up, reason = rejection.error, "handler rejected an event"
        );
    }
    let settle = |_| {
        let settled = context.store.settle_rejected_deliveries(context.worker, &rejected);
        settled.map(|settled| refused_or(rejected.len(), settled))
    };
    let outcomes = if batch.again {
        settle(Care::AfterDoubt).await.unwrap_or_else(|_| vec![Settled::Untried; rejected.len()])
    } else {
        retry_until_recorded("rejections by handlers", rejected.len(), settle).await
    };
    (batch, outcomes)
}
