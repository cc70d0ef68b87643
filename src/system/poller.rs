//! `Poller`: fetches due events and sends them to the publishers.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, WrapFuture};

use super::context::SystemContext;
use super::death_watch::{DeathWatch, panics_on_demand};
use super::delivery::Delivery;
use super::due_question::DueQuestion;
use super::fetching::{self, Fetched};
use super::in_flight::Admitted;
use super::lane::Lane;
use super::lane_reader::{FetchPlan, Purpose};
use super::messages::{ActorKind, Cause, Deliver, Failed, Failure, OpenShards};
use super::predecessors::is_late;
use super::publisher_state::PublisherState;
use super::quota::Reservation;
use super::reconnect::pause_after;
use super::routing;
use crate::clock::BootInstant;
use crate::error::StoreError;
use crate::store::{Shard, Wakeup};

/// The most bytes in a batch, so that one script or one write stays small.
const MAX_BATCH_BYTES: usize = 1 << 20;

/// How often the loop runs at least, whatever the settings: a session may have to be opened again.
const LONGEST_TICK: Duration = Duration::from_secs(1);

/// A wake-up for every lane is answered by a question if they are more than this.
const MOST_WOKEN: usize = 8;

pub(crate) struct Poller {
    pub(super) context: Arc<SystemContext>,
    publishers: Vec<PublisherLanes>,
    pub(super) question: DueQuestion,
    failures: u32,
    pause_until: BootInstant,
    probing: bool,
    _death_watch: DeathWatch,
}

/// One publisher's lanes. They are fetched one at a time, so that their credit is not spent twice.
struct PublisherLanes {
    publisher: Arc<PublisherState>,
    lanes: Vec<Lane>,
    fetching: bool,
    /// The lane that is fetched next if it has anything to fetch.
    next: usize,
    /// What the last run that found nothing to open or to fetch was based on.
    rested: Option<Rest>,
}

/// The state in which a publisher's lanes had nothing to do.
struct Rest {
    opened: Vec<(u64, usize)>,
    lease_changes: u64,
    since: BootInstant,
}

impl PublisherLanes {
    fn new(publisher: &Arc<PublisherState>, context: &SystemContext) -> Self {
        let lanes = publisher.lanes.iter().map(|in_flight| Lane::new(Arc::clone(in_flight), context)).collect();
        Self { publisher: Arc::clone(publisher), lanes, fetching: false, next: 0, rested: None }
    }

    /// The first lane, in round-robin order, that has a fetch to make.
    fn plan(&mut self, context: &SystemContext, now: BootInstant) -> Option<(usize, FetchPlan)> {
        let count = self.lanes.len();
        (0..count)
            .map(|step| (self.next + step) % count)
            .find_map(|lane| Some((lane, self.lanes[lane].plan(context, &self.publisher, now)?)))
    }

    /// Whether nothing has changed since a run that found nothing to open or to fetch: an idle lane costs next to nothing.
    fn rests(&self, context: &SystemContext, now: BootInstant) -> bool {
        let Some(rest) = &self.rested else { return false };
        let is_same = now.since(rest.since) < LONGEST_TICK && rest.lease_changes == context.leases.changes();
        is_same && rest.opened == self.opened() && self.lanes.iter().all(|lane| lane.rests(now))
    }

    fn opened(&self) -> Vec<(u64, usize)> {
        self.lanes.iter().map(|lane| lane.in_flight.opened()).collect()
    }

    fn record_duration(&self, plan: &FetchPlan) {
        let metrics = &self.publisher.metrics;
        let histogram = match plan.purpose {
            Purpose::Forward => &metrics.fetch,
            Purpose::Sweep => &metrics.sweep,
        };
        histogram.record(BootInstant::now().since(plan.began));
    }
}

impl Poller {
    pub(crate) fn new(context: Arc<SystemContext>) -> Self {
        let publishers =
            context.publishers.values().map(|publisher| PublisherLanes::new(publisher, &context)).collect();
        let death_watch = context.death_watch(ActorKind::Poller);
        Self {
            context,
            publishers,
            question: DueQuestion::new(),
            failures: 0,
            pause_until: BootInstant::now(),
            probing: false,
            _death_watch: death_watch,
        }
    }

    pub(super) fn lanes(&mut self) -> impl Iterator<Item = &mut Lane> {
        self.publishers.iter_mut().flat_map(|of| &mut of.lanes)
    }

    /// Starts everything that can be started now.
    pub(super) fn run_once(&mut self, ctx: &mut Context<Self>) {
        if !self.may_run(ctx) {
            return;
        }
        let now = BootInstant::now();
        self.schedule_fetch_at(&self.context.wakeups.take(), now);
        if now >= self.pause_until {
            self.ask_for_due(now, ctx);
        }
        for index in 0..self.publishers.len() {
            self.run_publisher(index, now, ctx);
        }
        self.probe(now, ctx);
    }

