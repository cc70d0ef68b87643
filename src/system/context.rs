//! What the actors of one system share: the settings, the store, the leases, deliveries in flight by lane, and the addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::ArbiterHandle;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use super::addresses::Addresses;
use super::backends::Backends;
use super::death_watch::DeathWatch;
use super::intake::Intake;
use super::leases::Leases;
use super::liveness::{DatabaseUnreadable, Liveness};
use super::messages::ActorKind;
use super::owed::DeliveriesInFlight;
use super::publisher_state::PublisherState;
use super::quota::Quota;
use super::unserved::AskedLanes;
use super::wakeups::Wakeups;
use crate::clock::BootInstant;
use crate::handlers::Subscription;
use crate::metrics::WorkerMetrics;
use crate::runtime::process_name;
use crate::settings::Settings;
use crate::store::{LaneName, Store, UnrecordedEvents, Wakeup, handler_lane};

/// What a system is built on.
pub(super) struct Base {
    pub(super) outbox: Uuid,
    pub(super) store: Arc<dyn Store>,
    pub(super) runtime: Handle,
}

pub(crate) struct SystemContext {
    pub(crate) worker: Uuid,
    pub(crate) outbox: Uuid,
    pub(crate) name: String,
    pub(crate) settings: Settings,
    pub(crate) runtime: Handle,
    /// The actors' thread.
    pub(super) arbiter: ArbiterHandle,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) leases: Leases,
    pub(super) backends: Arc<Backends>,
    pub(crate) publishers: BTreeMap<String, Arc<PublisherState>>,
    /// Calls of `process_pending` that are running; each has a copy.
    pub(super) calls: Arc<()>,
    /// Of a worker that delivers a limited number of events.
    pub(crate) quota: Option<Arc<Quota>>,
    pub(crate) subscriptions: Mutex<Vec<Arc<Subscription>>>,
    /// Held while a handler is registered.
    pub(crate) subscribing: tokio::sync::Mutex<()>,
    /// Why this worker leaves a lane to others.
    pub(crate) standing_by: Mutex<BTreeMap<String, String>>,
    /// Deliveries that handlers of this process are owed and that are in memory.
    pub(crate) owed: Arc<DeliveriesInFlight>,
    /// The queue of events that applications send.
    pub(crate) intake: Intake,
    /// The lanes for which it was checked that a worker serves them.
    pub(crate) asked: AskedLanes,
    pub(crate) wakeups: Wakeups,
    pub(crate) liveness: Liveness,
    pub(crate) metrics: WorkerMetrics,
    /// Notified by each actor that dies.
    deaths: mpsc::UnboundedSender<ActorKind>,
    addresses: Mutex<Addresses>,
}

impl SystemContext {
    #[expect(clippy::too_many_arguments, reason = "called once, by a system's start")]
    pub(super) fn new(
        Base { outbox, store, runtime }: Base,
        settings: Settings,
        backends: Arc<Backends>,
        quota: Option<Arc<Quota>>,
        publishers: BTreeMap<String, Arc<PublisherState>>,
        wake: Arc<Notify>,
        deaths: mpsc::UnboundedSender<ActorKind>,
        arbiter: ArbiterHandle,
    ) -> Arc<Self> {
        Arc::new(Self {
            worker: Uuid::new_v4(),
            asked: AskedLanes::default(),
            intake: Intake::new(settings.worker.max_in_flight_bytes),
            outbox,
            name: settings.worker.name.clone().unwrap_or_else(process_name),
            settings,
            runtime,
            arbiter,
            store,
            backends,
            calls: Arc::default(),
            quota,
            leases: Leases::default(),
            publishers,
            subscriptions: Mutex::default(),
            subscribing: tokio::sync::Mutex::default(),
            standing_by: Mutex::default(),
            owed: Arc::default(),
            wakeups: Wakeups::new(wake),
            liveness: Liveness::default(),
            metrics: WorkerMetrics::new(),
            deaths,
            addresses: Mutex::default(),
        })
    }

    pub(crate) fn lanes(&self) -> impl Iterator<Item = &LaneName> {
        self.publishers.values().flat_map(|publisher| publisher.lanes.iter().map(|in_flight| in_flight.lane()))
    }

    /// The lanes of this process' handlers.
    pub(crate) fn handler_lanes(&self) -> Vec<LaneName> {
        self.subscriptions().iter().map(|handler| handler_lane(handler.name())).collect()
    }

