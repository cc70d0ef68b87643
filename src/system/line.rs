//! One publisher's part of what is shared: what is in flight in its lanes, its credit, its breaker.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify};
use uuid::Uuid;

use super::backends::{Backends, SessionFactory};
use super::clock::BootInstant;
use super::credit::{Credit, Room};
use super::in_flight::InFlight;
use super::refusals::Refusals;
use super::trying::pause_after;
use crate::error::SettingsError;
use crate::meters::LineMeters;
use crate::settings::{PublisherSettings, RateLimit, Settings};
use crate::store::Lane;

/// Each time that a health check is believed without proof, one event waits for it in vain.
const LONGEST_DISBELIEF: Duration = Duration::from_secs(60);

/// One publisher's part of what is shared.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) flights: Vec<Arc<InFlight>>,
    pub(crate) credit: Arc<Credit>,
    pub(crate) settled: Arc<SettledQueue>,
    pub(crate) rate_limit: Option<RateLimit>,
    pub(crate) session: SessionFactory,
    pub(crate) meters: LineMeters,
    state: std::sync::Mutex<LineState>,
    /// Held while a publisher works: what a predecessor that died has begun ends before its successor opens anything.
    turn: Mutex<()>,
    /// Counts publishers; the last one is the line's.
    publishers: AtomicU64,
    /// Counts opens.
    opens: AtomicU64,
    /// How long shards wait for room at most: what is in memory is over by then, unless something holds it for ever.
    longest_wait: Duration,
    pub(crate) refusals: Refusals,
}

/// An open is under way. It is over when this is dropped, also by a panic or with a message that nobody takes.
pub(crate) struct OpenUnderWay {
    line: Arc<Line>,
    number: u64,
}

impl Drop for OpenUnderWay {
    fn drop(&mut self) {
        let mut state = self.line.state();
        if state.opening == Some(self.number) {
            state.opening = None;
        }
    }
}

/// The breaker of one publisher, and since when its backend is away.
#[derive(Debug, Clone, Default)]
pub(crate) struct LineState {
    /// Why the backend is paused; `None`: it is not.
    pub(crate) down: Option<Down>,
    /// The open that is under way.
    pub(crate) opening: Option<u64>,
    /// No open before this: the last one was refused, and the next heartbeat tells why.
    pub(crate) open_after: Option<BootInstant>,
    /// Since when shards that are ours are not open.
    closed_since: Option<BootInstant>,
    /// Shards wait for so much room since then.
    waiting: Option<(Room, BootInstant)>,
    /// Since the last accepted event, how often a health check was believed after sending had failed.
    doubts: u32,
    /// It is not believed again before this.
    believed_after: Option<BootInstant>,
}

#[derive(Debug, Clone)]
pub(crate) struct Down {
    pub(crate) reason: String,
    pub(crate) since: BootInstant,
    /// No try before this.
    pub(crate) until: BootInstant,
    pub(crate) failures: u32,
    /// It was sending that failed, not only reaching it.
    pub(crate) sending: bool,
    /// The backend has said since that it is well, and the next event is to show it.
    pub(crate) trying: bool,
}

impl Line {
    pub(crate) fn new(
        name: String,
        flights: Vec<Arc<InFlight>>,
        credit: Arc<Credit>,
        settings: &PublisherSettings,
        longest_wait: Duration,
        session: SessionFactory,
    ) -> Arc<Self> {
        let meters = LineMeters::new(&name);
        Arc::new(Self {
            name,
            flights,
            credit,
            settled: Arc::default(),
            rate_limit: settings.rate_limit,
            session,
            meters,
            state: std::sync::Mutex::default(),
            turn: Mutex::default(),
            publishers: AtomicU64::new(0),
            opens: AtomicU64::new(0),
            longest_wait,
            refusals: Refusals::default(),
        })
    }