    /// Whether the loop goes on. One that is being replaced stops.
    fn may_run(&self, ctx: &mut Context<Self>) -> bool {
        if !ctx.connected() {
            // A notification wakes one actor only, so the poller passes it on.
            self.context.wakeups.poller.notify_one();
            ctx.stop();
            return false;
        }
        self.context.liveness.tick();
        !self.context.liveness.is_stopping()
    }

    /// Starts what can be started now for one publisher.
    fn run_publisher(&mut self, index: usize, now: BootInstant, ctx: &mut Context<Self>) {
        if self.publishers[index].rests(&self.context, now) {
            return;
        }
        let (lease_changes, opened) = (self.context.leases.changes(), self.publishers[index].opened());
        let opens = self.open_shards(index, now);
        if now >= self.pause_until {
            self.fetch(index, now, ctx);
        }
        let of = &mut self.publishers[index];
        of.rested = (!opens && !of.fetching).then_some(Rest { opened, lease_changes, since: now });
    }

    /// Goes on after a fetch: it changes nothing for other publishers, unless all were paused or share a quota.
    fn run_after_fetch(&mut self, index: usize, concerns_all: bool, ctx: &mut Context<Self>) {
        if concerns_all || self.context.quota.is_some() {
            return self.run_once(ctx);
        }
        if self.may_run(ctx) {
            self.run_publisher(index, BootInstant::now(), ctx);
        }
    }

    /// Probes whether the database can be read: a worker that could not read has left its shards to others, so no fetch
    /// shows when it can again.
    fn probe(&mut self, now: BootInstant, ctx: &mut Context<Self>) {
        let mut lanes = self.context.lanes();
        let idle = lanes.all(|lane| self.context.leases.readable(lane, now).is_empty());
        if self.failures == 0 || self.probing || now < self.pause_until || !idle {
            return;
        }
        self.probing = true;
        let context = Arc::clone(&self.context);
        let work = self.context.runtime.spawn(async move { fetching::probe(&context).await });
        ctx.spawn(work.into_actor(self).map(|result, poller, _| {
            poller.probing = false;
            match result {
                Ok(Err(error)) => poller.pause(&error),
                Ok(Ok(())) => poller.resume(),
                Err(_) => {}
            }
        }));
    }

    fn schedule_fetch_at(&mut self, wakeup: &Wakeup, now: BootInstant) {
        if *wakeup == Wakeup::EveryLane && self.lanes().count() > MOST_WOKEN && self.question.replaces_polls(now) {
            self.question.wake();
            self.lanes().for_each(|lane| lane.reader.hurry_sweep(now));
            // What is covered is fetched if the question finds anything there.
            return self.lanes().for_each(|lane| match lane.can_be_covered(now) {
                true => lane.reader.schedule_uncovered_fetch_at(now),
                false => {
                    lane.reader.schedule_fetch_at(now);
                    lane.reader.uncover();
                }
            });
        }
        for lane in self.lanes() {
            if wakeup.is_of(lane.in_flight.lane()) {
                lane.reader.schedule_fetch_at(now);
                if *wakeup == Wakeup::EveryLane {
                    lane.reader.hurry_sweep(now);
                    lane.reader.uncover();
                }
            }
        }
    }

    /// Asks the publisher to open the shards that this worker leases and that are not open, unless its backend is paused.
    /// Returns whether there are any.
    fn open_shards(&self, index: usize, now: BootInstant) -> bool {
        let PublisherLanes { publisher, lanes, .. } = &self.publishers[index];
        let to_open: Vec<(Shard, i64)> =
            lanes.iter().flat_map(|lane| lane.shards_to_open(&self.context, now)).collect();
        publisher.note_closed(!to_open.is_empty(), now);
        if to_open.is_empty() {
            publisher.end_wait_for_memory();
            return false;
        }
        let Some(address) = self.context.addresses().publishers.get(&publisher.name).cloned() else { return true };
        if let Some(under_way) = publisher.begin_open(now) {
            // If the mailbox is full or the publisher is being replaced, the next run of the loop asks again.
            let _ = address.openings.try_send(OpenShards(to_open, under_way));
        }
        true
    }

