//! `HandlerPoller`: passes events that other processes delivered to the handlers of this process, the events of a key one
//! after the other.
//!
//! A handler's lane is leased like a lane of events, so one process at a time calls the handler. An event that a handler is
//! owed is a row of its own, which is deleted when the handler answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, WrapFuture};
use futures_util::FutureExt;

use super::completer::{AGAIN_INTERVAL, refused_or};
use super::context::SystemContext;
use super::credit::{Credit, CreditPermit};
use super::death_watch::{DeathWatch, panics_on_demand};
use super::messages::ActorKind;
use super::owed::DeliveryGuard;
use super::reconnect::{pause_after, retry_until_recorded};
use super::settle_queue::{SettleBatch, SettleJob, SettleQueue};
use crate::backoff::NextTry;
use crate::clock::BootInstant;
use crate::error::StoreError;
use crate::event::OutboxEvent;
use crate::handlers::HandlerError;
use crate::handlers::{Outcome, Subscription};
use crate::store::{
    Care, DeliveryRequest, FetchedDelivery, HandledDelivery, LaneName, NOT_COVERED, RejectedDelivery, Settled, Shard,
    handler_lane,
};

/// The fraction of a worker's memory that is for deliveries to handlers.
const SHARE_OF_MEMORY: usize = 4;

/// The most deliveries in one fetch and in one settle.
const MOST: usize = 500;

/// How often a handler is polled if its process is notified of what it is owed.
const NOTIFIED_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is recorded that a live process has its handlers.
const SEEN_INTERVAL: Duration = Duration::from_secs(60);

/// It is recorded this many times, at least, while events are owed to a handler that is unavailable.
const SEEN_SHARE: u32 = 10;

/// A notification does not cause a fetch earlier than this after the last.
const LEAST_INTERVAL: Duration = Duration::from_millis(20);

/// The shortest delay of a delivery whose type the handler does not accept in this process.
const LEAST_PUT_OFF: Duration = Duration::from_secs(2);
const LONGEST_PUT_OFF: Duration = Duration::from_secs(120);

pub(crate) struct HandlerPoller {
    context: Arc<SystemContext>,
    credit: Arc<Credit>,
    polls: HashMap<String, Polls>,
    /// A question for several handlers is under way.
    asking: bool,
    handled: SettleQueue<Answered>,
    rejected: SettleQueue<Answered>,
    _death_watch: DeathWatch,
}

/// When a handler's deliveries are fetched.
#[derive(Clone, Copy)]
struct Polls {
    last: BootInstant,
    next: BootInstant,
    failures: u32,
}

/// A handler's answer to a delivery.
#[derive(Message)]
#[rtype(result = "()")]
struct Answered {
    delivery: HandlerDelivery,
    /// `None`: handled.
    rejection: Option<RejectedDelivery>,
}

/// A delivery in memory.
struct HandlerDelivery {
    fetched: FetchedDelivery,
    shard: Shard,
    epoch: i64,
    _guard: DeliveryGuard,
    _permit: CreditPermit,
}

impl SettleJob for Answered {
    fn is_in_flight(&self) -> bool {
        true
    }

    fn set_aside(&mut self, reason: &str) {
        let FetchedDelivery { id, handler, .. } = &self.delivery.fetched;
        tracing::warn!(event.id = %id, handler, reason, "handler's answer not recorded; retrying");
    }
}

impl HandlerPoller {
    pub(crate) fn new(context: Arc<SystemContext>) -> Self {
        let death_watch = context.death_watch(ActorKind::HandlerPoller);
        let worker = &context.settings.worker;
        let (events, bytes) = (worker.max_in_flight / SHARE_OF_MEMORY, worker.max_in_flight_bytes / SHARE_OF_MEMORY);
        let credit = Credit::new(events.max(1), bytes.max(1), Arc::default());
        let (handled, rejected) = (SettleQueue::new(), SettleQueue::new());
        Self { context, credit, polls: HashMap::new(), asking: false, handled, rejected, _death_watch: death_watch }
    }

