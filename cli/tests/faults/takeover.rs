//! How long a dead worker keeps its shards.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::deployment::{Deployment, LEASE};
use crate::worker_slots::Worker;

impl Deployment {
    /// Measures how long a dead worker keeps its shards. Counts only if no other fault runs meanwhile.
    pub(crate) async fn watch_takeover(&self, owner: Option<String>) {
        let began = Instant::now();
        let faults = self.begun.load(Ordering::SeqCst);
        let alone = || self.under_way.load(Ordering::SeqCst) == 1 && self.begun.load(Ordering::SeqCst) == faults;
        let Some(owner) = owner.filter(|_| alone()) else { return };
        let Some(sql) = self.try_sql().await else { return };
        let held = "SELECT count(*) FROM outbox_leases WHERE owner = $1::text::uuid";
        while let Ok(row) = sql.query_one(held, &[&owner]).await {
            if !alone() {
                return;
            }
            if row.get::<_, i64>(0) == 0 || began.elapsed() > 10 * LEASE {
                return self.notes().takeovers.push(began.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The id under which a worker holds leases; `None` if it holds none.
    pub(crate) async fn owner(&self, worker: &Worker) -> Option<String> {
        let by_name = "SELECT id::text FROM outbox_workers w WHERE name = $1
            AND EXISTS (SELECT FROM outbox_leases WHERE owner = w.id)";
        let row = self.try_sql().await?.query_opt(by_name, &[&worker.name]).await.ok()?;
        row.map(|row| row.get(0))
    }
}
