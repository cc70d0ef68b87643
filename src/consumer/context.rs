//! What the tasks of a consumer share.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use super::held::{Held, Hold};
use crate::backend::event_source::{EntryRef, EventSource, LeaseId, LeaseState, Renewal, SourceUnavailable};
use crate::clock::BootInstant;
use crate::handlers::Subscription;
use crate::metrics::ConsumerMetrics;
use crate::settings::ConsumerSettings;

/// What a consumer asks its source for again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Call {
    Reading,
    ReadingPartitions,
    Acknowledging,
    Renewing,
    Leasing,
    HandingOver,
    SettingAside,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reading => "reading entries",
            Self::Acknowledging => "acknowledging entries",
            Self::Renewing => "renewing entries",
            Self::ReadingPartitions => "reading partitions",
            Self::Leasing => "renewing the leases of partitions",
            Self::HandingOver => "handing partitions over",
            Self::SettingAside => "setting entries aside",
        })
    }
}

pub(super) struct ConsumerContext {
    /// The name in the settings.
    pub(super) name: String,
    pub(super) settings: ConsumerSettings,
    pub(super) source: Arc<dyn EventSource>,
    pub(super) handlers: Vec<Arc<Subscription>>,
    pub(super) held: Held,
    /// Events that handlers may have at a time.
    pub(super) permits: Semaphore,
    /// An entry that was delivered several times and not answered may end the process: one of these is handled at a time.
    pub(super) suspects: Semaphore,
    /// Events that may still be handled, if their number is limited.
    pub(super) quota: Option<Semaphore>,
    pub(super) metrics: ConsumerMetrics,
    /// How many entries were acknowledged.
    pub(super) acknowledged: AtomicU64,
    /// How many events of the quota are not handled.
    unhandled: AtomicUsize,
    /// When the reader of shared streams last turned, and that of partitions.
    turned: Mutex<[BootInstant; 2]>,
    stopping: watch::Sender<bool>,
    /// Entries that were not handled and are given to other consumers.
    released: Mutex<Vec<Renewal>>,
    /// Why calls fail, by what they do.
    trouble: Mutex<BTreeMap<Call, String>>,
    /// The tasks were ended before they were done.
    is_abandoned: AtomicBool,
}

impl ConsumerContext {
    pub(super) fn new(
        name: String,
        settings: ConsumerSettings,
        source: Arc<dyn EventSource>,
        handlers: Vec<Arc<Subscription>>,
        limit: Option<usize>,
    ) -> Self {
        Self {
            held: Held::new(settings.concurrency, settings.max_bytes, settings.reclaim_after),
            permits: Semaphore::new(settings.concurrency.min(Semaphore::MAX_PERMITS)),
            suspects: Semaphore::new(1),
            quota: limit.map(|most| Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            unhandled: AtomicUsize::new(limit.unwrap_or(usize::MAX)),
            metrics: ConsumerMetrics::new(&name),
            acknowledged: AtomicU64::new(0),
            turned: Mutex::new([BootInstant::now(); 2]),
            stopping: watch::Sender::new(false),
            released: Mutex::default(),
            trouble: Mutex::default(),
            is_abandoned: AtomicBool::new(false),
            name,
            settings,
            source,
            handlers,
        }
    }

    pub(super) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Notes that an event of the quota is handled; after the last one the consumer stops.
    pub(super) fn use_quota(&self) {
        if self.unhandled.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.stop();
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Waits until the consumer is to stop.
    pub(super) async fn stopped(&self) {
        // The sender is in this context.
        let _ = self.stopping.subscribe().wait_for(|is_stopping| *is_stopping).await;
    }

    /// Notes that handlers did not end in time.
    pub(super) fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Relaxed)
    }

    /// Waits for this time; `false` if the consumer is to stop before.
    pub(super) async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            () = self.stopped() => false,
        }
    }

    /// Notes that a reader makes progress.
    pub(super) fn turn(&self, reads_partitions: bool, now: BootInstant) {
        self.turned.lock().unwrap_or_else(PoisonError::into_inner)[usize::from(reads_partitions)] = now;
    }

    /// How long a reader has made no progress.
    pub(super) fn silent_for(&self) -> Duration {
        let turned = *self.turned.lock().unwrap_or_else(PoisonError::into_inner);
        let readers = if self.source.leases().is_some() { &turned[..] } else { &turned[..1] };
        let now = BootInstant::now();
        readers.iter().map(|turned| now.since(*turned)).max().unwrap_or_default()
    }

    /// Whether an entry may be given to handlers.
    pub(super) fn hold(&self, entry: EntryRef, lease: Option<LeaseId>) -> Hold {
        let state = lease.zip(self.source.leases()).map(|(lease, leases)| leases.state(lease));
        match state {
            None | Some(LeaseState::Held) => self.held.hold(entry, BootInstant::now()),
            Some(LeaseState::Leaving) => Hold::GivenUp,
            Some(LeaseState::Over) => Hold::Lost,
        }
    }

    /// Waits until the entries of a lease may not be given to handlers any more; for ever if it is none.
    pub(super) async fn lease_ended(&self, lease: Option<LeaseId>) {
        let Some((lease, leases)) = lease.zip(self.source.leases()) else { return std::future::pending().await };
        let mut changes = leases.changes();
        while leases.state(lease) == LeaseState::Held && changes.changed().await.is_ok() {}
    }

    /// Notes an entry that is left to other consumers.
    pub(super) fn release(&self, renewal: Renewal) {
        self.released.lock().unwrap_or_else(PoisonError::into_inner).push(renewal);
    }

    /// The entries that are left to other consumers, and are not given to them yet.
    pub(super) fn released(&self) -> Vec<Renewal> {
        self.released.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that the first of them are given to them.
    pub(super) fn forget_released(&self, count: usize) {
        self.released.lock().unwrap_or_else(PoisonError::into_inner).drain(..count);
    }

    /// Forgets what an earlier life of the tasks had in memory.
    pub(super) fn clear(&self) {
        self.held.clear();
        self.released.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if let Some(leases) = self.source.leases() {
            leases.restart();
        }
    }

    /// Shows how many entries are in memory.
    pub(super) fn note_entries(&self) {
        self.metrics.in_flight.set(self.held.len() as f64);
        self.metrics.waiting.set(self.held.waiting() as f64);
    }

    /// Why the source cannot be used.
    pub(super) fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.first_key_value().map(|(call, reason)| format!("{call} failed: {reason}"))
    }

    /// Notes the outcome of a call, and logs when it changes.
    pub(super) fn note<T>(&self, call: Call, outcome: &Result<T, SourceUnavailable>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(_) if trouble.remove(&call).is_some() => tracing::info!(consumer = self.name, "{call} works again"),
            Ok(_) => {}
            Err(error) => {
                if trouble.insert(call, error.to_string()).is_none() {
                    tracing::warn!(consumer = self.name, %error, "{call} failed; retrying");
                }
            }
        }
    }
}
