//! Whether the database and the backends can be reached from this machine.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use uuid::Uuid;

use super::OutboxAdmin;
use crate::error::{SettingsError, StoreError};
use crate::settings::PublisherSettings;

/// The limit of a check, even if configured timeouts are longer.
const LIMIT: Duration = Duration::from_secs(15);

/// Whether each part can be reached, and why not.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reachability {
    /// The database, with the outbox's tables.
    pub database: Result<(), String>,
    /// The schema of the tables in PostgreSQL, if a connection was made.
    pub schema: Option<String>,
    /// The served publishers, by name.
    pub backends: BTreeMap<String, Result<(), String>>,
}

impl OutboxAdmin {
    /// Checks from this machine that the database and every backend can be reached, at most 15 s each.
    ///
    /// # Errors
    /// A publisher's settings are not valid.
    pub async fn reachability(&self) -> Result<Reachability, SettingsError> {
        let checks = self.settings.served_publishers().map(|(name, publisher)| self.check(name, publisher));
        let (database, backends) = tokio::join!(self.check_database(), join_all(checks));
        Ok(Reachability {
            database: database.map_err(|error| error.to_string()),
            schema: self.schema(),
            backends: backends.into_iter().collect::<Result<_, _>>()?,
        })
    }

    async fn check_database(&self) -> Result<(), StoreError> {
        self.store.outbox_id().await?;
        self.store.check_visibility().await
    }

    async fn check(
        &self,
        name: &str,
        publisher: &PublisherSettings,
    ) -> Result<(String, Result<(), String>), SettingsError> {
        let mut session = self.backends.session(name, publisher, Uuid::nil())?();
        let health = match tokio::time::timeout(LIMIT, session.health_check()).await {
            Ok(health) => health.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {LIMIT:?}")),
        };
        Ok((name.to_owned(), health))
    }
}
