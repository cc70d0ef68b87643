//! The metrics in Prometheus' text format.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_rt::time::timeout;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::sync::Mutex;

use crate::metrics::{ALL, Kind};
use crate::system::Outbox;

/// From half a millisecond to half a minute: what a statement, a batch and a delivery take.
const BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0];

/// How often what was recorded is summed up, so that it does not pile up where nobody scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The database is asked again for what is due after this, and after twenty times as long as it took.
const SHORTEST_AGE: Duration = Duration::from_secs(5);
const REST: u32 = 20;

/// A scrape does not wait longer for the database: the last figures stand.
const PATIENCE: Duration = Duration::from_secs(3);

/// The program's recorder, and when the gauges were last brought up to date.
#[derive(Clone)]
pub(crate) struct Metrics {
    handle: PrometheusHandle,
    next_update: Arc<Mutex<Instant>>,
}

impl Metrics {
    /// Installs the recorder for the whole program: before the system starts, which asks it for its metrics then.
    ///
    /// # Errors
    /// Where another recorder is installed already.
    pub(crate) fn install() -> Result<Self, BuildError> {
        let builder = ALL
            .iter()
            .filter(|metric| metric.kind == Kind::Histogram)
            .try_fold(PrometheusBuilder::new(), |builder, metric| {
                builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), BUCKETS)
            })?;
        let handle = builder.install_recorder()?;
        Ok(Self { handle, next_update: Arc::new(Mutex::new(Instant::now())) })
    }

    /// Sums up what was recorded, again and again; inside an actix system.
    pub(crate) fn keep_up(&self) {
        let handle = self.handle.clone();
        actix_rt::spawn(async move {
            let mut interval = actix_rt::time::interval(UPKEEP_INTERVAL);
            loop {
                interval.tick().await;
                handle.run_upkeep();
            }
        });
    }

    /// Brings the gauges up to date; those for which the database is asked unless they just were, and never twice at a time.
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
                tracing::debug!(%error, "what is due is not known");
            }
            *next_update = Instant::now() + SHORTEST_AGE.max(began.elapsed() * REST);
        });
        // What takes longer goes on, and shows in a later scrape.
        let _ = timeout(PATIENCE, counting).await;
    }

    pub(super) fn render(&self) -> String {
        self.handle.render()
    }
}
