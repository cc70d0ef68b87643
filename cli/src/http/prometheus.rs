//! Metrics in Prometheus' text format.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_rt::time::timeout;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::sync::Mutex;

use actix_outbox::Outbox;
use actix_outbox::metrics::histograms;

/// From half a millisecond to an hour: the durations of statements, batches and deliveries.
const BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0];

/// How often recorded values are aggregated, so that they do not accumulate if nothing scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Due events are counted again after this, or after `INTERVAL_FACTOR` times as long as counting took, if that is longer.
const MIN_INTERVAL: Duration = Duration::from_secs(5);
const INTERVAL_FACTOR: u32 = 20;

/// How long a scrape waits for the database; then it returns the last values.
const PATIENCE: Duration = Duration::from_secs(3);

/// The program's recorder, and when the gauges are next updated.
#[derive(Clone)]
pub(crate) struct Metrics {
    handle: PrometheusHandle,
    next_update: Arc<Mutex<Instant>>,
}

impl Metrics {
    /// Installs the recorder for the whole program. Must be called before the system starts, which registers its metrics.
    ///
    /// # Errors
    /// If another recorder is installed already.
    pub(crate) fn install() -> Result<Self, BuildError> {
        let builder = histograms().try_fold(PrometheusBuilder::new(), |builder, name| {
            builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), BUCKETS)
        })?;
        let handle = builder.install_recorder()?;
        Ok(Self { handle, next_update: Arc::new(Mutex::new(Instant::now())) })
    }

    /// Starts to aggregate recorded values regularly, inside an actix system.
    pub(crate) fn start_upkeep(&self) {
        let handle = self.handle.clone();
        actix_rt::spawn(async move {
            let mut interval = actix_rt::time::interval(UPKEEP_INTERVAL);
            loop {
                interval.tick().await;
                handle.run_upkeep();
            }
        });
    }

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

    pub(super) fn render(&self) -> String {
        self.handle.render()
    }
}
