//! How often scrapes of the metrics query the database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_rt::time::timeout;
use tokio::sync::Mutex;

use crate::system::Outbox;

/// Due events are counted again after this, or after `INTERVAL_FACTOR` times as long as counting took, if that is longer.
const MIN_INTERVAL: Duration = Duration::from_secs(5);
const INTERVAL_FACTOR: u32 = 20;

/// How long a scrape waits for the database; then it returns the last values.
const PATIENCE: Duration = Duration::from_secs(3);

/// When the gauges that need the database are next updated.
pub(super) struct GaugeUpdates {
    next_update: Arc<Mutex<Instant>>,
}

impl Default for GaugeUpdates {
    fn default() -> Self {
        Self { next_update: Arc::new(Mutex::new(Instant::now())) }
    }
}

impl GaugeUpdates {
    /// Updates the gauges. Those that need the database are updated only if they are due, and only by one scrape at a time.
    pub(super) async fn update(&self, outbox: &Outbox) {
        outbox.update_own_gauges();
        let Ok(mut next_update) = Arc::clone(&self.next_update).try_lock_owned() else { return };
        if Instant::now() < *next_update {
            return;
        }
        let outbox = outbox.clone();
        let counting = actix_rt::spawn(async move {
            let began = Instant::now();
            if let Err(error) = outbox.update_gauges().await {
                tracing::debug!(%error, "counting due events failed");
            }
            *next_update = Instant::now() + MIN_INTERVAL.max(began.elapsed() * INTERVAL_FACTOR);
        });
        // Counting that takes longer continues, and shows in a later scrape.
        let _ = timeout(PATIENCE, counting).await;
    }
}
