//! The state that the actors of one system share: the store, the leases, deliveries in flight by lane, and their addresses.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI16, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::Addr;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use super::clock::BootInstant;
use super::completer::Completer;
use super::intake::Intake;
use super::leases::Leases;
use super::messages::{ActorKind, Subscribe};
use super::outbox_system::OutboxSystem;
use super::owed::DeliveriesInFlight;
use super::pending_wakeups::PendingWakeups;
use super::publisher::Publisher;
use super::publisher_state::PublisherState;
use super::reconnect::retry_until_recorded;
use super::registry::Registry;
use super::retry::Retry;
use super::subscription::Subscription;
use super::supervisor::{Subscribed, Supervisor};
use super::unserved::AskedLanes;
use crate::error::{StoreError, SystemError};
use crate::metrics::WorkerMetrics;
use crate::settings::Settings;
use crate::store::{Announcement, LaneName, Store, Wakeup, handler_lane};

/// The addresses of the actors; each restart puts a new one here.
#[derive(Default)]
pub(crate) struct Addresses {
    pub(crate) system: Option<Addr<OutboxSystem>>,
    pub(crate) supervisor: Option<Addr<Supervisor>>,
    pub(crate) publishers: HashMap<String, Addr<Publisher>>,
    pub(crate) registry: Option<Addr<Registry>>,
    pub(crate) completer: Option<Addr<Completer>>,
    pub(crate) retry: Option<Addr<Retry>>,
}

/// The most characters of a handler's name: with its prefix it names a lane.
const MAX_HANDLER_NAME: usize = 92;

pub(crate) struct Shared {
    pub(crate) worker: Uuid,
    pub(crate) outbox: Uuid,
    pub(crate) name: String,
    pub(crate) settings: Settings,
    pub(crate) runtime: Handle,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) leases: Leases,
    pub(crate) publishers: BTreeMap<String, Arc<PublisherState>>,
    pub(crate) subscriptions: Mutex<Vec<Arc<Subscription>>>,
    pub(crate) standing_by: Mutex<BTreeMap<String, String>>,
    /// Deliveries that handlers of this process are owed and that are in memory.
    pub(crate) owed: Arc<DeliveriesInFlight>,
    /// Wakes the handlers' poller.
    pub(crate) handlers_wake: Notify,
    /// The protocol in force, as a heartbeat last saw it.
    protocol: AtomicI16,
    /// The queue of events that applications send.
    pub(crate) intake: Intake,
    /// The lanes for which it was checked that a worker serves them.
    pub(crate) asked: AskedLanes,
    /// Wakes the poller.
    pub(crate) wake: Arc<Notify>,
    /// Wakes the heartbeat.
    pub(crate) beat_now: Arc<Notify>,
    /// Tells the heartbeat that another worker has released leases.
    pub(crate) leases_released: Notify,
    /// Notified by each actor that dies.
    pub(crate) deaths: mpsc::UnboundedSender<ActorKind>,
    pub(crate) addresses: Mutex<Addresses>,
    pub(crate) metrics: WorkerMetrics,
    /// How much the database's clock is ahead of this process', in microseconds; it decides nothing.
    clock_ahead: AtomicI64,
    /// When the database last answered a heartbeat.
    last_beat: Mutex<Option<BootInstant>>,
    /// Wake-ups for other processes.
    pub(crate) outgoing: PendingWakeups,
    /// Whether wake-ups taken from there are being sent.
    pub(crate) announcing: AtomicBool,
    incoming: PendingWakeups,
    stopping: AtomicBool,
    /// When the poll loop last ran.
    pulse: Mutex<BootInstant>,
    /// Every fetch has failed since then.
    unreadable: Mutex<Option<DatabaseUnreadable>>,
}

