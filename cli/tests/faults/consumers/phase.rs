//! The phase: faults of consumers, workers and servers, and the comparison of the committed events with their effects.

use std::time::{Duration, Instant};

use super::PARTITIONS;
use super::database::first_effects;
use super::program::GROUP;
use crate::deployment::Deployment;
use crate::fault_phase::{FaultPhase, Found, HEALING, Outcome};
use crate::figures::Meter;
use crate::kinds::Kind;
use crate::reconcile::Reconciliation;
use crate::writers::Writers;

/// The kinds that concern consumers, and what they depend on.
pub(crate) const KINDS: [Kind; 16] = [
    Kind::ConsumerKill,
    Kind::ConsumerTerminate,
    Kind::ConsumerStop,
    Kind::ConsumerCut,
    Kind::ConsumerLate,
    Kind::ConsumerMembership,
    Kind::EffectsRestart,
    Kind::Kill,
    Kind::Terminate,
    Kind::Stop,
    Kind::Cut,
    Kind::RedisRestart,
    Kind::RedisClients,
    Kind::RedisPassword,
    Kind::RedisFrozen,
    Kind::PostgresRestart,
];

/// What the consumers guarantee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guarantee {
    /// With an inbox.
    Once,
    /// Without one.
    AtLeastOnce,
}

impl FaultPhase {
    /// The faults of this phase, with consumers.
    pub(crate) async fn run_consumed(self, seed: u64, guarantee: Guarantee) -> Outcome {
        let deployment = Deployment::consumed(None, self.pace(), PARTITIONS).await;
        if guarantee == Guarantee::AtLeastOnce {
            deployment.consumers().go_without_inbox();
        }
        deployment.start_workers().await;
        deployment.start_consumers().await;
        let meter = Meter::start(deployment.url(), deployment.processes.clone());
        let writers = Writers::start(deployment.url(), seed);
        let faults = self.inflict_all(&deployment, seed).await;
        let committed = writers.finish().await;
        let unpublished = deployment.drain(HEALING).await;
        let figures = meter.finish().await;
        let stuck = unpublished + deployment.drain_consumers(HEALING).await;
        deployment.stop_consumers().await;
        let retries = deployment.number("SELECT coalesce(sum(retry_count), 0)::bigint FROM outbox_events").await;
        let streams = Reconciliation::of(&committed, &deployment.stream().await);
        if !streams.is_even() {
            deployment.notes().findings.push(format!("the partitions themselves are wrong: {streams:?}"));
        }
        let effects = deployment.consumers().effects.events().await;
        let (first, repeated) = first_effects(&effects);
        let reconciliation = match guarantee {
            Guarantee::Once => Reconciliation::of(&committed, &effects),
            Guarantee::AtLeastOnce => {
                let compared = Reconciliation::of(&committed, &first);
                Reconciliation { in_stream: effects.len(), explained: repeated, ..compared }
            }
        };
        self.conclude(&deployment, seed, faults, Found { reconciliation, stuck, retries, figures }).await
    }
}

impl Deployment {
    /// Waits until the group has handled all entries, or has no more effects for this long; returns how many it has not handled.
    pub(crate) async fn drain_consumers(&self, most: Duration) -> i64 {
        let (mut since, mut known) = (Instant::now(), 0);
        loop {
            let left = self.unhandled().await;
            if left == 0 || since.elapsed() > most {
                return left;
            }
            let effects = self.consumers().effects.number("SELECT count(DISTINCT event_id) FROM effects").await;
            if effects > known {
                (since, known) = (Instant::now(), effects);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The entries that the group has not acknowledged, and its dead letters.
    async fn unhandled(&self) -> i64 {
        let (mut redis, mut left) = (self.redis().await, 0);
        for stream in self.streams() {
            let mut ask = redis::cmd("XINFO");
            let groups: Vec<std::collections::HashMap<String, redis::Value>> =
                ask.arg("GROUPS").arg(&stream).query_async(&mut redis).await.unwrap_or_default();
            let text = |name: &str| {
                let value = groups.first().and_then(|group| group.get(name));
                value.and_then(|value| redis::from_redis_value::<String>(value.clone()).ok())
            };
            // Not the group's lag, which is too high after a restart from the append-only file.
            let after = text("last-delivered-id").map_or("-".to_owned(), |id| format!("({id}"));
            let unread: Vec<redis::Value> =
                redis::cmd("XRANGE").arg(&stream).arg(after).arg("+").query_async(&mut redis).await.unwrap();
            let pending: i64 = text("pending").and_then(|pending| pending.parse().ok()).unwrap_or(0);
            let dead = format!("{stream}:dead:{GROUP}");
            let dead: i64 = redis::cmd("XLEN").arg(dead).query_async(&mut redis).await.unwrap();
            left += pending + unread.len() as i64 + dead;
        }
        left
    }
}
