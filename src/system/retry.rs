//! `Retry`: decides between another try and failure, and writes it. The poller finds the event again in the store.

use std::sync::Arc;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};

use super::clock::Moment;
use super::completer::note_settled;
use super::messages::{ActorKind, Cause, Failed, Failure};
use super::shared::{Lifeline, Shared, panics_on_demand};
use super::ticket::Ticket;
use super::trying::persist;
use crate::event::Status;
use crate::store::Reschedule;

/// Events in one statement.
const MOST: usize = 500;

pub(crate) struct Retry {
    shared: Arc<Shared>,
    waiting: Vec<Failure>,
    writing: bool,
    _lifeline: Lifeline,
}

impl Retry {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let lifeline = shared.lifeline(ActorKind::Retry);
        Self { shared, waiting: Vec::new(), writing: false, _lifeline: lifeline }
    }

    fn write(&mut self, ctx: &mut Context<Self>) {
        if self.writing || self.waiting.is_empty() {
            return;
        }
        self.writing = true;
        let rest = self.waiting.split_off(self.waiting.len().min(MOST));
        let failures = std::mem::replace(&mut self.waiting, rest);
        let work = self.shared.runtime.spawn(record(Arc::clone(&self.shared), failures));
        ctx.spawn(work.into_actor(self).map(|result, retry, ctx| {
            if let Err(error) = result {
                tracing::error!(%error, "recording failures was given up");
            }
            retry.writing = false;
            retry.write(ctx);
        }));
    }
}

impl Actor for Retry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.shared.settings.worker.max_in_flight + 16);
    }
}

impl Handler<Failed> for Retry {
    type Result = ();

    fn handle(&mut self, Failed(failures): Failed, ctx: &mut Self::Context) {
        self.waiting.extend(failures);
        self.write(ctx);
    }
}

panics_on_demand!(Retry);

async fn record(shared: Arc<Shared>, failures: Vec<Failure>) {
    let (tickets, settles): (Vec<Ticket>, Vec<Reschedule>) =
        failures.into_iter().map(|failure| decide(&shared, failure)).unzip();
    let write = || shared.store.settle_rescheduled(shared.worker, &settles);
    let recorded = persist("retries and failures", settles.len(), write).await;
    for (ticket, settle) in tickets.into_iter().zip(&settles) {
        if !recorded.contains(&settle.id) {
            // The lease is another worker's by now, or a person changed the event: whoever owns it decides.
            continue;
        }
        count(&shared, settle);
        if settle.status == Status::Failed {
            tracing::error!(event.id = %settle.id, backend = %settle.shard.lane, retries = settle.retry_count, "event failed");
        }
        note_settled(&shared, std::slice::from_ref(&ticket));
        if settle.status == Status::Retry {
            note_retry(&shared, settle);
        }
        let holds = shared.line_of(&settle.shard.lane).is_some_and(|line| line.holds_on_failure());
        ticket.settled(settle.status != Status::Failed || holds);
    }
}

fn count(shared: &Shared, settle: &Reschedule) {
    let Some(line) = shared.line_of(&settle.shard.lane) else { return };
    if settle.error.is_some() {
        line.meters.rejected.add(1);
        match settle.status {
            Status::Failed => line.meters.failed.add(1),
            _ => line.meters.retried.increment(1),
        }
    }
}

fn note_retry(shared: &Shared, settle: &Reschedule) {
    let lane = &settle.shard.lane;
    if let Some(flight) = shared.line_of(lane).and_then(|line| line.flight(lane)) {
        flight.note_retry(Moment::now().after(settle.delay));
    }
}

/// What is written about a failure.
fn decide(shared: &Shared, Failure { ticket, cause }: Failure) -> (Ticket, Reschedule) {
    let backoff = shared.settings.worker.retry_backoff;
    let delay = |failures: i32| backoff.delay(u32::try_from(failures).unwrap_or(0), rand::random());
    let before = ticket.event().and_then(|event| event.pending_handlers.clone());
    let counted = ticket.retry_count.saturating_add(1);
    let mut settle = Reschedule {
        id: ticket.id,
        seq: ticket.position.seq,
        shard: ticket.shard.clone(),
        epoch: ticket.opening.epoch,
        fetched_retry_count: ticket.retry_count,
        fetched_updated_at: ticket.updated_at,
        retry_count: counted,
        status: if counted >= ticket.max_retries { Status::Failed } else { Status::Retry },
        delay: delay(counted),
        error: None,
        published: ticket.is_accepted(),
        pending_handlers: before,
    };
    match cause {
        Cause::Rejected(reason) => settle.error = Some(reason),
        Cause::Invalid(reason) => {
            settle.status = Status::Failed;
            settle.error = Some(reason);
        }
        Cause::Handlers { pending, error } => {
            settle.pending_handlers = Some(pending);
            settle.error = Some(error);
        }
        Cause::NotBegun { pending } => {
            settle.status = Status::Retry;
            settle.retry_count = ticket.retry_count;
            settle.delay = delay(0);
            settle.pending_handlers = Some(pending);
        }
        // In its key's order like before; the poller meets it again once the event before it is settled.
        Cause::Behind { pending } => {
            settle.status = Status::Pending;
            settle.retry_count = ticket.retry_count;
            settle.pending_handlers = Some(pending);
        }
    }
    (ticket, settle)
}
