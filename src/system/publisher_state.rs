//! The state of one publisher that other actors read: deliveries in flight in its lanes, its credit, its breaker.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify};
use uuid::Uuid;

use super::backends::{Backends, SessionFactory};
use super::circuit_breaker::CircuitBreaker;
use super::credit::{Amount, Credit};
use super::in_flight::InFlight;
use super::refusals::Refusals;
use crate::clock::BootInstant;
use crate::error::SettingsError;
use crate::metrics::PublisherMetrics;
use crate::settings::{PublisherSettings, RateLimit, Settings};
use crate::store::LaneName;

/// The state that a publisher shares with the other actors.
pub(crate) struct PublisherState {
    pub(crate) name: String,
    pub(crate) lanes: Vec<Arc<InFlight>>,
    pub(crate) credit: Arc<Credit>,
    pub(crate) settled: Arc<SettledQueue>,
    pub(crate) rate_limit: Option<RateLimit>,
    pub(crate) session: SessionFactory,
    pub(crate) metrics: PublisherMetrics,
    changing: std::sync::Mutex<Changing>,
    /// Held while a publisher works: the work of a dead predecessor ends before its successor opens anything.
    working: Mutex<()>,
    /// Number of publishers so far; the last one is the current one.
    publishers: AtomicU64,
    /// Number of opens so far.
    opens: AtomicU64,
    /// The longest that shards wait for memory: what is in memory is done by then, unless something holds it forever.
    longest_wait: Duration,
    pub(crate) refusals: Refusals,
}

/// An open that is under way. It ends when this is dropped, also by a panic or with a message that no actor receives.
pub(crate) struct OpenUnderWay {
    publisher: Arc<PublisherState>,
    number: u64,
}

impl Drop for OpenUnderWay {
    fn drop(&mut self) {
        let mut state = self.publisher.changing();
        if state.opening == Some(self.number) {
            state.opening = None;
        }
    }
}

/// The part that changes while the publisher works.
#[derive(Debug, Default)]
struct Changing {
    breaker: CircuitBreaker,
    /// The open that is under way.
    opening: Option<u64>,
    /// No open before this: the last one was refused, and the next heartbeat shows why.
    open_after: Option<BootInstant>,
    /// Since when shards that this worker leases are not open.
    closed_since: Option<BootInstant>,
    /// The memory that shards wait for, and since when.
    waiting: Option<(Amount, BootInstant)>,
    paused_hosts: Vec<String>,
    gone_hosts: BTreeMap<String, BootInstant>,
}

impl PublisherState {
    pub(crate) fn new(
        name: String,
        lanes: Vec<Arc<InFlight>>,
        credit: Arc<Credit>,
        settings: &PublisherSettings,
        longest_wait: Duration,
        session: SessionFactory,
    ) -> Arc<Self> {
        let metrics = PublisherMetrics::new(&name);
        Arc::new(Self {
            name,
            lanes,
            credit,
            settled: Arc::default(),
            rate_limit: settings.rate_limit,
            session,
            metrics,
            changing: std::sync::Mutex::default(),
            working: Mutex::default(),
            publishers: AtomicU64::new(0),
            opens: AtomicU64::new(0),
            longest_wait,
            refusals: Refusals::default(),
        })
    }

