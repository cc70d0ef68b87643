//! `Completer`: records the outcomes of many events in one UPDATE or DELETE.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use futures_util::FutureExt;

use super::context::SystemContext;
use super::death_watch::{DeathWatch, panics_on_demand};
use super::delivery::Delivery;
use super::messages::{ActorKind, Complete};
use super::reconnect::retry_until_recorded;
use super::settle_queue::{SettleBatch, SettleJob, SettleQueue};
use crate::clock::BootInstant;
use crate::error::StoreError;
use crate::store::{Acceptance, Care, LaneName, Settled, SettledEvent, Wakeup, handler_lane};

/// The most events in one statement.
const MOST: usize = 2_000;

/// Number of waiting events that starts another settle while one is running; fewer are cheaper to record together.
const WORTH_ANOTHER: usize = 1_000;

/// How often a queue is checked for deliveries that were set aside.
pub(super) const AGAIN_INTERVAL: Duration = Duration::from_millis(500);

pub(crate) struct Completer {
    context: Arc<SystemContext>,
    /// The queues by publisher, so that one backend's rows never hold up another's.
    queues: BTreeMap<String, SettleQueue<Delivery>>,
    /// The most settles of one backend that run concurrently.
    at_once: usize,
    _death_watch: DeathWatch,
}

impl SettleJob for Delivery {
    fn is_in_flight(&self) -> bool {
        Delivery::is_in_flight(self)
    }

    fn set_aside(&mut self, reason: &str) {
        Delivery::set_aside(self, reason);
    }
}

impl Completer {
    pub(crate) fn new(context: Arc<SystemContext>) -> Self {
        let death_watch = context.death_watch(ActorKind::Completer);
        let queues: BTreeMap<_, _> = context.publishers.keys().map(|name| (name.clone(), SettleQueue::new())).collect();
        let at_once = (context.store.max_concurrent_settles() / queues.len().max(1)).max(1);
        Self { context, queues, at_once, _death_watch: death_watch }
    }

    fn settle(&mut self, name: &str, ctx: &mut Context<Self>) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        let fresh = queue.next(MOST, self.at_once, WORTH_ANOTHER);
        let again = queue.next_again(MOST, BootInstant::now());
        for batch in [fresh, again].into_iter().flatten() {
            self.record(name.to_owned(), batch, ctx);
        }
    }

    fn record(&self, name: String, batch: SettleBatch<Delivery>, ctx: &mut Context<Self>) {
        let again = batch.again;
        let work = self.context.runtime.spawn(record(Arc::clone(&self.context), batch));
        ctx.spawn(work.into_actor(self).map(move |result, completer, ctx| match result {
            Ok((batch, outcomes)) => {
                completer.finish(&name, batch, &outcomes);
                completer.settle(&name, ctx);
            }
            // The dropped deliveries close their shards, and the journal shows what was sent.
            Err(error) => {
                tracing::error!(%error, "a settle was aborted");
                completer.queues.get_mut(&name).into_iter().for_each(|queue| queue.abandon(again));
            }
        }));
    }

    fn finish(&mut self, name: &str, batch: SettleBatch<Delivery>, outcomes: &[Settled]) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        let ended: Vec<Delivery> =
            queue.finish(batch, outcomes, BootInstant::now()).into_iter().map(|(delivery, _)| delivery).collect();
        if let Some(publisher) = self.context.publishers.get(name) {
            publisher.metrics.published.add(ended.len());
        }
        note_settled(&self.context, &ended);
        let owing: BTreeSet<String> = ended.into_iter().flat_map(|delivery| delivery.settled(false)).collect();
        wake_handlers(&self.context, &owing);
    }
}

impl Actor for Completer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.context.settings.worker.max_in_flight + 16);
        ctx.run_interval(AGAIN_INTERVAL, |completer, ctx| {
            // No address of the actor is left; the interval alone would keep it alive.
            if !ctx.connected() {
                return ctx.stop();
            }
            let names: Vec<String> = completer.queues.keys().cloned().collect();
            names.iter().for_each(|name| completer.settle(name, ctx));
        });
    }
}

impl Handler<Complete> for Completer {
    type Result = ();

