//! The HTTP server: the console, a worker's health probes for an orchestrator, and its metrics for Prometheus.
//!
//! `/healthz`: whether the process makes progress, without asking other servers; `/readyz`: whether the database responds,
//! every backend accepts events and the leases are kept; `/metrics`: the metrics in Prometheus' text format.

mod prometheus;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::{App, HttpResponse, HttpResponseBuilder, HttpServer, web};
use serde::Serialize;

pub(crate) use self::prometheus::Metrics;
use actix_outbox::Settings;
use actix_outbox::{HealthReport, Outbox};
use actix_outbox_console::{Access, Console};

/// How long a probe may take; orchestrators' timeouts are shorter.
const PATIENCE: Duration = Duration::from_secs(10);

const OK: &str = "ok";

/// The system, once it has started; probes may arrive earlier.
pub(crate) type Started = Arc<OnceLock<Outbox>>;

/// Serves inside the running actix system until the process ends.
///
/// # Errors
/// If the address cannot be bound.
pub(crate) fn serve(
    address: SocketAddr,
    routes: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
) -> std::io::Result<()> {
    let app = move || App::new().configure(routes.clone());
    let server = HttpServer::new(app).workers(1).disable_signals().client_request_timeout(PATIENCE).bind(address)?;
    let addresses = server.addrs();
    actix_rt::spawn(server.run());
    tracing::info!(?addresses, "HTTP server listening");
    Ok(())
}

/// A worker's health and metrics.
pub(crate) fn probes(outbox: Started, metrics: Metrics) -> impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static {
    move |config| {
        config
            .app_data(web::Data::from(Arc::clone(&outbox)))
            .app_data(web::Data::new(metrics.clone()))
            .route("/healthz", web::get().to(healthz))
            .route("/readyz", web::get().to(readyz))
            .route("/metrics", web::get().to(scrape));
    }
}

/// The console, for all paths that no probe has. On an address other than loopback it needs a secret.
///
/// # Errors
/// If the secret is missing or the settings are invalid.
pub(crate) fn console(settings: &Settings, address: SocketAddr) -> anyhow::Result<Console> {
    let access = Access::from_settings(&settings.web)?;
    anyhow::ensure!(
        address.ip().to_canonical().is_loopback() || !access.is_loopback(),
        "the console is not served on {address} without a secret: set operator_secret_file under [web], or \
         OUTBOX__WEB__OPERATOR_SECRET (at least 16 bytes)"
    );
    Ok(Console::new(settings, access)?)
}

#[derive(Serialize)]
struct Health {
    /// `"ok"`, or the problem.
    process: String,
}

async fn healthz(outbox: web::Data<OnceLock<Outbox>>) -> HttpResponse {
    let process = outbox.get().and_then(|outbox| outbox.alive().err()).unwrap_or_else(|| OK.to_owned());
    response(process == OK).json(Health { process })
}

/// The state of each part: `"ok"`, or the problem.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    database: String,
    backends: BTreeMap<String, String>,
    leases: String,
    /// Shards owned, by `publisher_backend`.
    shards: BTreeMap<String, usize>,
    /// Why this worker leaves a backend to other workers; it is ready nevertheless.
    standing_by: BTreeMap<String, String>,
    in_flight: usize,
}

impl From<HealthReport> for Readiness {
    fn from(report: HealthReport) -> Self {
        let state = |health: Result<(), String>| health.err().unwrap_or_else(|| OK.to_owned());
        Self {
            ready: report.is_ready(),
            database: state(report.database),
            backends: report.backends.into_iter().map(|(name, health)| (name, state(health))).collect(),
            leases: state(report.leases),
            shards: report.shards,
            standing_by: report.standing_by,
            in_flight: report.in_flight,
        }
    }
}

async fn readyz(outbox: web::Data<OnceLock<Outbox>>) -> HttpResponse {
    let Some(outbox) = outbox.get() else {
        return response(false)
            .json(NotRunning { ready: false, process: "starting; waiting for the database".to_owned() });
    };
    match actix_rt::time::timeout(PATIENCE, outbox.health()).await {
        Ok(Ok(report)) => response(report.is_ready()).json(Readiness::from(report)),
        Ok(Err(error)) => response(false).json(NotRunning { ready: false, process: error.to_string() }),
        Err(_) => response(false).json(NotRunning { ready: false, process: format!("no answer within {PATIENCE:?}") }),
    }
}

#[derive(Serialize)]
struct NotRunning {
    ready: bool,
    process: String,
}

async fn scrape(outbox: web::Data<OnceLock<Outbox>>, metrics: web::Data<Metrics>) -> HttpResponse {
    if let Some(outbox) = outbox.get() {
        metrics.update(outbox).await;
    }
    response(true).insert_header((CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")).body(metrics.render())
}

fn response(is_ok: bool) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(if is_ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE });
    response.insert_header((CACHE_CONTROL, "no-store"));
    response
}
