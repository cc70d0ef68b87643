//! The state with which a publisher works on the runtime's side.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::backend::session::BackendSession;
use crate::clock::BootInstant;
use crate::store::NewPause;
use crate::system::context::SystemContext;
use crate::system::delivery::Delivery;
use crate::system::limiter::Limiter;
use crate::system::messages::{Accepted, Failed, Failure};
use crate::system::poison_detector::PoisonDetector;
use crate::system::publisher_state::PublisherState;

pub(super) struct BatchSender {
    /// The number of this publisher among those that have served the backend.
    pub(super) number: u64,
    pub(super) context: Arc<SystemContext>,
    pub(super) state: Arc<PublisherState>,
    pub(super) session: Box<dyn BackendSession>,
    pub(super) limiter: Option<Limiter>,
    pub(super) poison: PoisonDetector,
    /// Events in one send: halves after a failure, doubles after a success.
    pub(super) batch: usize,
    /// When the backend was last queried.
    pub(super) asked: BootInstant,
    /// Number of health checks since it was last sent anything.
    pub(super) idle_checks: u32,
    /// Nothing was opened, sent or settled since the last flush.
    pub(super) flushed: bool,
}

impl BatchSender {
    pub(super) fn new(context: Arc<SystemContext>, state: Arc<PublisherState>) -> Self {
        let number = state.begin_publisher();
        let limit = context.settings.publishers.get(&state.name).and_then(|settings| settings.rate_limit);
        let batch = context.settings.worker.batch_size;
        let session = (state.session)();
        let limiter = limit.map(Limiter::new);
        Self {
            number,
            context,
            state,
            session,
            limiter,
            poison: PoisonDetector::default(),
            batch,
            asked: BootInstant::now(),
            idle_checks: 0,
            flushed: false,
        }
    }

    /// Passes deliveries to the registry. If that is being replaced, dropping the deliveries closes their shards, and the
    /// next open finds the events in the journal.
    pub(super) async fn pass_on(&self, mut deliveries: Vec<Delivery>) {
        self.note_behind(&mut deliveries).await;
        let registry = self.context.addresses().registry.clone();
        if let Some(registry) = registry.filter(|_| !deliveries.is_empty()) {
            let _ = registry.send(Accepted(deliveries)).await;
        }
    }

    /// Notes which handlers of this process are owed an earlier event of a key, so that they do not receive a later one
    /// first.
    async fn note_behind(&self, deliveries: &mut [Delivery]) {
        let subscriptions = self.context.subscriptions();
        if !self.context.liveness.owes_handlers() || subscriptions.is_empty() {
            return;
        }
        for in_flight in &self.state.lanes {
            let lane = in_flight.lane();
            let of_lane = |delivery: &&mut Delivery| delivery.shard.lane == *lane && !delivery.key().is_empty();
            let keys: BTreeSet<String> =
                deliveries.iter_mut().filter(of_lane).map(|delivery| delivery.key().to_owned()).collect();
            if keys.is_empty() {
                continue;
            }
            let keys: Vec<String> = keys.into_iter().collect();
            let owed = self.context.store.owed_before(lane, &keys).await;
            for delivery in deliveries.iter_mut().filter(of_lane) {
                delivery.behind = match &owed {
                    Ok(owed) => owed.get(delivery.key()).cloned().unwrap_or_default(),
                    // Unknown, so any of them may be.
                    Err(_) => subscriptions.iter().map(|handler| handler.name().to_owned()).collect(),
                };
            }
        }
    }

    pub(super) async fn fail(&self, failures: Vec<Failure>) {
        let retry = self.context.addresses().retry.clone();
        if let Some(retry) = retry.filter(|_| !failures.is_empty()) {
            let _ = retry.send(Failed(failures)).await;
        }
    }

    /// Pauses a host that is gone, in the database. If that fails, the next event for it is answered alike.
    pub(super) fn pause_host(&self, host: String, reason: &str) {
        tracing::warn!(backend = %self.state.name, host, reason, "receiver gone; paused until `outbox backends resume`");
        self.state.note_gone_host(&host, BootInstant::now().after(self.context.settings.worker.lease));
        let (backend, by) = (self.state.name.clone(), format!("worker {}", self.context.name));
        let pause = NewPause { backend, host, by, reason: reason.to_owned() };
        let store = Arc::clone(&self.context.store);
        self.context.runtime.spawn(async move {
            if let Err(error) = store.pause(&pause, None).await {
                tracing::warn!(%error, backend = pause.backend, host = pause.host, "pause of a host not recorded");
            }
        });
    }

    pub(super) fn note_settled(&mut self) {
        let settled = self.state.settled.take();
        if !settled.is_empty() {
            self.flushed = false;
            self.session.settled(&settled);
        }
    }

    pub(super) async fn flush(&mut self) {
        let state = Arc::clone(&self.state);
        let Some(_working) = state.begin_work(self.number).await else { return };
        self.note_settled();
        match self.session.flush().await {
            Ok(()) => self.flushed = true,
            Err(error) => {
                self.state.close_all();
                self.state.pause(&error.to_string(), false);
            }
        }
        self.log_left_out();
        self.look_after().await;
    }
}
