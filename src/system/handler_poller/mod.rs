//! `HandlerPoller`: passes events that other processes delivered to the handlers of this process, the events of a key one
//! after the other.
//!
//! A handler's lane is leased like a lane of events, so one process at a time calls the handler. An event that a handler is
//! owed is a row of its own, which is deleted when the handler answers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, WrapFuture};
use tokio::task::JoinError;

mod answers;
mod polls;

use self::answers::{Answered, HandlerDelivery, Unanswered, put_off, record_handled, record_rejected, rejection};
use self::polls::{Found, LEAST_INTERVAL, Polls};
use super::completer::AGAIN_INTERVAL;
use super::context::SystemContext;
use super::credit::Credit;
use super::death_watch::{DeathWatch, panics_on_demand};
use super::messages::ActorKind;
use super::settle_queue::{SettleBatch, SettleQueue};
use crate::clock::BootInstant;
use crate::error::StoreError;
use crate::handlers::{HandlerError, Outcome, Subscription};
use crate::store::{DeliveryRequest, FetchedDelivery, LaneName, Settled, Shard, handler_lane};

/// The fraction of a worker's memory that is for deliveries to handlers.
const SHARE_OF_MEMORY: usize = 4;

/// The most deliveries in one fetch and in one settle.
const MOST: usize = 500;

/// A fetch of as many may have left some out: there is a limit for each shard, and a key may have all deliveries of one.
const MANY: usize = 32;

/// How often a handler is polled if its process is notified of what it is owed.
const NOTIFIED_INTERVAL: Duration = Duration::from_secs(1);

/// After how long deliveries are fetched again that left the memory without an answer.
const UNANSWERED_PAUSE: Duration = Duration::from_secs(1);

/// How often it is recorded that a live process has its handlers.
const SEEN_INTERVAL: Duration = Duration::from_secs(60);

/// It is recorded this many times, at least, while events are owed to a handler that is unavailable.
const SEEN_SHARE: u32 = 10;

pub(crate) struct HandlerPoller {
    context: Arc<SystemContext>,
    credit: Arc<Credit>,
    polls: HashMap<String, Polls>,
    /// Handlers whose actors have stopped.
    stopped: BTreeSet<String>,
    /// A question for several handlers is under way.
    asking: bool,
    handled: SettleQueue<Answered>,
    rejected: SettleQueue<Answered>,
    _death_watch: DeathWatch,
}

impl HandlerPoller {
    pub(crate) fn new(context: Arc<SystemContext>) -> Self {
        let death_watch = context.death_watch(ActorKind::HandlerPoller);
        let worker = &context.settings.worker;
        let (events, bytes) = (worker.max_in_flight / SHARE_OF_MEMORY, worker.max_in_flight_bytes / SHARE_OF_MEMORY);
        let credit = Credit::new(events.max(1), bytes.max(1), Arc::default());
        let (handled, rejected) = (SettleQueue::new(), SettleQueue::new());
        Self {
            context,
            credit,
            polls: HashMap::new(),
            stopped: BTreeSet::new(),
            asking: false,
            handled,
            rejected,
            _death_watch: death_watch,
        }
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
        self.note_stopped();
        let mut due = self.context.subscriptions();
        due.retain(|handler| handler.is_alive() && self.is_due(handler.name(), notified));
        match due.is_empty() || notified {
            true => due.into_iter().for_each(|handler| self.fetch(handler, ctx)),
            false => self.poll(due, ctx),
        }
    }

    /// Notes that answers of handlers are lost: they are asked again.
    fn note_aborted(&mut self, handlers: &BTreeSet<String>, error: &JoinError) {
        if error.is_cancelled() {
            return;
        }
        tracing::error!(%error, "recording of handlers' answers aborted");
        let again = BootInstant::now().after(UNANSWERED_PAUSE);
        for handler in handlers {
            self.polls.entry(handler.clone()).and_modify(|polls| polls.due_again_at(again));
        }
    }

