//! The streams of publishers whose `stream_name` has placeholders.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use uuid::Uuid;

use super::orphans::LIMIT;
use super::{AdminError, OutboxAdmin};
use crate::settings::PublisherSettings;
use crate::settings::name_template::NameTemplate;

impl OutboxAdmin {
    /// The streams that events went to, of each publisher whose `stream_name` has placeholders, by its name; an error for a
    /// backend that does not answer within 15 s.
    pub async fn streams(&self) -> BTreeMap<String, Result<Vec<String>, AdminError>> {
        let is_by_template = |publisher: &PublisherSettings| {
            publisher.backend == "redis_stream" && !NameTemplate::new(&publisher.stream_name).is_fixed()
        };
        let by_template = self.settings.publishers.iter().filter(|(_, publisher)| is_by_template(publisher));
        let read = by_template.map(async |(name, publisher)| (name.clone(), self.streams_of(name, publisher).await));
        join_all(read).await.into_iter().collect()
    }

    async fn streams_of(&self, name: &str, publisher: &PublisherSettings) -> Result<Vec<String>, AdminError> {
        let mut session = self.backends.session(name, publisher, Uuid::nil())?();
        let unread = |reason: String| AdminError::StreamsUnread { backend: name.to_owned(), reason };
        match tokio::time::timeout(LIMIT, session.streams()).await {
            Ok(streams) => streams.map_err(|error| unread(error.to_string())),
            Err(_) => Err(unread(format!("no answer within {LIMIT:?}"))),
        }
    }
}
