//! Tables that django-broadcaster made.

use diesel::sql_types::BigInt;
use mysql_async::prelude::Queryable;
use uuid::Uuid;

use super::MysqlStore;
use super::fixture::{MysqlFixture, djangos_ids, djangos_table, store_at};
use super::session::on_session;
use super::statement::Statement;
use crate::publish::NewEvent;
use crate::store::conformance::Fixture;
use crate::store::{Result, SchemaStore};
use crate::test_support::{PATIENCE, eventually};

/// A row as Django writes it.
fn djangos_insert(status: &str) -> String {
    format!(
        "INSERT INTO outbox_events (id, spec_version, event_type, source, subject, data_content_type, data_schema, data, \
         status, created_at, updated_at, scheduled_at, published_at, retry_count, max_retries, last_error, \
         publisher_backend, publisher_config) VALUES ('{}', '1.0', 't', 's', '', 'application/json', '', '{{\"n\": 1.0}}', \
         '{status}', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6), UTC_TIMESTAMP(6), NULL, 0, 3, '', '', '{{}}')",
        Uuid::new_v4().simple()
    )
}

/// Its columns and indexes, except its id, the order, and the other program's indexes.
const SHAPE: &str = "SELECT CONCAT_WS(' ', c.column_name, c.column_type, c.is_nullable, c.column_default, \
        c.collation_name, c.extra, c.generation_expression) \
    FROM information_schema.columns c WHERE c.table_schema = DATABASE() AND c.table_name = 'outbox_events' \
        AND c.column_name <> 'id' UNION ALL \
    SELECT CONCAT_WS(' ', s.index_name, s.seq_in_index, s.column_name, s.non_unique) FROM information_schema.statistics s \
    WHERE s.table_schema = DATABASE() AND s.table_name = 'outbox_events' ORDER BY 1";

#[tokio::test]
async fn a_table_of_django_broadcaster_is_adopted_into_the_one_of_the_migrations() {
    let fresh = MysqlFixture::fresh().await;
    let shape: Vec<String> = fresh.database.connect().await.query(SHAPE).await.unwrap();
    for id in djangos_ids(&fresh).await {
        let fixture = MysqlFixture::empty().await;
        fixture.execute(&djangos_table(id)).await;
        for status in ["pending", "processing", "retry", "published"] {
            fixture.execute(&djangos_insert(status)).await;
        }
        let store = fixture.store();
        let planned = store.plan_migration().await.unwrap();
        assert!(planned.adopts && planned.steps[1].sql.contains("ADD COLUMN seq bigint"), "{planned:?}");
        assert_eq!(fixture.number("SELECT count(*) FROM outbox_events WHERE status = 'processing'").await, 1);

        let done = store.migrate(&|_| ()).await.unwrap();
        assert_eq!((done.adopts, done.taken_up, done.steps), (true, 1, planned.steps));
        let adopted: Vec<String> = fixture.database.connect().await.query(SHAPE).await.unwrap();
        assert_eq!(adopted, shape, "{id}");
        fixture.execute(&djangos_insert("pending")).await;
        let due = "SELECT count(DISTINCT seq) FROM outbox_events WHERE due_shard IS NOT NULL";
        assert_eq!(fixture.number(due).await, 3);
        let again = store.migrate(&|_| ()).await.unwrap();
        assert!(!again.adopts && again.steps.is_empty(), "{again:?}");
        let stored = store.insert(vec![NewEvent::new("t", "s").partition_key("k")]).await.unwrap().remove(0);
        assert_eq!(store.find(stored.id).await.unwrap(), Some(stored));
    }
}

#[tokio::test]
async fn an_adoption_that_meets_a_long_transaction_changes_nothing_before_it_ends() {
    let fixture = MysqlFixture::empty().await;
    fixture.execute(&djangos_table(djangos_ids(&fixture).await[0])).await;
    fixture.execute(&djangos_insert("pending")).await;
    let mut holder = fixture.begin().await;
    holder.execute("UPDATE outbox_events SET subject = 'held'").await;
    let store = fixture.store();
    let adopting = tokio::spawn(async move { store.migrate(&|_| ()).await });
    let waiting =
        "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() AND state LIKE 'Waiting for%lock'";
    eventually("the adoption waits", PATIENCE, async || fixture.number(waiting).await > 0).await;
    holder.commit().await;
    assert!(adopting.await.unwrap().unwrap().adopts);
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_events WHERE subject = 'held'").await, 1);
}

/// As the update of a large table: it takes longer than a statement of the outbox otherwise may.
#[tokio::test]
async fn events_left_in_processing_are_taken_up_however_long_it_takes() {
    let fixture = MysqlFixture::empty().await;
    fixture.execute(&djangos_table(djangos_ids(&fixture).await[0])).await;
    fixture.execute(&djangos_insert("processing")).await;
    fixture.execute("CREATE TRIGGER slow BEFORE UPDATE ON outbox_events FOR EACH ROW DO SLEEP(13)").await;
    assert_eq!(fixture.store().migrate(&|_| ()).await.unwrap().taken_up, 1);
}

async fn lock_limit(store: &MysqlStore) -> Result<i64> {
    const LIMIT: &str = "SELECT CAST(@@innodb_lock_wait_timeout AS signed)";
    on_session!(store.pool, "test", |session| session.load_one(Statement::<BigInt>::new(LIMIT, [])))
}

#[tokio::test]
async fn an_adoption_that_fails_leaves_its_session_as_it_was() {
    let fixture = MysqlFixture::empty().await;
    fixture.execute(&djangos_table(djangos_ids(&fixture).await[0])).await;
    fixture.execute(&djangos_insert("processing")).await;
    fixture.execute("CREATE TRIGGER refuse BEFORE UPDATE ON outbox_events FOR EACH ROW SIGNAL SQLSTATE '45000'").await;
    let store = store_at(&fixture.database.url);
    store.migrate(&|_| ()).await.unwrap_err();
    assert_eq!(lock_limit(&store).await.unwrap(), 1);
    fixture.execute("DROP TRIGGER refuse").await;
    store.migrate(&|_| ()).await.unwrap();
    assert_eq!(lock_limit(&store).await.unwrap(), 1);
}
