//! Health probes of a process that serves the console.

use std::time::Duration;

use actix_outbox::StoreError;
use actix_outbox::admin::OutboxAdmin;
use actix_web::{HttpResponse, web};
use serde_json::json;
use uuid::Uuid;

use super::Console;
use super::single_flight::{CachedValue, Pace, SingleFlightCache};

/// How long a probe may take; orchestrators' timeouts are shorter.
const PATIENCE: Duration = Duration::from_secs(10);

/// One answer serves all callers for this long.
const PACE: Pace = Pace { min_interval: Duration::from_secs(1), factor: 0, grace: None };

/// Services for an orchestrator. They need no secret, so they name no address and no error.
///
/// | path | response |
/// |---|---|
/// | `/healthz` | 200 while the process answers, without asking the database |
/// | `/readyz` | 200 while the database answers and has the outbox's tables |
#[derive(Clone)]
pub struct ConsoleProbes {
    database: web::Data<Database>,
}

struct Database {
    admin: OutboxAdmin,
    last: SingleFlightCache<Uuid, StoreError>,
}

impl std::fmt::Debug for ConsoleProbes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsoleProbes").finish_non_exhaustive()
    }
}

impl ConsoleProbes {
    /// The probes of a console.
    #[must_use]
    pub fn new(console: &Console) -> Self {
        let database = Database { admin: console.admin.clone(), last: SingleFlightCache::new(PACE) };
        Self { database: web::Data::new(database) }
    }

    /// Adds the services to an application or a scope, with its `configure`.
    pub fn configure(&self, config: &mut web::ServiceConfig) {
        config
            .app_data(self.database.clone())
            .route("/healthz", web::get().to(healthz))
            .route("/readyz", web::get().to(readyz));
    }
}

async fn healthz() -> HttpResponse {
    response(true, &json!({"process": "ok"}))
}

async fn readyz(database: web::Data<Database>) -> HttpResponse {
    let admin = database.admin.clone();
    let CachedValue { answer, failure } = database.last.get(|| async move { admin.outbox_id().await }, PATIENCE).await;
    let is_ready = answer.is_some() && failure.is_none();
    response(
        is_ready,
        &json!({"ready": is_ready, "database": if is_ready { "ok" } else { "failing; see `outbox doctor`" }}),
    )
}

fn response(is_ok: bool, body: &serde_json::Value) -> HttpResponse {
    let mut response = if is_ok { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.insert_header(("cache-control", "no-store")).json(body)
}