    fn changing(&self) -> std::sync::MutexGuard<'_, Changing> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn in_flight(&self, lane: &str) -> Option<&Arc<InFlight>> {
        self.lanes.iter().find(|in_flight| **in_flight.lane() == *lane)
    }

    /// The most events that are worth having in memory: at a limited rate, those of the next seconds.
    pub(crate) fn most_ahead(&self) -> usize {
        self.rate_limit.map_or(usize::MAX, |limit| limit.per_second.saturating_mul(2).max(limit.burst) as usize)
    }

    pub(crate) fn close_all(&self) {
        self.lanes.iter().for_each(|in_flight| in_flight.close_all());
    }

    /// The hosts to which nothing is sent: those that the database names, and those that were gone a moment ago.
    pub(crate) fn paused_hosts(&self, now: BootInstant) -> Vec<String> {
        let mut changing = self.changing();
        changing.gone_hosts.retain(|_, until| now < *until);
        changing.paused_hosts.iter().chain(changing.gone_hosts.keys()).cloned().collect()
    }

    pub(crate) fn set_paused_hosts(&self, hosts: Vec<String>) {
        self.changing().paused_hosts = hosts;
    }

    /// Notes a host that is gone; by then a heartbeat has read its pause in the database.
    pub(crate) fn note_gone_host(&self, host: &str, until: BootInstant) {
        self.changing().gone_hosts.insert(host.to_owned(), until);
    }

    // Publishers.

    /// Registers a new publisher; sessions of a predecessor that died are fenced by the next open.
    pub(crate) fn begin_publisher(&self) -> u64 {
        self.close_all();
        self.changing().opening = None;
        self.publishers.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Waits until this publisher may work; `None` if another has replaced it.
    pub(crate) async fn begin_work(&self, publisher: u64) -> Option<MutexGuard<'_, ()>> {
        let working = self.working.lock().await;
        (self.publishers.load(Ordering::Acquire) == publisher).then_some(working)
    }

    /// Starts an open, unless one is under way, the backend is paused, or the shards wait for memory.
    pub(crate) fn begin_open(self: &Arc<Self>, now: BootInstant) -> Option<OpenUnderWay> {
        let mut state = self.changing();
        let paused = state.breaker.is_paused(now) || state.open_after.is_some_and(|moment| now < moment);
        let waits = state
            .waiting
            .is_some_and(|(amount, since)| !self.credit.has(amount) && now.since(since) < self.longest_wait);
        if paused || waits || state.opening.is_some() {
            return None;
        }
        let number = self.opens.fetch_add(1, Ordering::Relaxed);
        state.opening = Some(number);
        Some(OpenUnderWay { publisher: Arc::clone(self), number })
    }

    /// Prevents opens for a while: the last one was refused.
    pub(crate) fn delay_open(&self, pause: Duration) {
        self.changing().open_after = Some(BootInstant::now().after(pause));
    }

    /// Notes whether leased shards wait to be opened.
    pub(crate) fn note_closed(&self, any: bool, now: BootInstant) {
        let mut state = self.changing();
        state.closed_since = any.then(|| state.closed_since.unwrap_or(now));
    }

    /// Whether the backend accepts events, as far as this worker knows; an error also if shards have not been open for
    /// longer than `limit`.
    pub(crate) fn health(&self, now: BootInstant, limit: Duration) -> Result<(), String> {
        let state = self.changing();
        if let Some(open) = state.breaker.open() {
            return Err(open.reason.clone());
        }
        let Some(span) = state.closed_since.map(|since| now.since(since)).filter(|span| *span > limit) else {
            return Ok(());
        };
        let cause = if state.waiting.is_some() {
            "not enough memory for what was sent before"
        } else {
            "see the log for the cause"
        };
        Err(format!("shards of this worker have not been opened for {span:.1?}; {cause}"))
    }

    /// Whether the shards have waited so long for memory that one of them is opened without.
    pub(crate) fn has_waited_too_long(&self, now: BootInstant) -> bool {
        let waiting = self.changing().waiting;
        waiting.is_some_and(|(amount, since)| !self.credit.has(amount) && now.since(since) >= self.longest_wait)
    }

    /// Ends the wait of shards for memory.
    pub(crate) fn end_wait_for_memory(&self) {
        if self.changing().waiting.take().is_some() {
            self.credit.reserve(Amount::default());
        }
    }

    /// Opens no more shards until this much memory is free, which is reserved.
    pub(crate) fn wait_for_memory(&self, amount: Amount) {
        let (events, bytes) = (amount.events.min(self.credit.most_events), amount.bytes.min(self.credit.most_bytes));
        self.credit.reserve(Amount { events, bytes });
        self.changing().waiting = Some((amount, BootInstant::now()));
    }

    // The breaker.

    /// A copy of the breaker.
    pub(crate) fn breaker(&self) -> CircuitBreaker {
        self.changing().breaker.clone()
    }

    /// Pauses the backend. `sending`: sending failed, not only connecting.
    pub(crate) fn pause(&self, reason: &str, sending: bool) {
        if self.changing().breaker.fail(reason, sending, BootInstant::now()) {
            tracing::warn!(backend = %self.name, reason, "backend paused; no retry is spent");
        }
    }

    /// Notes that the backend was reached. If sending had failed, only sending shows that it works.
    pub(crate) fn resume_if_reachable(&self) {
        let needs_proof = self.changing().breaker.needs_proof();
        if !needs_proof {
            self.resume();
        }
    }

    /// Notes a successful health check; `proves`: it shows that the backend accepts events.
    pub(crate) fn note_healthy(&self, proves: bool) {
        let works = self.changing().breaker.note_healthy(proves);
        if works {
            self.resume();
        }
    }

    /// Notes that an event was accepted, which is the proof. Returns whether that ends a pause.
    pub(crate) fn accepted(&self) -> bool {
        self.changing().breaker.accepted();
        self.resume()
    }

    /// Ends the pause. Returns whether the backend was paused.
    fn resume(&self) -> bool {
        let Some(since) = self.changing().breaker.close() else { return false };
        let paused = BootInstant::now().since(since).as_millis();
        tracing::info!(backend = %self.name, paused.duration_ms = paused, "backend available again");
        true
    }
}

/// Makes the state of each publisher that is served; memory is divided among them.
pub(super) fn make_publishers(
    settings: &Settings,
    backends: &Backends,
    outbox: Uuid,
    wake: &Arc<Notify>,
) -> Result<BTreeMap<String, Arc<PublisherState>>, SettingsError> {
    let count = settings.served_publishers().count().max(1);
    let longest_wait = settings.worker.handler_timeout + settings.worker.lease;
    let (events, bytes) = (settings.worker.max_in_flight / count, settings.worker.max_in_flight_bytes / count);
    settings
        .served_publishers()
        .map(|(name, publisher)| {
            let credit = Credit::new(events.max(1), bytes.max(1), Arc::clone(wake));
            let lanes = settings.lanes_of(name).into_iter().map(|lane| InFlight::new(LaneName::from(lane))).collect();
            let session = backends.session(name, publisher, outbox)?;
            Ok((name.clone(), PublisherState::new(name.clone(), lanes, credit, publisher, longest_wait, session)))
        })
        .collect()
}

/// Settled events whose journal entries the session has still to remove.
#[derive(Debug, Default)]
pub(crate) struct SettledQueue(std::sync::Mutex<Vec<(Uuid, i64)>>);

impl SettledQueue {
    pub(crate) fn push(&self, event: (Uuid, i64)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(crate) fn take(&self) -> Vec<(Uuid, i64)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
