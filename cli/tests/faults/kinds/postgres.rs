//! Faults of PostgreSQL.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::task::block_in_place;

use super::pass;
use crate::deployment::{Deployment, PASSWORD, ROLE};
use crate::support::postgres::Stop;

pub(super) async fn terminate_a_backend(deployment: &Deployment, rng: &mut StdRng) {
    let _postgres = deployment.postgres.lock().await;
    let sql = deployment.sql().await;
    let workers = "SELECT pid FROM pg_stat_activity WHERE usename = $1 ORDER BY backend_start, pid";
    let rows = sql.query(workers, &[&ROLE]).await.unwrap();
    if let Some(row) = rows.choose(rng) {
        sql.execute("SELECT pg_terminate_backend($1)", &[&row.get::<_, i32>(0)]).await.unwrap();
    }
}

pub(super) async fn restart(deployment: &Deployment, rng: &mut StdRng) {
    let mut postgres = deployment.postgres.lock().await;
    let how = if rng.random() { Stop::Fast } else { Stop::Immediate };
    block_in_place(|| postgres.stop(how));
    pass(rng, 0, 2_500).await;
    block_in_place(|| postgres.start_again());
}

pub(super) async fn change_the_password(deployment: &Deployment, rng: &mut StdRng) {
    let _postgres = deployment.postgres.lock().await;
    let sql = deployment.sql().await;
    let change = format!("ALTER ROLE {ROLE} PASSWORD 'another'");
    sql.batch_execute(&change).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
    sql.execute(end, &[&ROLE]).await.unwrap();
    pass(rng, 500, 4_000).await;
    sql.batch_execute(&format!("ALTER ROLE {ROLE} PASSWORD '{PASSWORD}'")).await.unwrap();
}

/// Until the transaction ends, dead rows are kept, and it sees older versions of rows.
pub(super) async fn pin_the_horizon(deployment: &Deployment, rng: &mut StdRng) {
    let _postgres = deployment.postgres.lock().await;
    let sql = deployment.sql().await;
    let pin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current(), count(*) FROM outbox_workers";
    sql.batch_execute(pin).await.unwrap();
    pass(rng, 2_000, 8_000).await;
    sql.batch_execute("ROLLBACK").await.unwrap();
}

pub(super) async fn lock_a_table(deployment: &Deployment, rng: &mut StdRng) {
    let _postgres = deployment.postgres.lock().await;
    let sql = deployment.sql().await;
    let table = ["outbox_events", "outbox_events", "outbox_leases", "outbox_workers"].choose(rng).unwrap();
    sql.batch_execute(&format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")).await.unwrap();
    pass(rng, 500, 4_000).await;
    sql.batch_execute("COMMIT").await.unwrap();
}

pub(super) async fn vacuum(deployment: &Deployment, rng: &mut StdRng) {
    let _postgres = deployment.postgres.lock().await;
    let sql = deployment.sql().await;
    let hang = "SET vacuum_cost_delay = '20ms'; SET vacuum_cost_limit = 20; SET statement_timeout = '5s'";
    sql.batch_execute(hang).await.unwrap();
    let statement =
        if rng.random() { "VACUUM (ANALYZE, FREEZE) outbox_events" } else { "VACUUM (FULL, ANALYZE) outbox_events" };
    // A longer VACUUM is cancelled.
    let _ = sql.execute(statement, &[]).await;
}