    pub(crate) fn publisher_of(&self, lane: &str) -> Option<&Arc<PublisherState>> {
        self.publishers.values().find(|publisher| publisher.in_flight(lane).is_some())
    }

    pub(crate) fn stop(&self) {
        self.liveness.stop();
        self.wakeups.poller.notify_one();
    }

    /// Whether the database answered a heartbeat within the lease time; a process that serves nothing needs no leases.
    pub(crate) fn lease_health(&self) -> Result<(), String> {
        if self.publishers.is_empty() && self.subscriptions().is_empty() {
            return Ok(());
        }
        self.liveness.lease_health(self.settings.worker.lease)
    }

    /// How often something is done that can wait: every `interval`, or as rarely as the worker polls and renews its leases. With
    /// long times for both, a database without work hears nothing of it for that time.
    pub(super) fn pace(&self, interval: Duration) -> Duration {
        let worker = &self.settings.worker;
        interval.max(worker.poll_interval.min(worker.lease / 3))
    }

    pub(crate) fn unreadable(&self) -> Option<DatabaseUnreadable> {
        self.liveness.unreadable(self.settings.worker.lease)
    }

    /// Notes that there may be something new for this worker to fetch.
    pub(crate) fn note_wakeup(&self, wakeup: Wakeup) {
        if self.handler_lanes().iter().any(|lane| wakeup.is_of(lane)) {
            self.wakeups.handler_poller.notify_one();
        }
        self.wakeups.incoming.put(wakeup);
    }

    /// Announces a commit: this worker fetches, and so do those of other processes.
    pub(crate) fn announce(&self, wakeup: Wakeup) {
        self.metrics.woken_by_self.increment(1);
        self.note_wakeup(wakeup.clone());
        if self.store.notify_store().is_some() {
            self.wakeups.outgoing.put(wakeup.without(|lane| self.owns_all_of(lane)));
        }
    }

    /// Announces events that may be behind the cursors of their lanes: other processes find them by a sweep.
    pub(crate) fn announce_late(&self, lanes: &BTreeSet<LaneName>) {
        self.note_wakeup(lanes.iter().map(Arc::clone).collect());
        if self.store.notify_store().is_some() && lanes.iter().any(|lane| !self.owns_all_of(lane)) {
            self.wakeups.outgoing.put(Wakeup::EveryLane);
        }
    }

    /// Whether no other worker needs a wake-up for the lane: a worker that takes one of its shards later reads it from the
    /// start.
    fn owns_all_of(&self, lane: &str) -> bool {
        self.leases.readable(lane, BootInstant::now()).len() == self.store.shards().unsigned_abs() as usize
    }

    /// Whether no call of `process_pending` is running.
    pub(super) fn has_no_calls(&self) -> bool {
        Arc::strong_count(&self.calls) == 1
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.owed.is_empty()
            && self.publishers.values().all(|publisher| publisher.lanes.iter().all(|in_flight| in_flight.is_empty()))
    }

    /// The events whose outcome the database has not recorded since before that time; `None` if others are in memory.
    pub(super) fn only_unrecorded(&self, before: BootInstant) -> Option<UnrecordedEvents> {
        let mut unrecorded = UnrecordedEvents::default();
        let mut lanes = self.publishers.values().flat_map(|publisher| &publisher.lanes);
        lanes.all(|in_flight| in_flight.add_unrecorded(before, &mut unrecorded)).then_some(unrecorded)
    }

    pub(crate) fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn subscriptions(&self) -> Vec<Arc<Subscription>> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The names of the handlers that are subscribed in this process, whether or not their actors are running.
    pub(crate) fn subscribed_names(&self) -> Vec<String> {
        let subscriptions = self.subscriptions();
        let subscribed = subscriptions.iter().filter(|handler| !handler.is_unsubscribed());
        subscribed.map(|handler| handler.name().to_owned()).collect()
    }

    /// Drops actors and handlers, which may hold a reference to this.
    pub(crate) fn end(&self) {
        self.intake.close();
        *self.addresses() = Addresses::default();
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A guard that reports its actor's death when the actor is dropped.
    pub(crate) fn death_watch(&self, kind: ActorKind) -> DeathWatch {
        DeathWatch::new(kind, self.deaths.clone())
    }
}
