//! `Poller`: reads what is due and hands it to the publishers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, WrapFuture};
use uuid::Uuid;

use super::clock::BootInstant;
use super::delivery::Delivery;
use super::in_flight::{Admitted, Fetch, InFlight, SessionId};
use super::lane::{LaneCursor, Plan, Purpose, has_more_retries};
use super::messages::{ActorKind, Cause, Deliver, Failed, Failure, OpenShards};
use super::predecessors::{find_blockers, is_late};
use super::publisher_state::PublisherState;
use super::shared::{Lifeline, Shared, panics_on_demand};
use super::trying::pause_after;
use crate::error::StoreError;
use crate::store::{Blocker, FetchRequest, FetchResult, KeyStart, Position, Range, Shard, Wakeup};

/// A batch is closed when it would hold more than this, so that one script or one write stays small.
const MAX_BATCH_BYTES: usize = 1 << 20;

/// Keys that are read from the start of their order at once.
const MOST_KEYS_TO_REREAD: usize = 64;

/// Events that one fetch asks for at most, so that fetching, publishing and settling overlap.
pub(crate) const MAX_FETCH: usize = 2_000;

/// Bytes that one fetch asks for at most: the driver holds its answer a second time while it is read.
const MAX_FETCH_BYTES: usize = 4 << 20;

/// What a worker reads that only looks whether it can: about as much as with its first fetch.
const PROBE_SHARDS: i16 = 4;
const PROBE_EVENTS: i64 = 100;

pub(crate) struct Poller {
    shared: Arc<Shared>,
    tracks: Vec<Track>,
    failures: u32,
    pause_until: BootInstant,
    probing: bool,
    _lifeline: Lifeline,
}

/// One publisher's lanes; one of them is read at a time, so that their credit is not spent twice.
struct Track {
    publisher: Arc<PublisherState>,
    cursors: Vec<LaneCursor>,
    fetching: bool,
    turn: usize,
}

