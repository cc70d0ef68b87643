//! New `seq` values while other transactions write events.

use mysql_async::prelude::Queryable;

use super::fixture::MysqlFixture;
use crate::publish::NewEvent;
use crate::store::conformance::Fixture;
use crate::store::{Action, AuditNote};
use crate::test_support::{PATIENCE, eventually};

/// A trigger stops the replay once it has drawn, and another transaction writes the next event.
#[tokio::test]
async fn a_replay_does_not_wait_for_a_transaction_that_writes_events() {
    let fixture = MysqlFixture::fresh().await;
    let (store, lock) = (fixture.store(), &fixture.database.name);
    let old = store.insert(vec![NewEvent::new("t", "s")]).await.unwrap().remove(0);
    fixture.execute("UPDATE outbox_events SET status = 'published', published_at = SYSDATE(6)").await;
    let wait = format!("SET @waited = GET_LOCK('{lock}', 60) + RELEASE_LOCK('{lock}')");
    fixture.execute(&format!("CREATE TRIGGER wait BEFORE UPDATE ON outbox_events FOR EACH ROW {wait}")).await;
    let mut writer = fixture.database.connect().await;
    writer.query_drop(format!("DO GET_LOCK('{lock}', 0)")).await.unwrap();

    let replaying = tokio::spawn(async move { store.change(&Action::Replay, &[old.id], &AuditNote::default()).await });
    let waiting = "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() AND state = 'User lock'";
    eventually("the replay waits", PATIENCE, async || fixture.number(waiting).await > 0).await;
    writer.query_drop("START TRANSACTION").await.unwrap();
    let insert = "INSERT INTO outbox_events (id, event_type, source) VALUES (REPLACE(UUID(), '-', ''), 'new', 's')";
    writer.query_drop(insert).await.unwrap();
    writer.query_drop(format!("DO RELEASE_LOCK('{lock}')")).await.unwrap();
    assert_eq!(replaying.await.unwrap().unwrap(), [old.id]);
    writer.query_drop("COMMIT").await.unwrap();
    let order: Vec<String> = writer.query("SELECT event_type FROM outbox_events ORDER BY seq").await.unwrap();
    assert_eq!(order, ["t", "new"], "the replay was not tried again");
    assert!(fixture.store().find(old.id).await.unwrap().unwrap().seq > old.seq);
}
