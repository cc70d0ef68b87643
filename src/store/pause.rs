//! Backends that operators have paused.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// An operator's pause of a backend: while it lasts, no worker sends events to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct BackendPause {
    /// The publisher's name.
    pub backend: String,
    /// Since when, by the database's clock.
    pub since: DateTime<Utc>,
    /// Who paused it; empty: not given.
    pub by: String,
    /// Why; empty: not given.
    pub reason: String,
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
