//! Operators: one fixes failed events that hold keys, one replays, one marks distant events as failed; and retention.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use uuid::Uuid;

use crate::deployment::Deployment;
use crate::fault_phase::HEALING;
use crate::support::PATIENCE;
use crate::support::process::Running;

/// Their actions, as far as an event's outcome depends on them.
#[derive(Debug, Clone, Default)]
pub(super) struct Deeds {
    /// How often each event was replayed.
    pub(super) replayed: HashMap<Uuid, usize>,
    /// Events that were never due, and that an operator marked as failed.
    pub(super) failed: Vec<Uuid>,
    pub(super) fixed: usize,
    /// Events whose age was changed so that retention may delete them.
    pub(super) aged: Vec<Uuid>,
}

pub(super) struct Operator<'a> {
    deployment: &'a Deployment,
    rng: StdRng,
    pub(super) deeds: Deeds,
}

const PLAIN: &str =
    "SELECT id, seq FROM outbox_events WHERE status = 'published' AND published_at < clock_timestamp() - interval '1 s'
    AND publisher_backend IN ('', 'default') AND event_type = 'thing.happened' ORDER BY random() LIMIT 5";

const HELD: &str = "SELECT count(*) FROM outbox_events WHERE publisher_backend = 'held' AND status = 'failed'";

impl<'a> Operator<'a> {
    pub(super) fn new(deployment: &'a Deployment, seed: u64) -> Self {
        Self { deployment, rng: StdRng::seed_from_u64(seed ^ 77), deeds: Deeds::default() }
    }

    pub(super) async fn work_until(&mut self, stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            match self.rng.random_range(0..4) {
                0 => self.replay().await,
                1 => self.fail().await,
                2 => self.age().await,
                _ => self.fix().await,
            };
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(100..800))).await;
        }
    }

    /// `None` if the command failed, because a server was unavailable.
    async fn run(&self, arguments: &[&str]) -> Option<()> {
        let mut running = Running::spawn(&mut self.deployment.operate(arguments));
        running.wait_exit(PATIENCE).await.success().then_some(())
    }

    /// Replays one event; its `seq` then shows whether it was replayed.
    async fn replay(&mut self) -> Option<()> {
        let sql = self.deployment.try_sql().await?;
        let rows = sql.query(PLAIN, &[]).await.ok()?;
        let row = rows.choose(&mut self.rng)?;
        let (id, seq): (Uuid, i64) = (row.get(0), row.get(1));
        if self.deeds.aged.contains(&id) {
            return None;
        }
        let _ = self.run(&["events", "replay", &id.to_string()]).await;
        let moved = loop {
            if let Some(sql) = self.deployment.try_sql().await
                && let Ok(row) = sql.query_one("SELECT seq <> $2 FROM outbox_events WHERE id = $1", &[&id, &seq]).await
            {
                break row.get::<_, bool>(0);
            }
        };
        if moved {
            *self.deeds.replayed.entry(id).or_default() += 1;
        }
        Some(())
    }

    async fn fail(&mut self) -> Option<()> {
        let id = uuid::Builder::from_random_bytes(self.rng.random()).into_uuid();
        let insert = "INSERT INTO outbox_events (id, event_type, source, scheduled_at)
            VALUES ($1, 'thing.happened', 'faults', clock_timestamp() + interval '1 day') ON CONFLICT DO NOTHING";
        self.deployment.try_sql().await?.execute(insert, &[&id]).await.ok()?;
        self.run(&["events", "fail", &id.to_string()]).await?;
        self.deeds.failed.push(id);
        Some(())
    }

    /// Makes some published events a month old, for retention.
    async fn age(&mut self) -> Option<()> {
        let sql = self.deployment.try_sql().await?;
        let rows = sql.query(PLAIN, &[]).await.ok()?;
        let replayed = self.deeds.replayed.clone();
        let ids: Vec<Uuid> = rows.iter().map(|row| row.get(0)).filter(|id| !replayed.contains_key(id)).collect();
        self.deeds.aged.extend(&ids);
        let age = "UPDATE outbox_events SET created_at = created_at - interval '30 days',
            published_at = published_at - interval '30 days' WHERE id = ANY ($1) AND status = 'published'";
        sql.execute(age, &[&ids]).await.ok().map(drop)
    }

    /// Fixes events until none waits; returns how many wait when the time is over.
    pub(super) async fn drain(&mut self) -> i64 {
        let began = Instant::now();
        loop {
            self.fix().await;
            let left = self.deployment.drain(Duration::from_secs(1)).await + self.deployment.number(HELD).await;
            // Rejected events block their keys, one after the other.
            if left == 0 || began.elapsed() > 2 * HEALING {
                return left;
            }
        }
    }

    /// Fixes the events that hold their keys, and retries them.
    async fn fix(&mut self) -> Option<()> {
        let sql = self.deployment.try_sql().await?;
        let failed = "SELECT id FROM outbox_events WHERE publisher_backend = 'held' AND status = 'failed'";
        for row in sql.query(failed, &[]).await.ok()? {
            let id: Uuid = row.get(0);
            let fix = "UPDATE outbox_events SET publisher_config = '{}' WHERE id = $1";
            sql.execute(fix, &[&id]).await.ok()?;
            self.run(&["events", "retry", &id.to_string()]).await?;
            self.deeds.fixed += 1;
        }
        Some(())
    }
}
