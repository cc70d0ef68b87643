//! What wakes the loops of a worker: the poller, the handlers' poller and the heartbeat, and the workers of other processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::pending_wakeups::PendingWakeups;
use crate::store::Wakeup;

pub(crate) struct Wakeups {
    pub(crate) poller: Arc<Notify>,
    pub(crate) handler_poller: Notify,
    pub(crate) heartbeat: Arc<Notify>,
    /// Tells the heartbeat that another worker has released leases.
    pub(crate) leases_released: Notify,
    /// For other processes.
    pub(crate) outgoing: PendingWakeups,
    /// Whether wake-ups taken from there are being sent.
    pub(crate) announcing: AtomicBool,
    /// For the poller.
    pub(crate) incoming: PendingWakeups,
}

impl Wakeups {
    pub(crate) fn new(poller: Arc<Notify>) -> Self {
        Self {
            handler_poller: Notify::new(),
            heartbeat: Arc::default(),
            leases_released: Notify::new(),
            outgoing: PendingWakeups::new(Arc::default()),
            announcing: AtomicBool::new(false),
            incoming: PendingWakeups::new(Arc::clone(&poller)),
            poller,
        }
    }

    pub(crate) fn take(&self) -> Wakeup {
        self.incoming.take().0
    }

    pub(crate) fn has_announced_all(&self) -> bool {
        self.outgoing.is_empty() && !self.announcing.load(Ordering::Acquire)
    }
}