impl Poller {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let interval = shared.settings.worker.poll_interval;
        let tracks = shared
            .publishers
            .values()
            .map(|publisher| Track {
                publisher: Arc::clone(publisher),
                cursors: publisher.lanes.iter().map(|_| LaneCursor::new(interval)).collect(),
                fetching: false,
                turn: 0,
            })
            .collect();
        let lifeline = shared.lifeline(ActorKind::Poller);
        Self { shared, tracks, failures: 0, pause_until: BootInstant::now(), probing: false, _lifeline: lifeline }
    }

    /// Starts whatever can be started now.
    fn turn(&mut self, ctx: &mut Context<Self>) {
        if !ctx.connected() {
            // What it listens to wakes one actor only.
            self.shared.wake.notify_one();
            return ctx.stop();
        }
        self.shared.tick();
        if self.shared.is_stopping() {
            return;
        }
        let now = BootInstant::now();
        self.look_at(&self.shared.take_wakeup(), now);
        for index in 0..self.tracks.len() {
            self.open_shards(index, now);
            if now >= self.pause_until {
                self.fetch(index, now, ctx);
            }
        }
        self.probe(now, ctx);
    }

    /// A worker that could not read has left its shards to others, so no fetch shows when it can again.
    fn probe(&mut self, now: BootInstant, ctx: &mut Context<Self>) {
        let mut lanes = self.shared.lanes();
        let idle = lanes.all(|lane| self.shared.leases.readable(lane, now).is_empty());
        if self.failures == 0 || self.probing || now < self.pause_until || !idle {
            return;
        }
        self.probing = true;
        let shared = Arc::clone(&self.shared);
        let work = self.shared.runtime.spawn(async move { read_in_vain(&shared).await });
        ctx.spawn(work.into_actor(self).map(|result, poller, _| {
            poller.probing = false;
            match result {
                Ok(Err(error)) => poller.pause(&error),
                Ok(Ok(())) => poller.resume(),
                Err(_) => {}
            }
        }));
    }

    fn look_at(&mut self, wakeup: &Wakeup, now: BootInstant) {
        for track in &mut self.tracks {
            let lanes = track.publisher.lanes.iter().zip(&mut track.cursors);
            lanes.filter(|(in_flight, _)| wakeup.is_of(in_flight.lane())).for_each(|(_, cursor)| cursor.look_at(now));
        }
    }

    /// Asks the publisher to open the shards that are ours and not open, unless its backend is paused.
    fn open_shards(&mut self, index: usize, now: BootInstant) {
        let publisher = &self.tracks[index].publisher;
        let wanted: Vec<(Shard, i64)> = publisher
            .lanes
            .iter()
            .flat_map(|in_flight| {
                let held = self.shared.leases.readable(in_flight.lane(), now);
                held.into_iter()
                    .filter(|(shard, epoch)| in_flight.session(shard.number).map(|open| open.epoch) != Some(*epoch))
            })
            .collect();
        publisher.note_closed(!wanted.is_empty(), now);
        if wanted.is_empty() {
            return publisher.end_wait_for_room();
        }
        let Some(address) = self.shared.addresses().publishers.get(&publisher.name).cloned() else { return };
        let Some(under_way) = publisher.begin_open(now) else { return };
        // A full mailbox or a publisher that is being replaced: the next turn asks again.
        let _ = address.try_send(OpenShards(wanted, under_way));
    }

    /// Plans and starts the next fetch of a publisher's lanes.
    fn fetch(&mut self, index: usize, now: BootInstant, ctx: &mut Context<Self>) {
        if self.tracks[index].fetching {
            return;
        }
        let Some((lane, plan)) = self.plan(index, now) else { return };
        let track = &mut self.tracks[index];
        track.fetching = true;
        track.turn = lane + 1;
        let in_flight = Arc::clone(&track.publisher.lanes[lane]);
        if plan.polls {
            self.shared.metrics.polled.increment(1);
        }
        let request = request(&self.shared, &track.publisher, &in_flight, &plan);
        let work = self.shared.runtime.spawn(read(Arc::clone(&self.shared), in_flight, request));
        ctx.spawn(work.into_actor(self).map(move |result, poller, ctx| {
            poller.tracks[index].fetching = false;
            if !matches!(result, Ok(Ok(_))) {
                let late = matches!(&result, Ok(Err(error)) if is_late(error));
                poller.tracks[index].cursors[lane].give_up(&plan, late, BootInstant::now());
            }
            match result {
                Ok(Ok(reading)) => {
                    poller.time(index, &plan);
                    poller.take(index, lane, &plan, reading);
                    poller.turn_after_the_pause(index, lane, ctx);
                }
                Ok(Err(error)) => poller.pause(&error),
                // The system has stopped, and its runtime with it.
                Err(error) if error.is_cancelled() => {}
                Err(error) => tracing::error!(%error, "a fetch was given up"),
            }
            poller.turn(ctx);
        }));
    }

    fn time(&self, index: usize, plan: &Plan) {
        let metrics = &self.tracks[index].publisher.metrics;
        let histogram = match plan.purpose {
            Purpose::Forward => &metrics.fetch,
            Purpose::Sweep => &metrics.sweep,
        };
        histogram.record(BootInstant::now().since(plan.began));
    }

    /// What is announced in the pause is looked for at its end.
    fn turn_after_the_pause(&self, index: usize, lane: usize, ctx: &mut Context<Self>) {
        let pause = self.tracks[index].cursors[lane].pause(BootInstant::now());
        if !pause.is_zero() {
            ctx.run_later(pause, |poller, ctx| poller.turn(ctx));
        }
    }

    fn plan(&mut self, index: usize, now: BootInstant) -> Option<(usize, Plan)> {
        let track = &mut self.tracks[index];
        let lanes = track.cursors.len();
        let credit = &track.publisher.credit;
        let batch = self.shared.settings.worker.batch_size;
        for lane in (0..lanes).map(|step| (track.turn + step) % lanes) {
            let in_flight = &track.publisher.lanes[lane];
            // Each is kept in memory and in the journal, so there is an end to them.
            if in_flight.unwritable_count() >= self.shared.settings.worker.max_in_flight {
                continue;
            }
            let cursor = &mut track.cursors[lane];
            in_flight.forget_blocked_keys(&cursor.set_open(&open_and_held(&self.shared, in_flight, now)));
            cursor.rewind(&in_flight.take_rewinds());
            if let Some(at) = in_flight.take_next_retry() {
                cursor.retries_at(at);
            }
            let most_ahead = track.publisher.most_ahead();
            // One event passes whatever its size, or it would wait for ever.
            let affordable = cursor.affordable(in_one_fetch(credit.bytes_left())).max(usize::from(credit.is_whole()));
            let room =
                credit.events_left().min(affordable).min(MAX_FETCH).min(most_ahead.saturating_sub(in_flight.len()));
            // A backlog is read in pieces worth a round trip.
            let affordable = cursor.affordable(in_one_fetch(credit.most_bytes));
            let most = credit.most_events.min(affordable).min(MAX_FETCH).min(most_ahead);
            if cursor.is_behind() && room < batch.min(most) / 2 && !in_flight.is_empty() {
                continue;
            }
            if let Some(plan) = cursor.plan(room, in_flight.has_keys_to_reread(), now) {
                return Some((lane, plan));
            }
        }
        None
    }

    /// Takes over what a fetch brought and sends it on.
    fn take(&mut self, index: usize, lane: usize, plan: &Plan, reading: Reading) {
        self.resume();
        let track = &mut self.tracks[index];
        let cursor = &mut track.cursors[lane];
        cursor.advance(plan, &reading.answer, BootInstant::now());
        let retries: Vec<Uuid> = reading.answer.rows.iter().filter(|row| row.retry).map(|row| row.id).collect();
        let has_more_retries = has_more_retries(plan, &reading.answer);
        let credit = &track.publisher.credit;
        let Reading { answer, blockers, unfinished, fetch } = reading;
        let Admitted { deliveries, unreadable } =
            fetch.admit(answer.rows, &blockers, |row| credit.take(row.event.as_ref().map_or(0, |event| event.size())));
        drop(fetch);
        if !plan.retry_shards.is_empty() {
            let taken: HashSet<Uuid> = deliveries
                .iter()
                .chain(unreadable.iter().map(|(delivery, _)| delivery))
                .map(|delivery| delivery.id)
                .collect();
            let waiting = retries.into_iter().filter(|id| !taken.contains(id));
            cursor.pass_retries(waiting, has_more_retries, BootInstant::now());
        }
        // A key of which nothing may go waits for what stands before it: read again at once, it would be for ever.
        let going: HashSet<&str> = deliveries.iter().map(Delivery::key).collect();
        let in_flight = &track.publisher.lanes[lane];
        unfinished
            .iter()
            .filter(|(key, read)| !*read || going.contains(&**key))
            .for_each(|(key, _)| in_flight.reread_key(key));
        self.refuse(unreadable);
        self.deliver(index, deliveries);
    }

    fn refuse(&self, unreadable: Vec<(Delivery, String)>) {
        if unreadable.is_empty() {
            return;
        }
        let failures: Vec<Failure> = unreadable
            .into_iter()
            .map(|(delivery, reason)| Failure { delivery, cause: Cause::Invalid(reason) })
            .collect();
        if let Some(retry) = self.shared.addresses().retry.clone() {
            // A full mailbox gives the rows back, and they are read again.
            let _ = retry.try_send(Failed(failures));
        }
    }

    fn deliver(&self, index: usize, deliveries: Vec<Delivery>) {
        let publisher = &self.tracks[index].publisher;
        let Some(address) = self.shared.addresses().publishers.get(&publisher.name).cloned() else { return };
        for batch in batches(deliveries, self.shared.settings.worker.batch_size) {
            // The mailbox holds as many batches as the credit has events. A publisher that is being replaced gives them back.
            let _ = address.try_send(Deliver(batch));
        }
    }

    fn resume(&mut self) {
        self.shared.note_read(None);
        if std::mem::take(&mut self.failures) > 0 {
            tracing::info!("the database is back; reading goes on");
        }
    }

    fn pause(&mut self, error: &StoreError) {
        self.shared.note_read(Some(error));
        if self.failures == 0 {
            tracing::warn!(%error, "nothing can be read; trying on");
        }
        self.pause_until = BootInstant::now().after(pause_after(self.failures));
        self.failures = self.failures.saturating_add(1);
    }
}