    pub(crate) fn state(&self) -> std::sync::MutexGuard<'_, LineState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn in_flight(&self, lane: &str) -> Option<&Arc<InFlight>> {
        self.flights.iter().find(|in_flight| **in_flight.lane() == *lane)
    }

    /// Events that are worth having in memory: at a limited rate, those of the next seconds.
    pub(crate) fn most_ahead(&self) -> usize {
        self.rate_limit.map_or(usize::MAX, |limit| limit.per_second.saturating_mul(2).max(limit.burst) as usize)
    }

    pub(crate) fn close_all(&self) {
        self.flights.iter().for_each(|in_flight| in_flight.close_all());
    }

    // Publishers.

    /// A new publisher serves the line; sessions of a predecessor that died are shut out by the next open.
    pub(crate) fn begin_publisher(&self) -> u64 {
        self.close_all();
        self.state().opening = None;
        self.publishers.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// This publisher's turn to work; `None` where another has taken its place.
    pub(crate) async fn turn_of(&self, publisher: u64) -> Option<MutexGuard<'_, ()>> {
        let turn = self.turn.lock().await;
        (self.publishers.load(Ordering::Acquire) == publisher).then_some(turn)
    }

    /// Begins an open, unless one is under way, the backend is paused, or the shards wait for room.
    pub(crate) fn begin_open(self: &Arc<Self>, now: BootInstant) -> Option<OpenUnderWay> {
        let mut state = self.state();
        let paused = state.down.as_ref().is_some_and(|down| now < down.until)
            || state.open_after.is_some_and(|moment| now < moment);
        let waits =
            state.waiting.is_some_and(|(room, since)| !self.credit.has(room) && now.since(since) < self.longest_wait);
        if paused || waits || state.opening.is_some() {
            return None;
        }
        let number = self.opens.fetch_add(1, Ordering::Relaxed);
        state.opening = Some(number);
        Some(OpenUnderWay { line: Arc::clone(self), number })
    }

    /// Whether shards that are ours wait to be opened.
    pub(crate) fn note_closed(&self, any: bool, now: BootInstant) {
        let mut state = self.state();
        state.closed_since = any.then(|| state.closed_since.unwrap_or(now));
    }

    /// Whether the backend takes events, as far as this worker knows; shards that are not open for longer than `limit` are
    /// stuck.
    pub(crate) fn health(&self, now: BootInstant, limit: Duration) -> Result<(), String> {
        let state = self.state();
        if let Some(down) = &state.down {
            return Err(down.reason.clone());
        }
        let Some(span) = state.closed_since.map(|since| now.since(since)).filter(|span| *span > limit) else {
            return Ok(());
        };
        let cause = if state.waiting.is_some() {
            "there is no room in memory for what was sent before"
        } else {
            "the log says why"
        };
        Err(format!("shards of this worker have not been opened for {span:.1?}; {cause}"))
    }

    /// Whether the shards have waited so long for room that one of them is opened without.
    pub(crate) fn has_waited_too_long(&self, now: BootInstant) -> bool {
        let waiting = self.state().waiting;
        waiting.is_some_and(|(room, since)| !self.credit.has(room) && now.since(since) >= self.longest_wait)
    }

    /// No shard waits for room any more.
    pub(crate) fn end_wait_for_room(&self) {
        if self.state().waiting.take().is_some() {
            self.credit.reserve(Room::default());
        }
    }

    /// No more shards are opened until there is so much room, which is kept from what is read.
    pub(crate) fn wait_for_room(&self, room: Room) {
        let (events, bytes) = (room.events.min(self.credit.most_events), room.bytes.min(self.credit.most_bytes));
        self.credit.reserve(Room { events, bytes });
        self.state().waiting = Some((room, BootInstant::now()));
    }

    // The breaker.

    /// The backend is away: nothing is tried for a while. `sending`: it was sending that failed.
    pub(crate) fn pause(&self, reason: &str, sending: bool) {
        let now = BootInstant::now();
        let mut state = self.state();
        let before = state.down.take();
        if before.is_none() {
            tracing::warn!(backend = %self.name, reason, "backend paused; no retry is spent");
        }
        if sending {
            state.believed_after = Some(now.after(disbelief_after(state.doubts)));
        }
        let (since, failures, sent) =
            before.map_or((now, 0, false), |down| (down.since, down.failures.saturating_add(1), down.sending));
        let (until, sending) = (now.after(pause_after(failures)), sending || sent);
        state.down = Some(Down { reason: reason.to_owned(), since, until, failures, sending, trying: false });
    }

    /// An open went through. Where it was sending that failed, only sending shows that it is over.
    pub(crate) fn resume_where_reachable(&self) {
        let sending = self.state().down.as_ref().is_some_and(|down| down.sending);
        if !sending {
            self.resume();
        }
    }

    /// The backend says that it is well. Where sending had failed and its word `proves` nothing, an event is tried first,
    /// with a share that is small as long as other workers deliver.
    pub(crate) fn believe(&self, proves: bool) {
        {
            let mut state = self.state();
            if state.down.as_ref().is_some_and(|down| down.sending) {
                state.doubts = state.doubts.saturating_add(1);
            }
            if let Some(down) = state.down.as_mut().filter(|down| down.sending && !proves) {
                down.trying = true;
                down.reason = format!("{}; it says that it is well, and the next event is to show it", down.reason);
                return;
            }
        }
        self.resume();
    }

    /// Whether a health check would be believed.
    pub(crate) fn may_believe(&self, now: BootInstant) -> bool {
        let state = self.state();
        let sending = state.down.as_ref().is_some_and(|down| down.sending);
        !sending || state.believed_after.is_none_or(|moment| now >= moment)
    }

    /// Sending has failed although the health check had said that the backend is well.
    pub(crate) fn is_disproved(&self) -> bool {
        let state = self.state();
        state.doubts > 0 && state.down.as_ref().is_some_and(|down| down.sending && !down.trying)
    }

    /// An event was accepted, which is the proof. Returns whether that ends a pause.
    pub(crate) fn accepted(&self) -> bool {
        {
            let mut state = self.state();
            (state.doubts, state.believed_after) = (0, None);
        }
        self.resume()
    }

    /// The backend works. Returns whether it was paused.
    pub(crate) fn resume(&self) -> bool {
        let Some(down) = self.state().down.take() else { return false };
        let paused = BootInstant::now().since(down.since).as_millis();
        tracing::info!(backend = %self.name, paused.duration_ms = paused, "backend is back");
        true
    }
}

