//! A process' health probes for an orchestrator, and its metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ::actix_web::http::StatusCode;
use ::actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use ::actix_web::{HttpResponse, HttpResponseBuilder, web};
use serde::Serialize;
use tokio::sync::Mutex;

use super::gauges::GaugeUpdates;
use crate::opaque_debug::opaque_debug;
use crate::system::{HealthReport, Outbox};

/// How long a probe may take; orchestrators' timeouts are shorter.
const PATIENCE: Duration = Duration::from_secs(10);

/// The age up to which one answer serves all callers.
const FRESH: Duration = Duration::from_secs(1);

const OK: &str = "ok";
const UNKNOWN: &str = "unknown";
const FAILING: &str = "failing; see the worker's log";

/// Services for an orchestrator and for Prometheus. They need no secret, so they name no address and no error: what fails is
/// logged when it changes. Cheap to clone: all clones share one answer a second.
///
/// | path | response |
/// |---|---|
/// | `/healthz` | 200 while the process makes progress, without asking other servers |
/// | `/readyz` | 200 while the database answers, every backend accepts events, every handler is running and the leases are kept |
/// | `/metrics` | the text of [`metrics`](Self::metrics), if that is given |
#[derive(Clone)]
pub struct Probes {
    outbox: web::Data<Started>,
    readiness: web::Data<LastReadiness>,
    gauges: web::Data<GaugeUpdates>,
    metrics: Option<web::Data<Render>>,
}

opaque_debug!(Probes);

/// The outbox, once it has started.
struct Started(Arc<OnceLock<Outbox>>);

/// The last readiness, for all callers; held while it is found out.
#[derive(Default)]
struct LastReadiness(Mutex<Option<(Instant, Readiness)>>);

/// The metrics as text.
pub(super) struct Render(pub(super) Box<dyn Fn() -> String + Send + Sync>);

impl Probes {
    /// The probes of a running outbox.
    #[must_use]
    pub fn new(outbox: &Outbox) -> Self {
        Self::starting(Arc::new(OnceLock::from(outbox.clone())))
    }

    /// The probes of an outbox that is still starting, for a server that is started first: it is not ready until the cell is
    /// set.
    #[must_use]
    pub fn starting(outbox: Arc<OnceLock<Outbox>>) -> Self {
        let (readiness, gauges) = (web::Data::new(LastReadiness::default()), web::Data::new(GaugeUpdates::default()));
        Self { outbox: web::Data::new(Started(outbox)), readiness, gauges, metrics: None }
    }

    /// Adds `/metrics`. The function returns the metrics in Prometheus' text format, as the recorder of the program writes
    /// them; the outbox's gauges are updated before.
    #[must_use]
    pub fn metrics(mut self, render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.metrics = Some(web::Data::new(Render(Box::new(render))));
        self
    }

    /// Adds the services to an application or a scope, with its `configure`.
    pub fn configure(&self, config: &mut web::ServiceConfig) {
        config
            .app_data(self.outbox.clone())
            .app_data(self.readiness.clone())
            .app_data(self.gauges.clone())
            .route("/healthz", web::get().to(healthz))
            .route("/readyz", web::get().to(readyz));
        if let Some(metrics) = &self.metrics {
            config.app_data(metrics.clone()).route("/metrics", web::get().to(scrape));
        }
    }
}

#[derive(Serialize)]
struct Health {
    /// `"ok"`, or the problem.
    process: String,
}

async fn healthz(outbox: web::Data<Started>) -> HttpResponse {
    let process = outbox.0.get().and_then(|outbox| outbox.alive().err()).unwrap_or_else(|| OK.to_owned());
    response(process == OK).json(Health { process })
}