    /// Has the leases of a handler whose actor has stopped released: another process may have it.
    fn note_stopped(&mut self) {
        let subscriptions = self.context.subscriptions();
        let stopped = subscriptions.iter().filter(|handler| !handler.is_alive());
        let stopped: BTreeSet<String> = stopped.map(|handler| handler.name().to_owned()).collect();
        if !stopped.is_subset(&self.stopped) {
            self.context.wakeups.heartbeat.notify_one();
        }
        self.stopped = stopped;
    }

    /// Polls for the handlers that are due: several with one question, which those join that will be due soon.
    fn poll(&mut self, due: Vec<Arc<Subscription>>, ctx: &mut Context<Self>) {
        let (now, interval) = (BootInstant::now(), self.interval());
        let is_soon =
            |name: &str| self.polls.get(name).is_some_and(|polls| polls.is_due_until(now.after(interval / 2)));
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
            self.polls.entry(name.clone()).and_modify(|polls| polls.put_off(now.after(interval)));
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
        let polls = self.polls.entry(handler.to_owned()).or_insert_with(|| Polls::new(now));
        polls.is_due(now, notified) && self.credit.events_left() > 0 && self.credit.bytes_left() > 0
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
        let Some(fetch) = self.context.owed.begin_fetch(handler.name()) else { return };
        let request = DeliveryRequest {
            handler: handler.name().to_owned(),
            shards: held.keys().copied().collect(),
            except: fetch.except.clone(),
            max_events: MOST.min(self.credit.events_left()),
            max_bytes: self.credit.bytes_left(),
            max_event_bytes: self.context.settings.worker.max_event_bytes,
        };
        let (context, began) = (Arc::clone(&self.context), BootInstant::now());
        let (most, max_bytes, largest) = (request.max_events, request.max_bytes, request.max_event_bytes);
        let asked = self.context.runtime.spawn(async move { context.store.fetch_deliveries(&request).await });
        ctx.spawn(asked.into_actor(self).map(move |result, poller, ctx| {
            let name = handler.name().to_owned();
            match result {
                Ok(Ok(deliveries)) => {
                    let count = deliveries.len();
                    let bytes: usize = deliveries.iter().map(FetchedDelivery::size).sum();
                    let found = Found {
                        full: count >= most,
                        left_some: count >= MANY
                            || !fetch.except.is_empty()
                            || bytes > max_bytes.saturating_sub(largest),
                        outlived_others: fetch.outlived_others(),
                    };
                    let interval = poller.interval();
                    let fetched = |polls: &mut Polls| polls.fetched(began, BootInstant::now(), interval, found);
                    poller.polls.entry(name.clone()).and_modify(fetched);
                    poller.take(&handler, &lane, &held, deliveries, ctx);
                }
                Ok(Err(error)) => poller.pause(&name, &error),
                Err(error) => tracing::error!(%error, "fetch of a handler's deliveries aborted"),
            }
            drop(fetch);
            poller.run_soon(ctx);
        }));
    }

    /// Starts what may not start yet, because something of it has just ended.
    fn run_soon(&self, ctx: &mut Context<Self>) {
        ctx.run_later(LEAST_INTERVAL, |poller, ctx| poller.run_once(false, ctx));
    }

    fn pause(&mut self, handler: &str, error: &StoreError) {
        let Some(polls) = self.polls.get_mut(handler) else { return };
        if polls.failed(BootInstant::now()) {
            tracing::warn!(%error, handler, "fetch of a handler's deliveries failed; retrying");
        }
    }

    /// Notes what must be fetched after a settle of some handlers' answers, and goes on.
    fn follow(&mut self, handlers: &BTreeSet<String>, recorded: Vec<(Answered, Settled)>, ctx: &mut Context<Self>) {
        let now = BootInstant::now();
        for (Answered { delivery, rejection }, outcome) in recorded {
            let Some(rejection) = rejection else { continue };
            // The later ones of its key have left the memory, and are fetched with it, or without it if it is given up or if
            // someone else has changed it.
            let is_retried = outcome == Settled::Recorded && !rejection.gives_up;
            if is_retried && rejection.attempts == rejection.fetched_attempts {
                // No handler of this process has its type. It waits for the next poll: a database may sleep meanwhile.
                continue;
            }
            let due = if is_retried { now.after(rejection.delay) } else { now };
            self.polls.entry(delivery.fetched.handler).and_modify(|polls| polls.due_again_at(due));
        }
        for handler in handlers.iter().filter(|handler| !self.context.owed.is_busy(handler)) {
            self.polls.entry(handler.clone()).and_modify(|polls| polls.ended(now));
        }
        self.run_once(false, ctx);
    }