/// How long a health check is not believed, after so many that were and that sending has disproved.
fn disbelief_after(doubts: u32) -> Duration {
    Duration::from_secs(2).saturating_mul(1 << doubts.min(5)).min(LONGEST_DISBELIEF)
}

/// The line of each publisher that is served; what may be in memory is divided among them.
pub(super) fn make_lines(
    settings: &Settings,
    backends: &Backends,
    outbox: Uuid,
    wake: &Arc<Notify>,
) -> Result<BTreeMap<String, Arc<Line>>, SettingsError> {
    let count = settings.served_publishers().count().max(1);
    let longest_wait = settings.worker.handler_timeout + settings.worker.lease;
    let (events, bytes) = (settings.worker.max_in_flight / count, settings.worker.max_in_flight_bytes / count);
    settings
        .served_publishers()
        .map(|(name, publisher)| {
            let credit = Credit::new(events.max(1), bytes.max(1), Arc::clone(wake));
            let flights = settings.lanes_of(name).into_iter().map(|lane| InFlight::new(Lane::from(lane))).collect();
            let session = backends.session(name, publisher, outbox)?;
            Ok((name.clone(), Line::new(name.clone(), flights, credit, publisher, longest_wait, session)))
        })
        .collect()
}

/// Events that are settled and whose journal entries the session has still to drop.
#[derive(Debug, Default)]
pub(crate) struct SettledQueue(std::sync::Mutex<Vec<(Uuid, i64)>>);

impl SettledQueue {
    pub(crate) fn push(&self, event: (Uuid, i64)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    pub(crate) fn take(&self) -> Vec<(Uuid, i64)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
