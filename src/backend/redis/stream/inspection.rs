//! The groups that read the streams, for `outbox doctor`.

use std::collections::HashMap;

use redis::Value;

use super::RedisStream;
use crate::backend::BackendError;
use crate::backend::inspection::{BackendFacts, GroupFacts};

impl RedisStream {
    pub(super) async fn read_facts(&mut self) -> Result<BackendFacts, BackendError> {
        let mut facts = self.client.read_facts().await?;
        for stream in self.read_streams().await? {
            let mut groups = redis::cmd("XINFO");
            groups.arg("GROUPS").arg(&stream);
            let groups = self.client.ask::<Vec<HashMap<String, Value>>>("XINFO GROUPS", groups, &mut facts).await?;
            facts.groups.extend(groups.into_iter().flatten().filter_map(|group| read_group(&stream, &group)));
            facts.streams += 1;
        }
        Ok(facts)
    }
}

fn read_group(stream: &str, group: &HashMap<String, Value>) -> Option<GroupFacts> {
    let read = |name: &str| group.get(name).cloned();
    Some(GroupFacts {
        stream: stream.to_owned(),
        name: redis::from_redis_value(read("name")?).ok()?,
        lag: read("lag").and_then(|lag| redis::from_redis_value(lag).ok()).flatten(),
        pending: redis::from_redis_value(read("pending")?).ok()?,
    })
}