    fn handle(&mut self, Complete(deliveries): Complete, ctx: &mut Self::Context) {
        for (name, deliveries) in by_publisher(&self.context, deliveries, |delivery| delivery) {
            if let Some(queue) = self.queues.get_mut(&name) {
                queue.push(deliveries);
            }
            self.settle(&name, ctx);
        }
    }
}

panics_on_demand!(Completer);

/// Groups jobs by the publisher of their lane.
pub(super) fn by_publisher<J>(
    context: &SystemContext,
    jobs: Vec<J>,
    delivery: fn(&J) -> &Delivery,
) -> BTreeMap<String, Vec<J>> {
    let mut parts: BTreeMap<String, Vec<J>> = BTreeMap::new();
    for job in jobs {
        if let Some(publisher) = context.publisher_of(&delivery(&job).shard.lane) {
            match parts.get_mut(&publisher.name) {
                Some(part) => part.push(job),
                None => drop(parts.insert(publisher.name.clone(), vec![job])),
            }
        }
    }
    parts
}

async fn record(context: Arc<SystemContext>, batch: SettleBatch<Delivery>) -> (SettleBatch<Delivery>, Vec<Settled>) {
    // One publisher's.
    let deletes = batch.jobs.first().is_some_and(|job| context.settings.deletes_published(&job.shard.lane));
    let events: Vec<Acceptance> = batch.jobs.iter().map(|job| acceptance(job, deletes)).collect();
    let began = BootInstant::now();
    let settle = |care| {
        let settled = context.store.settle_published(&events, care);
        settled.map(|settled| outcomes_of(&context, &batch.jobs, |delivery| delivery, settled))
    };
    let outcomes = if batch.again {
        settle(Care::AfterDoubt).await.unwrap_or_else(|_| vec![Settled::Untried; events.len()])
    } else {
        retry_until_recorded("published events", events.len(), settle).await
    };
    context.metrics.settle.record(BootInstant::now().since(began));
    (batch, outcomes)
}

fn acceptance(delivery: &Delivery, deletes: bool) -> Acceptance {
    let (asked, left) = (Arc::clone(&delivery.asked), delivery.left.clone());
    Acceptance { id: delivery.id, seq: delivery.position.seq, place: delivery.place, asked, left, deletes }
}

/// The outcomes; if the whole batch is refused, every event of it is.
pub(super) fn refused_or(events: usize, settled: Result<Vec<Settled>, StoreError>) -> Result<Vec<Settled>, StoreError> {
    settled.or_else(|error| match error.is_refusal() {
        true => Ok(vec![Settled::Refused(error.to_string()); events]),
        false => Err(error),
    })
}

/// The outcomes alone. Wakes handlers that are now owed events.
pub(super) fn outcomes_of<J>(
    context: &SystemContext,
    jobs: &[J],
    delivery: fn(&J) -> &Delivery,
    settled: Result<Vec<SettledEvent>, StoreError>,
) -> Result<Vec<Settled>, StoreError> {
    let settled = settled.map(|settled| {
        for (event, job) in settled.iter().zip(jobs).filter(|(event, _)| !event.owed.is_empty()) {
            delivery(job).note_owing(&event.owed);
        }
        wake_handlers(context, settled.iter().flat_map(|event| &event.owed).collect::<BTreeSet<_>>());
        settled.into_iter().map(|event| event.outcome).collect()
    });
    refused_or(jobs.len(), settled)
}

/// Wakes handlers: in the database is something new for them.
pub(super) fn wake_handlers<'a>(context: &SystemContext, handlers: impl IntoIterator<Item = &'a String>) {
    let wakeup: Wakeup = handlers.into_iter().map(|handler| handler_lane(handler)).collect();
    if !wakeup.is_empty() {
        context.announce(wakeup);
    }
}

/// Tells the sessions which journal entries they can remove.
pub(super) fn note_settled(context: &SystemContext, deliveries: &[Delivery]) {
    let mut last: Option<(LaneName, _)> = None;
    for delivery in deliveries {
        let lane = &delivery.shard.lane;
        if last.as_ref().is_none_or(|(known, _)| known != lane) {
            last = context.publisher_of(lane).map(|publisher| (lane.clone(), Arc::clone(&publisher.settled)));
        }
        if let Some((_, queue)) = &last {
            queue.push((delivery.id, delivery.position.seq));
        }
    }
}
