//! What a consumer has not handled, for operators; any process can ask.

use std::time::Duration;

use serde::Serialize;

use crate::backend::event_source::Backlog;
use crate::error::SystemError;
use crate::settings::Settings;

/// How long the server may take.
const LIMIT: Duration = Duration::from_secs(15);

/// One consumer of the settings.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ConsumerStatus {
    /// Its name in the settings.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Its streams that exist.
    pub streams: Vec<StreamStatus>,
}

/// What a group has not handled of one stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StreamStatus {
    /// The stream.
    pub stream: String,
    /// Whether the stream has the group.
    pub has_group: bool,
    /// Entries that no consumer of the group has read; `None` if the server cannot tell.
    pub unread: Option<u64>,
    /// Entries that consumers have read and not acknowledged.
    pub pending: u64,
    /// The age of the oldest of these.
    pub oldest_pending_seconds: Option<f64>,
    /// Dead letters.
    pub dead_letters: u64,
}

impl ConsumerStatus {
    /// Asks the server of a consumer. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`SystemError::Settings`]: there is no such consumer. [`SystemError::Source`]: its server did not answer within 15 s.
    pub async fn of(settings: &Settings, consumer: &str) -> Result<Self, SystemError> {
        settings.check()?;
        let source = super::starting::source_of(settings, consumer)?;
        let asked = tokio::time::timeout(LIMIT, source.backlogs()).await;
        let backlogs = asked.map_err(|_| SystemError::Source(format!("no answer within {LIMIT:?}")))??;
        let group = settings.consumer(consumer)?.group.clone().unwrap_or_else(|| consumer.to_owned());
        Ok(Self { name: consumer.to_owned(), group, streams: backlogs.into_iter().map(StreamStatus::from).collect() })
    }
}

impl From<Backlog> for StreamStatus {
    fn from(backlog: Backlog) -> Self {
        let Backlog { stream, unread, has_group, pending, oldest, dead } = backlog;
        let oldest_pending_seconds = oldest.map(|age| age.as_secs_f64());
        Self { stream, has_group, unread, pending, oldest_pending_seconds, dead_letters: dead }
    }
}
