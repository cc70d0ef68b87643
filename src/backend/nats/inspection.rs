//! What JetStream says about itself, for `outbox doctor`.

use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, StorageType};

use super::{Connection, Nats, explained, not_connected};
use crate::backend::BackendError;
use crate::backend::inspection::{BackendFacts, StreamFacts, StreamLimit};

impl Nats {
    pub(super) async fn read_facts(&mut self) -> Result<BackendFacts, BackendError> {
        self.connect().await?;
        let Some(Connection { client, complaint, .. }) = &self.connection else { return Err(not_connected()) };
        let info =
            self.wanted.info(&self.address.context(client)).await.map_err(|error| explained(error, complaint))?;
        let version = client.server_info().version;
        let mut numbers = version.split('.').map(str::parse);
        Ok(BackendFacts {
            version: numbers.next().and_then(Result::ok).zip(numbers.next().and_then(Result::ok)),
            stream: Some(StreamFacts::from(&info)),
            ..BackendFacts::default()
        })
    }
}

impl From<&Info> for StreamFacts {
    fn from(Info { config, state, cluster, .. }: &Info) -> Self {
        Self {
            name: config.name.clone(),
            is_in_memory: config.storage == StorageType::Memory,
            has_lone_copy: config.num_replicas < 2 && cluster.as_ref().is_some_and(|cluster| cluster.name.is_some()),
            duplicate_window: config.duplicate_window,
            limits: limits(config, state.messages, state.bytes),
        }
    }
}

/// The limits beyond which the stream takes nothing. One that drops its oldest messages has none.
fn limits(config: &Config, messages: u64, bytes: u64) -> Vec<StreamLimit> {
    let all =
        [("messages", "--max-msgs", messages, config.max_messages), ("bytes", "--max-bytes", bytes, config.max_bytes)];
    let limited =
        all.into_iter().filter(|_| config.discard == DiscardPolicy::New).filter_map(|(what, option, used, most)| {
            Some(StreamLimit { what, option, used, most: u64::try_from(most).ok().filter(|most| *most > 0)? })
        });
    limited.collect()
}
