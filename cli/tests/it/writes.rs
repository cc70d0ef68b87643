//! The cost of an event for the database.

use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;

#[tokio::test]
async fn an_event_costs_one_update_in_its_life() {
    const EVENTS: i64 = 5_000;
    let test = TestOutbox::new().await;
    let counts = "SELECT n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables WHERE relname = 'outbox_events'";
    let others = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    test.insert(EVENTS as i32, 100).await;
    test.drain(&test.settings().write()).await;
    assert_eq!(test.published().await, EVENTS);

    // A connection reports its counts at the latest when it ends.
    let sql = test.sql().await;
    eventually("every other connection has ended", PATIENCE, async || {
        sql.query_one(others, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    let read = async || -> (i64, i64, i64) {
        let row = sql.query_one(counts, &[]).await.unwrap();
        (row.get(0), row.get(1), row.get(2))
    };
    eventually("the counts are complete", PATIENCE, async || {
        let (inserted, updated, _) = read().await;
        inserted >= EVENTS && updated >= EVENTS
    })
    .await;
    assert_eq!(read().await, (EVENTS, EVENTS, 0), "inserted, updated, deleted");
}