    /// Plans and starts the next fetch of a publisher's lanes.
    fn fetch(&mut self, index: usize, now: BootInstant, ctx: &mut Context<Self>) {
        let of = &mut self.publishers[index];
        if of.fetching {
            return;
        }
        let Some((lane, plan)) = of.plan(&self.context, now) else { return };
        of.fetching = true;
        of.next = lane + 1;
        if plan.polls {
            self.context.metrics.polled.increment(1);
        }
        let quota = self.context.quota.as_ref().map(|quota| quota.reserve(plan.most));
        let request = of.lanes[lane].request(&self.context, &of.publisher, &plan);
        let in_flight = Arc::clone(&of.lanes[lane].in_flight);
        let work = self.context.runtime.spawn(fetching::fetch(Arc::clone(&self.context), in_flight, request));
        ctx.spawn(work.into_actor(self).map(move |result, poller, ctx| {
            let of = &mut poller.publishers[index];
            of.fetching = false;
            if !matches!(result, Ok(Ok(_))) {
                let late = matches!(&result, Ok(Err(error)) if is_late(error));
                of.lanes[lane].reader.note_failed_fetch(&plan, late, BootInstant::now());
            }
            let concerns_all = poller.failures > 0 || !matches!(result, Ok(Ok(_)));
            match result {
                Ok(Ok(fetched)) => {
                    of.record_duration(&plan);
                    let pause = poller.take(index, lane, &plan, fetched, quota);
                    if !pause.is_zero() {
                        ctx.run_later(pause, |poller, ctx| poller.run_once(ctx));
                    }
                }
                Ok(Err(error)) => poller.pause(&error),
                // The system has stopped, and its runtime with it.
                Err(error) if error.is_cancelled() => {}
                Err(error) => tracing::error!(%error, "fetch aborted"),
            }
            poller.run_after_fetch(index, concerns_all, ctx);
        }));
    }

    /// Admits the result of a fetch and sends it on. Returns how long wake-ups wait from now on.
    fn take(
        &mut self,
        index: usize,
        lane: usize,
        plan: &FetchPlan,
        fetched: Fetched,
        quota: Option<Reservation>,
    ) -> Duration {
        self.resume();
        let PublisherLanes { publisher, lanes, .. } = &mut self.publishers[index];
        let Admitted { mut deliveries, unreadable } = lanes[lane].admit(publisher, plan, fetched, quota);
        let pause = lanes[lane].reader.pause(BootInstant::now());
        self.refuse(unreadable);
        let routed = routing::take_routed(&self.context.settings, &mut deliveries);
        if !routed.is_empty() {
            self.context.runtime.spawn(routing::move_all(Arc::clone(&self.context), routed));
        }
        self.deliver(index, deliveries);
        pause
    }

    fn refuse(&self, unreadable: Vec<(Delivery, String)>) {
        if unreadable.is_empty() {
            return;
        }
        let failures: Vec<Failure> = unreadable
            .into_iter()
            .map(|(delivery, reason)| Failure { delivery, cause: Cause::Invalid(reason) })
            .collect();
        if let Some(retry) = self.context.addresses().retry.clone() {
            // If the mailbox is full, the rows are released and read again.
            let _ = retry.try_send(Failed(failures));
        }
    }

    fn deliver(&self, index: usize, deliveries: Vec<Delivery>) {
        let publisher = &self.publishers[index].publisher;
        let Some(address) = self.context.addresses().publishers.get(&publisher.name).cloned() else { return };
        for batch in batches(deliveries, self.context.settings.worker.batch_size) {
            // The mailbox holds as many batches as the credit has events. A publisher that is being replaced releases them.
            let _ = address.deliveries.try_send(Deliver(batch));
        }
    }

    pub(super) fn resume(&mut self) {
        self.context.liveness.note_read(None);
        if std::mem::take(&mut self.failures) > 0 {
            tracing::info!("fetch succeeded; database available again");
        }
    }

    pub(super) fn pause(&mut self, error: &StoreError) {
        self.context.liveness.note_read(Some(error));
        if self.failures == 0 {
            tracing::warn!(%error, "fetch failed; retrying");
        }
        self.pause_until = BootInstant::now().after(pause_after(self.failures));
        self.failures = self.failures.saturating_add(1);
    }
}

impl Actor for Poller {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let worker = &self.context.settings.worker;
        let interval = worker.poll_interval.min(worker.lease / 10).min(LONGEST_TICK);
        ctx.run_interval(interval, |poller, ctx| poller.run_once(ctx));
        listen(&Arc::clone(&self.context), self, ctx);
        self.run_once(ctx);
    }
}

/// Runs the loop whenever something wakes it: freed credit, an opened shard, a new event.
fn listen(context: &Arc<SystemContext>, poller: &Poller, ctx: &mut Context<Poller>) {
    let wake = Arc::clone(&context.wakeups.poller);
    let woken = async move { wake.notified().await };
    ctx.spawn(woken.into_actor(poller).map(|(), poller, ctx| {
        poller.run_once(ctx);
        listen(&Arc::clone(&poller.context), poller, ctx);
    }));
}

panics_on_demand!(Poller);

/// Splits deliveries into batches of at most `most` events and a few megabytes.
fn batches(deliveries: Vec<Delivery>, most: usize) -> Vec<Vec<Delivery>> {
    let mut batches: Vec<Vec<Delivery>> = Vec::new();
    let mut bytes = 0;
    for delivery in deliveries {
        let size = delivery.event().map_or(0, |event| event.size());
        match batches.last_mut() {
            Some(batch) if batch.len() < most && bytes + size <= MAX_BATCH_BYTES => {
                bytes += size;
                batch.push(delivery);
            }
            _ => {
                bytes = size;
                batches.push(vec![delivery]);
            }
        }
    }
    batches
}