impl Actor for Poller {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let interval = self.shared.settings.worker.poll_interval.min(self.shared.settings.worker.lease / 10);
        ctx.run_interval(interval, |poller, ctx| poller.turn(ctx));
        listen(&Arc::clone(&self.shared), self, ctx);
        self.turn(ctx);
    }
}

/// HandlerTimer the loop whenever something wakes it: freed credit, an opened shard, a new event.
fn listen(shared: &Arc<Shared>, poller: &Poller, ctx: &mut Context<Poller>) {
    let wake = Arc::clone(&shared.wake);
    let woken = async move { wake.notified().await };
    ctx.spawn(woken.into_actor(poller).map(|(), poller, ctx| {
        poller.turn(ctx);
        listen(&Arc::clone(&poller.shared), poller, ctx);
    }));
}

panics_on_demand!(Poller);

/// Reads as the owner of some shards would, and forgets what came.
async fn read_in_vain(shared: &Shared) -> Result<(), StoreError> {
    let Some(lane) = shared.lanes().next() else { return Ok(()) };
    let all = |shard| Range { shard, from: Position::START, to: None, limit: PROBE_EVENTS };
    let request = FetchRequest {
        max_events: MAX_FETCH,
        max_bytes: MAX_FETCH_BYTES,
        max_event_bytes: shared.settings.worker.max_event_bytes,
        ..FetchRequest::of_ranges(lane.clone(), (0..shared.store.shards().min(PROBE_SHARDS)).map(all).collect())
    };
    shared.store.fetch(&request).await.map(drop)
}