    /// Starts everything that can be started now. `notified`: something may be new.
    fn run_once(&mut self, notified: bool, ctx: &mut Context<Self>) {
        if !ctx.connected() {
            self.context.wakeups.handler_poller.notify_one();
            return ctx.stop();
        }
        // In a process without publishers, no other loop shows that the process is at work.
        if self.context.publishers.is_empty() {
            self.context.liveness.tick();
        }
        self.settle(ctx);
        if self.context.liveness.is_stopping() {
            return;
        }
        let mut due = self.context.subscriptions();
        due.retain(|handler| handler.is_alive() && self.is_due(handler.name(), notified));
        match due.is_empty() || notified {
            true => due.into_iter().for_each(|handler| self.fetch(handler, ctx)),
            false => self.poll(due, ctx),
        }
    }

    /// Polls for the handlers that are due: several with one question, which those join that will be due soon.
    fn poll(&mut self, due: Vec<Arc<Subscription>>, ctx: &mut Context<Self>) {
        let (now, interval) = (BootInstant::now(), self.interval());
        let is_soon = |name: &str| self.polls.get(name).is_some_and(|polls| polls.next <= now.after(interval / 2));
        let mut asked = self.context.subscriptions();
        asked.retain(|handler| {
            let is_held = || !self.context.leases.readable(&handler_lane(handler.name()), now).is_empty();
            handler.is_alive() && is_soon(handler.name()) && is_held()
        });
        if asked.len() < 2 || self.asking {
            return due.into_iter().for_each(|handler| self.fetch(handler, ctx));
        }
        self.asking = true;
        let names: Vec<String> = asked.iter().map(|handler| handler.name().to_owned()).collect();
        // A notification that arrives meanwhile makes it earlier again.
        for name in &names {
            self.polls.entry(name.clone()).and_modify(|polls| polls.next = now.after(interval));
        }
        let context = Arc::clone(&self.context);
        let work = self.context.runtime.spawn(async move { context.store.has_due_deliveries(&names).await });
        ctx.spawn(work.into_actor(self).map(move |result, poller, ctx| {
            poller.asking = false;
            // After an error each fetch shows its own.
            if !matches!(result, Ok(Ok(false))) {
                asked.into_iter().for_each(|handler| poller.fetch(handler, ctx));
            }
        }));
    }

    /// How often a handler is polled.
    fn interval(&self) -> Duration {
        match self.context.store.notify_store() {
            Some(_) => self.context.pace(NOTIFIED_INTERVAL),
            None => self.context.settings.worker.poll_interval,
        }
    }

    fn is_due(&mut self, handler: &str, notified: bool) -> bool {
        let now = BootInstant::now();
        let polls = self.polls.entry(handler.to_owned()).or_insert(Polls { last: now, next: now, failures: 0 });
        let earliest = if notified && polls.failures == 0 { polls.last.after(LEAST_INTERVAL) } else { polls.next };
        if notified && polls.failures == 0 {
            polls.next = polls.next.min(earliest);
        }
        now >= earliest && self.credit.events_left() > 0 && self.credit.bytes_left() > 0
    }

    fn fetch(&mut self, handler: Arc<Subscription>, ctx: &mut Context<Self>) {
        let lane = handler_lane(handler.name());
        let held: BTreeMap<i16, i64> = self
            .context
            .leases
            .readable(&lane, BootInstant::now())
            .into_iter()
            .map(|(shard, epoch)| (shard.number, epoch))
            .collect();
        if held.is_empty() {
            return;
        }
        let Some(except) = self.context.owed.begin_fetch(handler.name()) else { return };
        let request = DeliveryRequest {
            handler: handler.name().to_owned(),
            shards: held.keys().copied().collect(),
            except,
            max_events: MOST.min(self.credit.events_left()),
            max_bytes: self.credit.bytes_left(),
            max_event_bytes: self.context.settings.worker.max_event_bytes,
        };
        let context = Arc::clone(&self.context);
        let asked = self.context.runtime.spawn(async move {
            let most = request.max_events;
            (context.store.fetch_deliveries(&request).await, most)
        });
        ctx.spawn(asked.into_actor(self).map(move |result, poller, ctx| {
            let name = handler.name().to_owned();
            match result {
                Ok((Ok(deliveries), most)) => poller.take(&handler, &lane, &held, deliveries, most, ctx),
                Ok((Err(error), _)) => poller.pause(&name, &error),
                Err(error) => tracing::error!(%error, "fetch of a handler's deliveries aborted"),
            }
            poller.context.owed.end_fetch(&name);
        }));
    }

