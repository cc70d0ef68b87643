//! What is left to do in each stream.

use std::collections::HashMap;
use std::time::Duration;

use redis::{Pipeline, Value, from_redis_value};

use super::link::LinkError;
use super::streams::SourceStream;
use super::{RedisSource, Result};
use crate::backend::event_source::{Backlog, EntryId};
use crate::backend::redis::Script;

/// Up to this many unread entries are counted, which is exact; more are what Redis says.
const MOST_COUNTED: u64 = 20;

static UNREAD: Script = Script::new(include_str!("unread.lua"));

/// How many entries are pending, the first one, the last one, and how many each consumer has.
type Pending = (u64, Option<String>, Option<String>, Option<Vec<Value>>);

impl RedisSource {
    pub(super) async fn read_backlogs(&self) -> Result<Vec<Backlog>> {
        self.find_streams().await?;
        let mut backlogs = Vec::new();
        for (number, stream) in self.streams.all() {
            match self.read_backlog(&stream).await {
                Ok(backlog) if backlog == Backlog::default() => {}
                Ok(backlog) => backlogs.push(Backlog { stream: stream.name.clone(), ..backlog }),
                Err(error) => drop(self.refusal(number, &error)?),
            }
        }
        Ok(backlogs)
    }

    /// The stream's backlog, without its name; the default if it does not exist or is an empty one of retried letters.
    async fn read_backlog(&self, stream: &SourceStream) -> Result<Backlog, LinkError> {
        let mut questions = Pipeline::new();
        questions.cmd("EXISTS").arg(&stream.name).cmd("XLEN").arg(&stream.name).cmd("XLEN").arg(&stream.dead);
        let (exists, length, dead): (bool, u64, u64) = self.control.pipeline(&questions).await?;
        if !exists || (stream.is_retry && length == 0) {
            return Ok(Backlog::default());
        }
        let dead = if stream.is_retry { 0 } else { dead };
        let mut question = redis::cmd("XINFO");
        question.arg("GROUPS").arg(&stream.name);
        let groups: Value = self.control.query(&question).await?;
        let Some(group) = GroupFacts::of(groups, &self.group) else {
            // Without a group, nothing has been read.
            return Ok(Backlog { unread: Some(length), has_group: false, dead, ..Backlog::default() });
        };
        let mut question = UNREAD.request();
        question.arg(1).arg(&stream.name).arg(group.last_delivered).arg(MOST_COUNTED);
        let counted: u64 = self.control.call(&UNREAD, &question).await?;
        let unread = if counted < MOST_COUNTED { Some(counted) } else { group.lag };
        let mut questions = Pipeline::new();
        questions.cmd("XPENDING").arg(&stream.name).arg(&self.group).cmd("TIME");
        let ((pending, first, ..), (seconds, micros)): (Pending, (u64, u64)) =
            self.control.pipeline(&questions).await?;
        let now = Duration::from_secs(seconds) + Duration::from_micros(micros);
        let added = first.and_then(|id| id.parse().ok()).map(|id: EntryId| Duration::from_millis(id.millis));
        let oldest = added.map(|added| now.saturating_sub(added));
        Ok(Backlog { stream: String::new(), unread, has_group: true, pending, oldest, dead })
    }
}

struct GroupFacts {
    /// Redis knows it from 7.0 on, unless entries in the middle of the stream were deleted. After a restart from the append-only
    /// file it may be too high, because the file does not contain how many entries the group has read.
    lag: Option<u64>,
    last_delivered: String,
}

impl GroupFacts {
    /// `None` if there is no such group.
    fn of(groups: Value, group: &str) -> Option<Self> {
        let groups: Vec<HashMap<String, Value>> = from_redis_value(groups).ok()?;
        let text = |facts: &HashMap<String, Value>, name: &str| {
            facts.get(name).cloned().and_then(|value| from_redis_value::<String>(value).ok())
        };
        let mut ours = groups.into_iter().find(|facts| text(facts, "name").as_deref() == Some(group))?;
        let last_delivered = text(&ours, "last-delivered-id")?;
        let lag = ours.remove("lag").and_then(|lag| from_redis_value(lag).ok());
        Some(Self { lag, last_delivered })
    }
}