    /// Loads a fetch's deliveries into memory and starts them: those of a key in order, keys concurrently.
    fn take(
        &mut self,
        handler: &Arc<Subscription>,
        lane: &LaneName,
        held: &BTreeMap<i16, i64>,
        deliveries: Vec<FetchedDelivery>,
        ctx: &mut Context<Self>,
    ) {
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
        let permit = self.credit.take(fetched.size());
        Some(HandlerDelivery { fetched, shard, epoch, guard, _permit: permit })
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
            let (handlers, again) = (handlers_of(&batch), batch.again);
            let work = self.context.runtime.spawn(record_handled(Arc::clone(&self.context), batch));
            ctx.spawn(work.into_actor(self).map(move |result, poller, ctx| match result {
                Ok((batch, outcomes)) => {
                    let recorded = poller.handled.finish(batch, &outcomes, BootInstant::now());
                    poller.follow(&handlers, recorded, ctx);
                }
                Err(error) => {
                    poller.handled.abandon(again);
                    poller.note_aborted(&handlers, &error);
                }
            }));
        }
        for batch in [self.rejected.next(MOST, 1, MOST), self.rejected.next_again(MOST, now)].into_iter().flatten() {
            let (handlers, again) = (handlers_of(&batch), batch.again);
            let work = self.context.runtime.spawn(record_rejected(Arc::clone(&self.context), batch));
            ctx.spawn(work.into_actor(self).map(move |result, poller, ctx| match result {
                Ok((batch, outcomes)) => {
                    let recorded = poller.rejected.finish(batch, &outcomes, BootInstant::now());
                    poller.follow(&handlers, recorded, ctx);
                }
                Err(error) => {
                    poller.rejected.abandon(again);
                    poller.note_aborted(&handlers, &error);
                }
            }));
        }
    }
}

fn handlers_of(batch: &SettleBatch<Answered>) -> BTreeSet<String> {
    batch.jobs.iter().map(|answered| answered.delivery.fetched.handler.clone()).collect()
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
        poller.run_soon(ctx);
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

impl Handler<Unanswered> for HandlerPoller {
    type Result = ();

    fn handle(&mut self, Unanswered(handler): Unanswered, _: &mut Self::Context) {
        let again = BootInstant::now().after(UNANSWERED_PAUSE);
        self.polls.entry(handler).and_modify(|polls| polls.due_again_at(again));
    }
}

panics_on_demand!(HandlerPoller);

/// Calls a handler with deliveries one after the other, until one is not handled: the rest are fetched again.
async fn ask(
    context: Arc<SystemContext>,
    handler: Arc<Subscription>,
    chain: Vec<HandlerDelivery>,
    poller: Addr<HandlerPoller>,
) {
    let limit = context.settings.worker.handler_timeout;
    // A poller that is being replaced fetches anyway.
    let leave = || drop(poller.try_send(Unanswered(handler.name().to_owned())));
    for delivery in chain {
        if !context.leases.covers(&delivery.shard, delivery.epoch, BootInstant::now()) {
            return leave();
        }
        let rejection = match &delivery.fetched.event {
            Err(reason) => Some(rejection(&context, &delivery, HandlerError::permanent(reason))),
            // The handler was once registered for more types. A process that has them may still start, or an operator
            // decides.
            Ok(event) if !handler.covers(&event.event_type) => Some(put_off(&context, &delivery, event)),
            Ok(event) => match handler.ask(Arc::clone(event), delivery.attempt(), limit).await {
                Outcome::Handled => None,
                Outcome::Failed(error) => Some(rejection(&context, &delivery, error)),
                Outcome::NotStarted => return leave(),
            },
        };
        let goes_on = rejection.is_none();
        // A poller that is being replaced releases the delivery, and it is fetched again.
        if poller.send(Answered { delivery, rejection }).await.is_err() || !goes_on {
            return;
        }
    }
}
