//! What is left to do in each stream.

use std::collections::HashMap;
use std::time::Duration;

use redis::{Pipeline, Value, from_redis_value};

use super::{RedisSource, Result};
use crate::backend::event_source::{Backlog, EntryId};

/// How many entries are pending, the first one, the last one, and how many each consumer has.
type Pending = (u64, Value, Value, Value);

/// The groups, what is pending, the number of dead letters, and the time.
type Answers = (Value, Pending, u64, (u64, u64));

impl RedisSource {
    pub(super) async fn read_backlogs(&self) -> Result<Vec<Backlog>> {
        let mut backlogs = Vec::new();
        for (_, stream) in self.streams.all() {
            let mut questions = Pipeline::new();
            questions.cmd("XINFO").arg("GROUPS").arg(&stream.name);
            questions.cmd("XPENDING").arg(&stream.name).arg(&self.group);
            questions.cmd("XLEN").arg(&stream.dead);
            questions.cmd("TIME");
            let answers = self.control.pipeline(&questions).await;
            let (groups, (pending, first, ..), dead, (seconds, micros)): Answers =
                answers.map_err(|error| self.explain(&error))?;
            let first: Option<String> = from_redis_value(first).unwrap_or_default();
            let now = Duration::from_secs(seconds) + Duration::from_micros(micros);
            let added = first.and_then(|id| id.parse().ok()).map(|id: EntryId| Duration::from_millis(id.millis));
            backlogs.push(Backlog {
                stream: stream.name.clone(),
                unread: unread(groups, &self.group),
                pending,
                oldest: added.map(|added| now.saturating_sub(added)),
                dead: if stream.is_retry { 0 } else { dead },
            });
        }
        Ok(backlogs)
    }
}

/// The `lag` of a group, which Redis knows from 7.0 on, unless entries in the middle of the stream were deleted.
fn unread(groups: Value, group: &str) -> Option<u64> {
    let groups: Vec<HashMap<String, Value>> = from_redis_value(groups).ok()?;
    let ours = groups.into_iter().find(|facts| {
        facts.get("name").cloned().and_then(|name| from_redis_value::<String>(name).ok()).as_deref() == Some(group)
    });
    ours?.remove("lag").and_then(|lag| from_redis_value(lag).ok())
}
