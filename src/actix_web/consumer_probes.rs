//! The probes and the metrics of a process that consumes.

use std::collections::BTreeMap;

use ::actix_web::http::header::CONTENT_TYPE;
use ::actix_web::{HttpResponse, web};
use serde::Serialize;

use super::probes::{Render, response};
use crate::consumer::OutboxConsumer;
use crate::opaque_debug::opaque_debug;

const OK: &str = "ok";
const FAILING: &str = "failing; see the consumer's log";

/// Services for an orchestrator and for Prometheus, as [`Probes`](super::Probes) are for a worker. They need no secret, so they
/// name no address and no error.
///
/// | path | response |
/// |---|---|
/// | `/healthz` | 200 while the process makes progress, without asking other servers |
/// | `/readyz` | 200 while the streams can be read and every handler is running |
/// | `/metrics` | the text of [`metrics`](Self::metrics), if that is given |
#[derive(Clone)]
pub struct ConsumerProbes {
    consumer: web::Data<OutboxConsumer>,
    metrics: Option<web::Data<Render>>,
}

opaque_debug!(ConsumerProbes);

impl ConsumerProbes {
    /// The probes of a running consumer.
    #[must_use]
    pub fn new(consumer: &OutboxConsumer) -> Self {
        Self { consumer: web::Data::new(consumer.clone()), metrics: None }
    }

    /// Adds `/metrics`. The function returns the metrics in Prometheus' text format; the consumer's gauges are updated before.
    #[must_use]
    pub fn metrics(mut self, render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.metrics = Some(web::Data::new(Render(Box::new(render))));
        self
    }

    /// Adds the services to an application or a scope, with its `configure`.
    pub fn configure(&self, config: &mut web::ServiceConfig) {
        config
            .app_data(self.consumer.clone())
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

/// The state of each part: `"ok"`, or that it fails.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    source: &'static str,
    handlers: BTreeMap<String, &'static str>,
    in_flight: usize,
}

async fn healthz(consumer: web::Data<OutboxConsumer>) -> HttpResponse {
    let process = consumer.alive().err().unwrap_or_else(|| OK.to_owned());
    response(process == OK).json(Health { process })
}

async fn readyz(consumer: web::Data<OutboxConsumer>) -> HttpResponse {
    let (health, is_alive) = (consumer.health(), consumer.alive().is_ok());
    let state = |part: &Result<(), String>| if part.is_ok() { OK } else { FAILING };
    let readiness = Readiness {
        ready: health.is_ok() && is_alive,
        source: state(&health.source),
        handlers: health.handlers.iter().map(|(name, part)| (name.clone(), state(part))).collect(),
        in_flight: health.in_flight,
    };
    response(readiness.ready).json(readiness)
}

async fn scrape(consumer: web::Data<OutboxConsumer>, metrics: web::Data<Render>) -> HttpResponse {
    if let Err(error) = consumer.update_gauges().await {
        tracing::debug!(%error, "the consumer's gauges are not updated");
    }
    response(true).insert_header((CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")).body((metrics.0)())
}
