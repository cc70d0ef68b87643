use std::time::Duration;

use super::Fixture;
use crate::error::StoreError;

const DAY_MS: i64 = 86_400_000;
const DAY: Duration = Duration::from_secs(86_400);

async fn has_table<F: Fixture>(fixture: &F, name: &str) -> bool {
    let found = format!("SELECT CAST(count(*) AS bigint) FROM {name}");
    let rows = futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(fixture.number(&found))).await;
    rows.is_ok()
}

pub(super) async fn the_inbox_is_made_alone_and_once<F: Fixture>() {
    let fixture = F::empty().await;
    let store = fixture.store();
    assert!(!store.plan_inbox().await.unwrap().steps.is_empty());
    assert!(!has_table(&fixture, "outbox_inbox").await);
    let made = store.migrate_inbox().await.unwrap();
    assert!(
        made.steps.iter().all(|step| step.sql.contains("outbox_inbox")
            || step.sql.contains("SCHEMA")
            || step.sql.contains("search_path")),
        "{made:?}"
    );
    let note = "INSERT INTO outbox_inbox (consumer, source, event_id, seq) VALUES ('c', 's', 'e', 0)";
    fixture.execute(note).await;
    assert!(store.plan_inbox().await.unwrap().steps.is_empty());
    assert!(store.migrate_inbox().await.unwrap().steps.is_empty());
    assert_eq!(fixture.number("SELECT CAST(count(*) AS bigint) FROM outbox_inbox").await, 1);
    assert!(!has_table(&fixture, "outbox_events").await);
    let missing = store.outbox_id().await.unwrap_err();
    assert!(matches!(missing, StoreError::NotMigrated { state: "missing", .. }), "{missing}");
}

pub(super) async fn the_outbox_does_not_need_an_inbox_and_leaves_one_alone<F: Fixture>() {
    let fixture = F::empty().await;
    let store = fixture.store();
    store.migrate(&|_| ()).await.unwrap();
    assert!(!has_table(&fixture, "outbox_inbox").await);
    let refused = store.delete_handled(DAY).await.unwrap_err();
    assert!(matches!(refused, StoreError::NoInbox { .. }), "{refused}");
    store.migrate_inbox().await.unwrap();
    assert!(store.migrate(&|_| ()).await.unwrap().steps.is_empty());
    store.outbox_id().await.unwrap();
    assert!(has_table(&fixture, "outbox_inbox").await);
}

pub(super) async fn a_table_of_another_shape_is_no_inbox<F: Fixture>() {
    let fixture = F::fresh().await;
    fixture.execute("CREATE TABLE outbox_inbox (id bigint PRIMARY KEY)").await;
    for refused in [fixture.store().plan_inbox().await, fixture.store().migrate_inbox().await] {
        let refused = refused.unwrap_err();
        assert!(matches!(&refused, StoreError::Unsuitable { problem, .. } if problem.contains("(id)")), "{refused}");
    }
}

pub(super) async fn old_notes_are_deleted_in_small_batches_and_new_ones_stay<F: Fixture>() {
    let fixture = F::empty().await;
    let store = fixture.store();
    store.migrate_inbox().await.unwrap();
    for (consumer, rows, days) in [("old", 2_500, 31), ("new", 10, 29)] {
        let at = fixture.time(-days * DAY_MS);
        let insert = format!(
            "INSERT INTO outbox_inbox (consumer, source, event_id, seq, handled_at) \
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
             SELECT '{consumer}', 's', CAST(i AS char(9)), 0, {at} FROM n"
        );
        fixture.execute(&insert).await;
    }
    let mut batches = Vec::new();
    loop {
        match store.delete_handled(30 * DAY).await.unwrap() {
            0 => break,
            batch => batches.push(batch),
        }
    }
    assert_eq!(batches, [1_000, 1_000, 500]);
    assert_eq!(fixture.number("SELECT CAST(count(*) AS bigint) FROM outbox_inbox WHERE consumer = 'new'").await, 10);
}
