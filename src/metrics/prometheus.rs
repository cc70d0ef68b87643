//! Metrics in Prometheus' text format.

use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use super::histograms;

/// From half a millisecond to an hour: the durations of statements, batches and deliveries.
const BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0];

/// How often recorded values are aggregated, so that they do not accumulate if nothing scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The recorder cannot be installed.
#[derive(Debug, thiserror::Error)]
#[error("cannot install the recorder of the metrics: {0}")]
pub struct PrometheusError(#[from] BuildError);

/// Prometheus' recorder for the whole program: the outbox's metrics, and all others that the program records with the crate
/// `metrics`. Cheap to clone.
///
/// ```no_run
/// # use actix_outbox::{OutboxSystem, Settings};
/// # async fn start(settings: Settings) -> Result<(), Box<dyn std::error::Error>> {
/// let prometheus = actix_outbox::metrics::Prometheus::install()?;
/// let outbox = OutboxSystem::builder(settings).start().await?;
/// outbox.update_gauges().await?;
/// println!("{}", prometheus.render());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Prometheus {
    handle: PrometheusHandle,
}

impl Prometheus {
    /// Installs the recorder. Must be called before the system starts, which registers its metrics.
    ///
    /// # Errors
    /// If another recorder is installed already.
    pub fn install() -> Result<Self, PrometheusError> {
        let handle = builder()?.install_recorder()?;
        let upkeep = handle.clone();
        let started = std::thread::Builder::new().name("outbox-metrics".to_owned()).spawn(move || {
            loop {
                std::thread::sleep(UPKEEP_INTERVAL);
                upkeep.run_upkeep();
            }
        });
        if let Err(error) = started {
            tracing::warn!(%error, "recorded metrics are aggregated by scrapes alone");
        }
        Ok(Self { handle })
    }

    /// A recorder that is not installed.
    #[cfg(test)]
    pub(crate) fn recorder() -> (metrics_exporter_prometheus::PrometheusRecorder, Self) {
        let recorder = builder().unwrap().build_recorder();
        let handle = recorder.handle();
        (recorder, Self { handle })
    }

    /// The metrics in the text format, with the content type `text/plain; version=0.0.4`.
    #[must_use]
    pub fn render(&self) -> String {
        without_unknown(self.handle.render())
    }
}

/// Leaves out what consumers do not know.
fn without_unknown(text: String) -> String {
    #[cfg(feature = "consumer")]
    if text.contains(" NaN") {
        let is_known = |line: &&str| {
            !line.ends_with(" NaN")
                || !super::consumer::BACKLOG
                    .iter()
                    .any(|name| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')))
        };
        return text.split_inclusive('\n').filter(|line| is_known(&line.trim_end())).collect();
    }
    text
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    histograms().try_fold(PrometheusBuilder::new(), |builder, name| {
        builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), BUCKETS)
    })
}

impl std::fmt::Debug for Prometheus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prometheus").finish_non_exhaustive()
    }
}
