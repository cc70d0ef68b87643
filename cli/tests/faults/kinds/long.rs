//! Faults that last longer than every limit in the code.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::pass;
use crate::deployment::Deployment;
use crate::support::process::Signal;

pub(super) async fn pass_long(deployment: &Deployment, rng: &mut StdRng) {
    let (least, most) = deployment.pace.long();
    pass(rng, least.as_millis() as u64, most.as_millis() as u64).await;
}

pub(super) async fn freeze_postgres(deployment: &Deployment, rng: &mut StdRng) {
    let mut postgres = deployment.postgres.lock().await;
    postgres.freeze();
    pass_long(deployment, rng).await;
    postgres.thaw();
}

pub(super) async fn freeze_redis(deployment: &Deployment, rng: &mut StdRng) {
    let mut redis = deployment.redis.lock().await;
    redis.signal(Signal::STOP);
    pass_long(deployment, rng).await;
    redis.signal(Signal::CONT);
}

pub(super) async fn lock_a_table(deployment: &Deployment, rng: &mut StdRng) {
    let _postgres = deployment.postgres.lock().await;
    let sql = deployment.sql().await;
    let table = ["outbox_events", "outbox_leases", "outbox_heartbeats"].choose(rng).unwrap();
    sql.batch_execute(&format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")).await.unwrap();
    pass_long(deployment, rng).await;
    sql.batch_execute("COMMIT").await.unwrap();
}

/// Other faults run meanwhile; a restart of the server ends the snapshot.
pub(super) async fn hold_a_snapshot(deployment: &Deployment, rng: &mut StdRng) {
    let Some(sql) = deployment.try_sql().await else { return };
    let hold = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current(), count(*) FROM outbox_workers";
    let _ = sql.batch_execute(hold).await;
    pass_long(deployment, rng).await;
    let _ = sql.batch_execute("ROLLBACK").await;
}

/// Locks rows of the oldest events and of a lease, as another session with an uncommitted update does.
pub(super) async fn lock_rows(deployment: &Deployment, rng: &mut StdRng) {
    let _postgres = deployment.postgres.lock().await;
    let sql = deployment.sql().await;
    let limit = rng.random_range(1..200);
    let lock = format!(
        "BEGIN; SELECT FROM outbox_events WHERE status = 'pending' LIMIT {limit} FOR UPDATE SKIP LOCKED; \
         SELECT FROM outbox_leases LIMIT {} FOR UPDATE SKIP LOCKED; SELECT FROM outbox_heartbeats LIMIT 1 FOR UPDATE SKIP LOCKED",
        limit / 10
    );
    sql.batch_execute(&lock).await.unwrap();
    pass_long(deployment, rng).await;
    sql.batch_execute("COMMIT").await.unwrap();
}
