//! What Redis says about itself, for `outbox doctor`.

use std::collections::HashMap;

use chrono::DateTime;
use redis::{Cmd, FromRedisValue, Value};

use super::{Client, errors};
use crate::backend::BackendError;
use crate::backend::inspection::BackendFacts;

impl Client {
    /// What any backend on Redis depends on.
    pub(super) async fn read_facts(&mut self) -> Result<BackendFacts, BackendError> {
        let mut facts = BackendFacts::default();
        if let Some(info) = self.ask::<String>("INFO", redis::cmd("INFO"), &mut facts).await? {
            facts.read_info(&info);
        }
        if let Some((seconds, micros)) = self.ask::<(i64, i64)>("TIME", redis::cmd("TIME"), &mut facts).await? {
            facts.clock = DateTime::from_timestamp_micros(seconds.saturating_mul(1_000_000).saturating_add(micros));
        }
        let mut config = redis::cmd("CONFIG");
        config.arg("GET").arg("save");
        if let Some(config) = self.ask::<HashMap<String, String>>("CONFIG GET", config, &mut facts).await? {
            facts.snapshots = config.into_iter().find(|(name, _)| name == "save").map(|(_, value)| value);
        }
        Ok(facts)
    }

    /// `None`: the server refuses to answer, as it does if there is no stream.
    pub(super) async fn ask<T: FromRedisValue>(
        &mut self,
        name: &'static str,
        question: Cmd,
        facts: &mut BackendFacts,
    ) -> Result<Option<T>, BackendError> {
        let answer: Result<Value, redis::RedisError> = question.query_async(self.connection().await?).await;
        match answer {
            Ok(answer) => Ok(redis::from_redis_value(answer).ok()),
            Err(error) if error.code() == Some("NOPERM") => {
                if !facts.forbidden.contains(&name) {
                    facts.forbidden.push(name);
                }
                Ok(None)
            }
            Err(error) if error.code().is_some() => Ok(None),
            Err(error) => Err(errors::unavailable(&error)),
        }
    }
}

impl BackendFacts {
    fn read_info(&mut self, info: &str) {
        let lines = info.lines().filter_map(|line| line.trim().split_once(':'));
        let known: HashMap<&str, &str> = lines.collect();
        let number = |name: &str| known.get(name).and_then(|value| value.parse::<u64>().ok());
        self.version = known.get("redis_version").and_then(|version| {
            let mut parts = version.split('.').map(str::parse);
            Some((parts.next()?.ok()?, parts.next()?.ok()?))
        });
        let policy = known.get("maxmemory_policy").map(|policy| (*policy).to_owned());
        self.eviction = policy.zip(number("maxmemory"));
        self.has_append_only_file = number("aof_enabled").map(|enabled| enabled != 0);
        self.replicas = number("connected_slaves").and_then(|count| u32::try_from(count).ok());
    }
}
