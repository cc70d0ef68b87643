//! Backends, and hosts of backends, that are paused.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// A pause of a backend, or of one of its hosts: while it lasts, no worker sends events to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct BackendPause {
    /// The publisher's name.
    pub backend: String,
    /// The host of a webhook; empty: the whole backend.
    #[serde(default)]
    pub host: String,
    /// Since when, by the database's clock.
    pub since: DateTime<Utc>,
    /// Who paused it; empty: not given.
    pub by: String,
    /// Why; empty: not given.
    pub reason: String,
}

impl BackendPause {
    /// Whether nothing is sent to the backend, and not only to one of its hosts.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.host.is_empty()
    }
}

/// A pause to be written.
#[derive(Debug, Clone)]
pub(crate) struct NewPause {
    pub(crate) backend: String,
    /// Empty: the whole backend.
    pub(crate) host: String,
    pub(crate) by: String,
    pub(crate) reason: String,
}

/// `since 2026-01-31T12:00:00Z by ann: reason`.
impl fmt::Display for BackendPause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "since {}", self.since.to_rfc3339_opts(SecondsFormat::Secs, true))?;
        if !self.by.is_empty() {
            write!(f, " by {}", self.by)?;
        }
        if self.reason.is_empty() { Ok(()) } else { write!(f, ": {}", self.reason) }
    }
}