    fn pause(&mut self, handler: &str, error: &StoreError) {
        let Some(polls) = self.polls.get_mut(handler) else { return };
        if polls.failures == 0 {
            tracing::warn!(%error, handler, "fetch of a handler's deliveries failed; retrying");
        }
        polls.next = BootInstant::now().after(pause_after(polls.failures));
        polls.failures = polls.failures.saturating_add(1);
    }

    /// Loads a fetch's deliveries into memory and starts them: those of a key in order, keys concurrently.
    fn take(
        &mut self,
        handler: &Arc<Subscription>,
        lane: &LaneName,
        held: &BTreeMap<i16, i64>,
        deliveries: Vec<FetchedDelivery>,
        most: usize,
        ctx: &mut Context<Self>,
    ) {
        let (now, full) = (BootInstant::now(), deliveries.len() >= most);
        let pause = if full { Duration::ZERO } else { self.interval() };
        self.polls.insert(handler.name().to_owned(), Polls { last: now, next: now.after(pause), failures: 0 });
        let mut chains: BTreeMap<(LaneName, String), Vec<HandlerDelivery>> = BTreeMap::new();
        let mut alone = Vec::new();
        for fetched in deliveries {
            let Some(delivery) = self.admit(lane, held, fetched) else { continue };
            match delivery.fetched.event.as_ref().map_or("", |event| event.partition_key.as_str()) {
                "" => alone.push(vec![delivery]),
                key => chains.entry((delivery.fetched.lane.clone(), key.to_owned())).or_default().push(delivery),
            }
        }
        for mut chain in alone.into_iter().chain(chains.into_values()) {
            chain.sort_by_key(|delivery| delivery.fetched.position);
            let asking = ask(Arc::clone(&self.context), Arc::clone(handler), chain, ctx.address());
            ctx.spawn(asking.into_actor(self));
        }
    }

    /// Accepts a delivery only while the lease is the one that the fetch started with.
    fn admit(&self, lane: &LaneName, held: &BTreeMap<i16, i64>, fetched: FetchedDelivery) -> Option<HandlerDelivery> {
        let epoch = *held.get(&fetched.shard)?;
        let shard = Shard { lane: lane.clone(), number: fetched.shard };
        if !self.context.leases.covers(&shard, epoch, BootInstant::now()) {
            return None;
        }
        let guard = self.context.owed.take(&fetched.handler, (fetched.id, fetched.seq), fetched.shard)?;
        let permit = self.credit.take(fetched.event.as_ref().map_or(0, |event| event.size()));
        Some(HandlerDelivery { fetched, shard, epoch, _guard: guard, _permit: permit })
    }

    /// Records that a live process has the handlers; how long events are owed to a handler counts from the last such record.
    fn note_seen(&self, ctx: &mut Context<Self>) {
        let names = self.context.subscribed_names();
        if names.is_empty() {
            return;
        }
        let context = Arc::clone(&self.context);
        let work = self.context.runtime.spawn(async move {
            if let Err(error) = context.store.see_handlers(&names).await {
                tracing::debug!(%error, "presence of the handlers not recorded");
            }
        });
        ctx.spawn(work.into_actor(self).map(|_, _, _| ()));
    }

