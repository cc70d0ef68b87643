//! Wake-ups that are held until the actor takes them.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::store::Wakeup;

/// Wake-ups merged into one mark for each lane, however many arrive.
pub(crate) struct PendingWakeups {
    inside: Mutex<(Wakeup, usize)>,
    arrived: Arc<Notify>,
}

impl PendingWakeups {
    /// An empty set; `arrived` is notified of every wake-up.
    pub(crate) fn new(arrived: Arc<Notify>) -> Self {
        Self { inside: Mutex::default(), arrived }
    }

    pub(crate) fn put(&self, wakeup: Wakeup) {
        if wakeup.is_empty() {
            return;
        }
        {
            let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
            inside.0.add(wakeup);
            inside.1 += 1;
        }
        self.arrived.notify_one();
    }

    /// Takes all wake-ups, and how many there were.
    pub(crate) fn take(&self) -> (Wakeup, usize) {
        std::mem::take(&mut *self.inside.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner).0.is_empty()
    }

    pub(crate) async fn arrival(&self) {
        self.arrived.notified().await;
    }
}