/// The state of each part: `"ok"`, or that it fails.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Readiness {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<&'static str>,
    database: &'static str,
    backends: BTreeMap<String, &'static str>,
    /// Those of this process.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    handlers: BTreeMap<String, &'static str>,
    leases: &'static str,
    /// Shards owned, by `publisher_backend`.
    shards: BTreeMap<String, usize>,
    /// The backends that this worker leaves to other workers; it is ready nevertheless.
    standing_by: Vec<String>,
    in_flight: usize,
    /// What fails and why, for the log.
    #[serde(skip)]
    reasons: BTreeMap<String, String>,
}

impl Readiness {
    fn not_running(process: &'static str, reason: String) -> Self {
        let reasons = BTreeMap::from([("process".to_owned(), reason)]);
        Self { process: Some(process), database: UNKNOWN, leases: UNKNOWN, reasons, ..Self::default() }
    }

    /// Logs reasons that were not there before, and that parts work again.
    fn log_changes_since(&self, last: Option<&Self>) {
        let none = BTreeMap::new();
        let before = last.map_or(&none, |last| &last.reasons);
        for (part, reason) in self.reasons.iter().filter(|(part, reason)| before.get(*part) != Some(reason)) {
            tracing::warn!(part, reason, "the worker is not ready");
        }
        for part in before.keys().filter(|part| !self.reasons.contains_key(*part)) {
            tracing::info!(part, "ready again");
        }
    }
}

impl From<HealthReport> for Readiness {
    fn from(report: HealthReport) -> Self {
        let mut reasons = BTreeMap::new();
        let mut state = |part: String, health: Result<(), String>| match health {
            Ok(()) => OK,
            Err(reason) => {
                reasons.insert(part, reason);
                FAILING
            }
        };
        Self {
            ready: report.is_ready(),
            process: None,
            database: state("database".to_owned(), report.database),
            leases: state("leases".to_owned(), report.leases),
            backends: report
                .backends
                .into_iter()
                .map(|(name, health)| (name.clone(), state(format!("backend {name}"), health)))
                .collect(),
            handlers: report
                .handlers
                .into_iter()
                .map(|(name, health)| (name.clone(), state(format!("handler {name}"), health)))
                .collect(),
            shards: report.shards,
            standing_by: report.standing_by.into_keys().collect(),
            in_flight: report.in_flight,
            reasons,
        }
    }
}

/// Asks the database and the backends once a second at most, however many callers ask.
async fn readyz(outbox: web::Data<Started>, last: web::Data<LastReadiness>) -> HttpResponse {
    let mut last = last.0.lock().await;
    if let Some((_, readiness)) = last.as_ref().filter(|(found, _)| found.elapsed() < FRESH) {
        return response(readiness.ready).json(readiness);
    }
    let readiness = find_out(outbox.0.get()).await;
    readiness.log_changes_since(last.as_ref().map(|(_, readiness)| readiness));
    let (_, readiness) = last.insert((Instant::now(), readiness));
    response(readiness.ready).json(readiness)
}

async fn find_out(outbox: Option<&Outbox>) -> Readiness {
    const STOPPED: &str = "not running";
    let Some(outbox) = outbox else {
        let starting = Readiness::not_running("starting; waiting for the database", String::new());
        return Readiness { reasons: BTreeMap::new(), ..starting };
    };
    match actix_rt::time::timeout(PATIENCE, outbox.health()).await {
        Ok(Ok(report)) => Readiness::from(report),
        Ok(Err(error)) => Readiness::not_running(STOPPED, error.to_string()),
        Err(_) => Readiness::not_running(STOPPED, format!("no answer within {PATIENCE:?}")),
    }
}

async fn scrape(
    outbox: web::Data<Started>,
    gauges: web::Data<GaugeUpdates>,
    metrics: web::Data<Render>,
) -> HttpResponse {
    if let Some(outbox) = outbox.0.get() {
        gauges.update(outbox).await;
    }
    response(true).insert_header((CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")).body((metrics.0)())
}

pub(super) fn response(is_ok: bool) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(if is_ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE });
    response.insert_header((CACHE_CONTROL, "no-store"));
    response
}