/// Since when no event can be read, and why.
#[derive(Debug, Clone)]
pub(crate) struct DatabaseUnreadable {
    pub(crate) since: BootInstant,
    pub(crate) reason: String,
}

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "called once, by the builder")]
    pub(crate) fn new(
        outbox: Uuid,
        name: String,
        settings: Settings,
        runtime: Handle,
        store: Arc<dyn Store>,
        publishers: BTreeMap<String, Arc<PublisherState>>,
        wake: Arc<Notify>,
        deaths: mpsc::UnboundedSender<ActorKind>,
    ) -> Arc<Self> {
        Arc::new(Self {
            worker: Uuid::new_v4(),
            asked: AskedLanes::default(),
            intake: Intake::new(settings.worker.max_in_flight_bytes),
            outbox,
            name,
            settings,
            runtime,
            store,
            leases: Leases::default(),
            publishers,
            subscriptions: Mutex::default(),
            standing_by: Mutex::default(),
            owed: Arc::default(),
            handlers_wake: Notify::new(),
            protocol: AtomicI16::new(1),
            metrics: WorkerMetrics::new(),
            clock_ahead: AtomicI64::new(0),
            last_beat: Mutex::new(None),
            outgoing: PendingWakeups::new(Arc::default()),
            announcing: AtomicBool::new(false),
            incoming: PendingWakeups::new(Arc::clone(&wake)),
            wake,
            beat_now: Arc::default(),
            leases_released: Notify::new(),
            deaths,
            addresses: Mutex::default(),
            stopping: AtomicBool::new(false),
            pulse: Mutex::new(BootInstant::now()),
            unreadable: Mutex::default(),
        })
    }

    pub(crate) fn lanes(&self) -> impl Iterator<Item = &LaneName> {
        self.publishers.values().flat_map(|publisher| publisher.lanes.iter().map(|in_flight| in_flight.lane()))
    }

    /// The lanes of this process' handlers.
    pub(crate) fn handler_lanes(&self) -> Vec<LaneName> {
        self.subscriptions().iter().map(|handler| handler_lane(handler.name())).collect()
    }

    pub(crate) fn note_protocol(&self, protocol: i16) {
        self.protocol.store(protocol, Ordering::Relaxed);
    }

    /// Whether every worker knows that handlers of other processes are owed events that are delivered here.
    pub(crate) fn owes_handlers(&self) -> bool {
        self.protocol.load(Ordering::Relaxed) >= 2
    }

    pub(crate) fn publisher_of(&self, lane: &str) -> Option<&Arc<PublisherState>> {
        self.publishers.values().find(|publisher| publisher.in_flight(lane).is_some())
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The database's clock, as a heartbeat last saw it.
    pub(crate) fn database_now(&self) -> DateTime<Utc> {
        let (now, ahead) = (Utc::now(), TimeDelta::microseconds(self.clock_ahead.load(Ordering::Relaxed)));
        // A clock beyond the calendar is ignored.
        now.checked_add_signed(ahead).unwrap_or(now)
    }

    pub(crate) fn note_beat(&self) {
        *self.last_beat.lock().unwrap_or_else(PoisonError::into_inner) = Some(BootInstant::now());
    }

    /// Whether the database answered a heartbeat within the lease time.
    pub(crate) fn lease_health(&self) -> Result<(), String> {
        if self.publishers.is_empty() && self.subscriptions().is_empty() {
            return Ok(());
        }
        let last = *self.last_beat.lock().unwrap_or_else(PoisonError::into_inner);
        match last.map(|last| BootInstant::now().since(last)) {
            Some(span) if span < self.settings.worker.lease => Ok(()),
            Some(span) => Err(format!("no heartbeat was answered for {span:.1?}, so its leases expire")),
            None => Err("no heartbeat was answered yet".to_owned()),
        }
    }

    /// Notes the database's `clock`, read just before `now` of this process' clock: a heartbeat reads it last.
    pub(crate) fn note_clock(&self, clock: DateTime<Utc>, now: DateTime<Utc>) {
        let ahead = (clock - now).num_microseconds().unwrap_or(0);
        self.clock_ahead.store(ahead, Ordering::Relaxed);
    }

    /// Notes that there may be something new for this worker to fetch.
    pub(crate) fn note_wakeup(&self, wakeup: Wakeup) {
        if self.handler_lanes().iter().any(|lane| wakeup.is_of(lane)) {
            self.handlers_wake.notify_one();
        }
        self.incoming.put(wakeup);
    }

    /// Announces a commit: this worker fetches, and so do those of other processes.
    pub(crate) fn announce(&self, wakeup: Wakeup) {
        self.metrics.woken_by_self.increment(1);
        self.note_wakeup(wakeup.clone());
        if self.store.notify_store().is_some() {
            self.outgoing.put(wakeup.without(|lane| self.owns_all_of(lane)));
        }
    }

    pub(crate) fn has_announced_all(&self) -> bool {
        self.outgoing.is_empty() && !self.announcing.load(Ordering::Acquire)
    }

    /// Whether no other worker needs a wake-up for the lane: a worker that takes one of its shards later reads it from the
    /// start.
    fn owns_all_of(&self, lane: &str) -> bool {
        self.leases.readable(lane, BootInstant::now()).len() == self.store.shards().unsigned_abs() as usize
    }

    pub(crate) fn take_wakeup(&self) -> Wakeup {
        self.incoming.take().0
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.owed.is_empty()
            && self.publishers.values().all(|publisher| publisher.lanes.iter().all(|in_flight| in_flight.is_empty()))
    }

    pub(crate) fn tick(&self) {
        *self.pulse.lock().unwrap_or_else(PoisonError::into_inner) = BootInstant::now();
    }

    /// How long ago the poll loop last ran.
    pub(crate) fn silent_for(&self) -> Duration {
        BootInstant::now().since(*self.pulse.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that a fetch succeeded, or failed.
    pub(crate) fn note_read(&self, error: Option<&StoreError>) {
        let mut unreadable = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        let since = unreadable.as_ref().map_or_else(BootInstant::now, |before| before.since);
        *unreadable =
            error.map(|error| DatabaseUnreadable { since, reason: format!("events cannot be read: {error}") });
    }

    /// The failure, if no fetch has succeeded for the lease time: other workers may be able to read what this one cannot.
    pub(crate) fn unreadable(&self) -> Option<DatabaseUnreadable> {
        let unreadable = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).clone();
        unreadable.filter(|unreadable| BootInstant::now().since(unreadable.since) >= self.settings.worker.lease)
    }

    pub(crate) fn addresses(&self) -> std::sync::MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn subscriptions(&self) -> Vec<Arc<Subscription>> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Registers a handler durably: from then on it receives every event that commits, whichever worker delivers it.
    pub(crate) async fn subscribe(self: &Arc<Self>, subscription: Subscribe) -> Result<(), SystemError> {
        self.check_handler(&subscription)?;
        let announcement = Announcement {
            name: subscription.name.clone(),
            types: subscription.events.patterns(),
            owed_for: self.settings.worker.handlers_owed,
        };
        let store = Arc::clone(&self.store);
        let announced = self.runtime.spawn(async move {
            retry_until_recorded("a handler's registration", 1, |_| {
                let (store, announcement) = (Arc::clone(&store), announcement.clone());
                async move {
                    match store.announce(&[announcement]).await {
                        Err(error) if error.is_transient() => Err(error),
                        answer => Ok(answer),
                    }
                }
            })
            .await
        });
        announced.await.map_err(|_| SystemError::Stopped)??;
        self.add_handler(subscription)?;
        if let Some(supervisor) = self.addresses().supervisor.clone() {
            // A supervisor that is being replaced starts what is needed.
            let _ = supervisor.try_send(Subscribed);
        }
        self.handlers_wake.notify_one();
        Ok(())
    }

    fn check_handler(&self, subscription: &Subscribe) -> Result<(), SystemError> {
        let name = &subscription.name;
        let subscriptions = self.subscriptions();
        if subscriptions.iter().any(|other| other.name() == name && other.conflicts_with(subscription)) {
            return Err(SystemError::HandlerNameTaken { name: name.clone() });
        }
        match name.chars().count() {
            1..=MAX_HANDLER_NAME => Ok(()),
            _ => Err(SystemError::HandlerName { name: name.clone(), max: MAX_HANDLER_NAME }),
        }
    }

    fn add_handler(&self, subscription: Subscribe) -> Result<(), SystemError> {
        let mut all = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |other: &Arc<Subscription>| other.name() == subscription.name;
        if all.iter().any(|other| is_same(other) && other.conflicts_with(&subscription)) {
            return Err(SystemError::HandlerNameTaken { name: subscription.name });
        }
        all.retain(|other| !is_same(other));
        all.push(Arc::new(subscription.into()));
        self.beat_now.notify_one();
        Ok(())
    }

    /// Drops actors and handlers, which may hold a reference to this.
    pub(crate) fn end(&self) {
        self.intake.close();
        *self.addresses() = Addresses::default();
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A guard that reports its actor's death when the actor is dropped.
    pub(crate) fn death_watch(&self, kind: ActorKind) -> DeathWatch {
        DeathWatch { kind, deaths: self.deaths.clone() }
    }
}

/// Reports the death of the actor that holds it. A panic in an actix handler drops the actor, so it is reported too.
pub(crate) struct DeathWatch {
    kind: ActorKind,
    deaths: mpsc::UnboundedSender<ActorKind>,
}

impl Drop for DeathWatch {
    fn drop(&mut self) {
        // The receiver is dropped only with the whole system.
        let _ = self.deaths.send(self.kind.clone());
    }
}

/// Implements the message that makes an actor panic, for tests of supervision.
macro_rules! panics_on_demand {
    ($actor:ty) => {
        #[cfg(feature = "fault-injection")]
        impl actix::Handler<crate::system::messages::Panic> for $actor {
            type Result = ();

            fn handle(&mut self, message: crate::system::messages::Panic, _: &mut Self::Context) {
                panic!("asked to: {:?}", message.0);
            }
        }
    };
}
pub(crate) use panics_on_demand;