/// What one fetch brought.
struct Reading {
    answer: FetchResult,
    blockers: HashMap<String, Blocker>,
    /// Keys that were asked for and may have more, and whether any of it was read.
    unfinished: Vec<(String, bool)>,
    fetch: Fetch,
}

/// Fetches, and asks about the keys of what came (R3).
async fn read(shared: Arc<Shared>, in_flight: Arc<InFlight>, request: FetchRequest) -> Result<Reading, StoreError> {
    let reading = read_fallibly(&shared, &in_flight, &request).await;
    if reading.is_err() {
        request.keys.iter().for_each(|start| in_flight.reread_key(&start.key));
    }
    reading
}

async fn read_fallibly(
    shared: &Shared,
    in_flight: &Arc<InFlight>,
    request: &FetchRequest,
) -> Result<Reading, StoreError> {
    let mut fetch = in_flight.begin_fetch();
    let answer = match shared.store.fetch(request).await {
        Err(error) if !is_late(&error) => {
            in_flight.forget_cleared();
            return Err(error);
        }
        answer => answer?,
    };
    let mut unfinished = Vec::new();
    for KeyStart { key, .. } in &request.keys {
        let count = answer.rows.iter().filter(|row| row.partition_key == *key).count();
        if answer.cut_short || i64::try_from(count).unwrap_or(i64::MAX) >= request.key_limit {
            unfinished.push((key.clone(), count > 0));
        }
    }
    let holds = shared.settings.holds_on_failure(in_flight.lane());
    let blockers = find_blockers(&*shared.store, in_flight, &mut fetch, &answer.rows, holds, holds).await?;
    Ok(Reading { answer, blockers, unfinished, fetch })
}

fn request(shared: &Shared, publisher: &PublisherState, in_flight: &InFlight, plan: &Plan) -> FetchRequest {
    let sweeping = plan.purpose == Purpose::Sweep;
    let keys = in_flight.take_keys_to_reread(MOST_KEYS_TO_REREAD.min(plan.key_room));
    let key_limit = plan.key_limit(keys.len());
    let except = if sweeping || !keys.is_empty() { in_flight.ids() } else { in_flight.retrying() };
    FetchRequest {
        lane: in_flight.lane().clone(),
        ranges: plan.ranges.clone(),
        except,
        retry_shards: plan.retry_shards.clone(),
        retry_limit: plan.retry_limit,
        passed_retries: plan.passed_retries.clone(),
        keys,
        key_limit,
        max_events: plan.most,
        max_bytes: in_one_fetch(publisher.credit.bytes_left()),
        max_event_bytes: shared.settings.worker.max_event_bytes,
    }
}

fn in_one_fetch(bytes: usize) -> usize {
    bytes.min(MAX_FETCH_BYTES)
}

/// The shards that may be read: leased, and open under that lease.
fn open_and_held(shared: &Shared, in_flight: &InFlight, now: BootInstant) -> HashMap<i16, SessionId> {
    let held = shared.leases.readable(in_flight.lane(), now);
    held.into_iter()
        .filter_map(|(shard, epoch)| {
            let session = in_flight.session(shard.number)?;
            (session.epoch == epoch).then_some((shard.number, session))
        })
        .collect()
}

/// Cuts deliveries into batches of at most `most` events and a few megabytes.
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
