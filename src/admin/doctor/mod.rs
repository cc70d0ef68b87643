//! Looks for what endangers an outbox: facts from the database and the backends, judged by pure functions.

mod backend;
mod database;
mod jetstream;
mod mysql;
mod traffic;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use serde::Serialize;
use uuid::Uuid;

use super::OutboxAdmin;
use crate::error::StoreError;
use crate::settings::PublisherSettings;
use crate::store::{CountMode, Store};

/// How long to wait for a backend.
const BACKEND_LIMIT: Duration = Duration::from_secs(15);

/// Clocks that differ by more are a finding.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::seconds(2);

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Severity {
    /// It endangers a guarantee, or events are not delivered.
    Danger,
    /// It costs speed or safety, or may be meant.
    Advice,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What it concerns: `database`, `workers`, or `publisher NAME`.
    pub part: String,
    /// A name for programs, such as `eviction`.
    pub check: &'static str,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub advice: String,
}

/// The findings about one part.
struct Findings {
    part: String,
    found: Vec<Finding>,
}

impl Findings {
    fn new(part: impl Into<String>) -> Self {
        Self { part: part.into(), found: Vec::new() }
    }

    fn danger(&mut self, check: &'static str, problem: impl Into<String>, advice: impl Into<String>) {
        self.add(Severity::Danger, check, problem.into(), advice.into());
    }

    fn advice(&mut self, check: &'static str, problem: impl Into<String>, advice: impl Into<String>) {
        self.add(Severity::Advice, check, problem.into(), advice.into());
    }

    fn add(&mut self, severity: Severity, check: &'static str, problem: String, advice: String) {
        self.found.push(Finding { severity, part: self.part.clone(), check, problem, advice });
    }

    fn clock(&mut self, clock: Option<DateTime<Utc>>, now: DateTime<Utc>) {
        let Some(difference) = clock.map(|clock| (clock - now).abs()).filter(|span| *span > CLOCK_TOLERANCE) else {
            return;
        };
        self.advice(
            "clock",
            format!("its clock and this machine's differ by {} s", difference.num_seconds()),
            "synchronise the clocks (NTP); due times follow the database's clock, logs the machine's",
        );
    }
}

impl OutboxAdmin {
    /// Looks at the database, the backends and the workers for what endangers the outbox; the worst first. A transaction
    /// that has been open for longer than `long_transaction` is a finding. Empty: all is well.
    pub async fn diagnose(&self, long_transaction: Duration) -> Vec<Finding> {
        let backends =
            join_all(self.settings.served_publishers().map(|(name, publisher)| self.backend(name, publisher)));
        let (database, backends) = tokio::join!(self.database(long_transaction), backends);
        let mut found: Vec<Finding> = database.into_iter().chain(backends.into_iter().flatten()).collect();
        found.sort_by_key(|finding| finding.severity);
        found
    }

    async fn database(&self, long_transaction: Duration) -> Vec<Finding> {
        let mut findings = Findings::new("database");
        if let Some(servers) = self.store.unverified_servers() {
            let problem = format!("connections to {servers} are not verified: others may pretend to be the server");
            findings.advice("tls", problem, "set sslmode=verify-full and, for an authority of your own, sslrootcert");
        }
        let checked = async {
            self.store.outbox_id().await?;
            self.store.check_worker().await?;
            self.store.inspect().await
        };
        match checked.await {
            Ok(facts) => {
                let needed = self.store.most_connections().and_then(|count| i64::try_from(count).ok());
                database::judge(&facts, needed, long_transaction, Utc::now(), &mut findings);
            }
            Err(error) => {
                findings.danger("usable", error.to_string(), advice_for(&error));
                return findings.found;
            }
        }
        let mut found = findings.found;
        found.extend(self.traffic(&*self.store).await);
        found
    }

    /// What the tables say about workers and events.
    async fn traffic(&self, store: &dyn Store) -> Vec<Finding> {
        let mut findings = Findings::new("workers");
        let facts = tokio::try_join!(self.status(CountMode::Roughly), self.handlers(), store.workers());
        match facts {
            Ok((status, handlers, workers)) => {
                let lease = self.settings.worker.lease;
                traffic::judge(&status, &handlers, &workers, lease, &mut findings);
            }
            Err(error) => findings.danger("tables", error.to_string(), advice_for(&error)),
        }
        findings.found
    }

    async fn backend(&self, name: &str, publisher: &PublisherSettings) -> Vec<Finding> {
        let mut findings = Findings::new(format!("publisher {name}"));
        let mut session = match self.backends.session(name, publisher, Uuid::nil()) {
            Ok(make) => make(),
            Err(error) => {
                findings.danger("settings", error.to_string(), "correct the settings");
                return findings.found;
            }
        };
        let asked = async {
            session.health_check().await?;
            session.inspect().await
        };
        match tokio::time::timeout(BACKEND_LIMIT, asked).await {
            Ok(Ok(facts)) => backend::judge(publisher, &facts, Utc::now(), &mut findings),
            Ok(Err(error)) => findings.danger("usable", error.to_string(), "events wait until it accepts them"),
            Err(_) => {
                findings.danger(
                    "usable",
                    format!("no answer within {BACKEND_LIMIT:?}"),
                    "check its address and its load",
                );
            }
        }
        findings.found
    }
}

fn advice_for(error: &StoreError) -> &'static str {
    match error {
        StoreError::NotMigrated { .. } => "run `outbox migrate`",
        _ => "docs/postgres.md and docs/configuration.md say what the outbox needs",
    }
}