    fn settle(&mut self, ctx: &mut Context<Self>) {
        let now = BootInstant::now();
        for batch in [self.handled.next(MOST, 1, MOST), self.handled.next_again(MOST, now)].into_iter().flatten() {
            let work = self.context.runtime.spawn(record_handled(Arc::clone(&self.context), batch));
            ctx.spawn(work.into_actor(self).map(|result, poller, ctx| {
                if let Ok((batch, outcomes)) = result {
                    poller.handled.finish(batch, &outcomes, BootInstant::now());
                    poller.run_once(false, ctx);
                }
            }));
        }
        for batch in [self.rejected.next(MOST, 1, MOST), self.rejected.next_again(MOST, now)].into_iter().flatten() {
            let work = self.context.runtime.spawn(record_rejected(Arc::clone(&self.context), batch));
            ctx.spawn(work.into_actor(self).map(|result, poller, ctx| {
                if let Ok((batch, outcomes)) = result {
                    poller.rejected.finish(batch, &outcomes, BootInstant::now());
                    poller.run_once(false, ctx);
                }
            }));
        }
    }
}

impl Actor for HandlerPoller {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.context.settings.worker.max_in_flight + 16);
        let interval = self.context.settings.worker.poll_interval.min(AGAIN_INTERVAL);
        ctx.run_interval(interval, |poller, ctx| poller.run_once(false, ctx));
        let most = self.context.settings.worker.handlers_owed / SEEN_SHARE;
        let seen = self.context.pace(SEEN_INTERVAL).min(most.max(SEEN_INTERVAL));
        ctx.run_interval(seen, |poller, ctx| poller.note_seen(ctx));
        listen(Arc::clone(&self.context), self, ctx);
        self.run_once(true, ctx);
    }
}

/// Runs the loop when handlers may be owed something new.
fn listen(context: Arc<SystemContext>, poller: &HandlerPoller, ctx: &mut Context<HandlerPoller>) {
    let woken = async move { context.wakeups.handler_poller.notified().await };
    ctx.spawn(woken.into_actor(poller).map(|(), poller, ctx| {
        poller.run_once(true, ctx);
        listen(Arc::clone(&poller.context), poller, ctx);
    }));
}

impl Handler<Answered> for HandlerPoller {
    type Result = ();

    fn handle(&mut self, answered: Answered, ctx: &mut Self::Context) {
        match answered.rejection {
            None => self.handled.push([answered]),
            Some(_) => self.rejected.push([answered]),
        }
        self.settle(ctx);
    }
}

panics_on_demand!(HandlerPoller);

/// Calls a handler with deliveries one after the other, until one is not handled: the rest are retried after it.
async fn ask(
    context: Arc<SystemContext>,
    handler: Arc<Subscription>,
    chain: Vec<HandlerDelivery>,
    poller: Addr<HandlerPoller>,
) {
    let limit = context.settings.worker.handler_timeout;
    for delivery in chain {
        if !context.leases.covers(&delivery.shard, delivery.epoch, BootInstant::now()) {
            return;
        }
        let rejection = match &delivery.fetched.event {
            Err(reason) => Some(rejection(&context, &delivery, HandlerError::permanent(reason))),
            // The handler was once registered for more types. A process that has them may still start, or an operator
            // decides.
            Ok(event) if !handler.covers(&event.event_type) => Some(put_off(&context, &delivery, event)),
            Ok(event) => match handler.ask(Arc::clone(event), limit).await {
                Outcome::Handled => None,
                Outcome::Failed(error) => Some(rejection(&context, &delivery, error)),
                Outcome::NotStarted => return,
            },
        };
        let goes_on = rejection.is_none();
        // A poller that is being replaced releases the delivery, and it is fetched again.
        if poller.send(Answered { delivery, rejection }).await.is_err() || !goes_on {
            return;
        }
    }
}

fn rejection(context: &SystemContext, delivery: &HandlerDelivery, error: HandlerError) -> RejectedDelivery {
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
fn put_off(context: &SystemContext, delivery: &HandlerDelivery, event: &OutboxEvent) -> RejectedDelivery {
    let waited = context.liveness.database_now() - event.scheduled_at;
    RejectedDelivery {
        attempts: delivery.fetched.attempts,
        delay: waited.to_std().unwrap_or_default().clamp(LEAST_PUT_OFF, LONGEST_PUT_OFF),
        gives_up: false,
        ..rejection(context, delivery, HandlerError::retry(NOT_COVERED))
    }
}

async fn record_handled(
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

async fn record_rejected(
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
