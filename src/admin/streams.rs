//! The streams of publishers that have several.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use uuid::Uuid;

use super::{AdminError, OutboxAdmin};
use crate::settings::PublisherSettings;
use crate::settings::name_template::NameTemplate;

impl OutboxAdmin {
    /// The streams of each publisher that has several, by its name: the partitions, or, if its `stream_name` has placeholders,
    /// those that events went to; an error for a backend that does not answer within `limit`. Backends do not wait for each other.
    pub async fn streams(&self, limit: Duration) -> BTreeMap<String, Result<Vec<String>, AdminError>> {
        let has_several = |publisher: &PublisherSettings| {
            let is_fixed = || NameTemplate::new(&publisher.stream_name).is_fixed();
            publisher.backend == "redis_stream" && (publisher.partitions > 1 || !is_fixed())
        };
        let publishers = self.settings.publishers.iter().filter(|(_, publisher)| has_several(publisher));
        let read =
            publishers.map(async |(name, publisher)| (name.clone(), self.streams_of(name, publisher, limit).await));
        join_all(read).await.into_iter().collect()
    }

    async fn streams_of(
        &self,
        name: &str,
        publisher: &PublisherSettings,
        limit: Duration,
    ) -> Result<Vec<String>, AdminError> {
        let mut session = self.backends.session(name, publisher, Uuid::nil())?();
        let unread = |reason: String| AdminError::StreamsUnread { backend: name.to_owned(), reason };
        match tokio::time::timeout(limit, session.streams()).await {
            Ok(streams) => streams.map_err(|error| unread(error.to_string())),
            Err(_) => Err(unread(format!("no answer within {limit:?}"))),
        }
    }
}
