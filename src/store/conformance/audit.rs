use uuid::Uuid;

use super::Fixture;
use super::builders::*;
use crate::event::Status;
use crate::store::{Action, AuditNote};

const DAY_MS: i64 = 86_400_000;

fn note(filter: Option<&str>) -> AuditNote {
    AuditNote::new("ann", "192.0.2.1", filter.map(str::to_owned))
}

pub(super) async fn a_change_is_recorded_with_its_author_and_the_events_changed<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let waiting = TestRow::new().insert(&fixture).await;
    let published = TestRow::new().status("published").insert(&fixture).await;
    let fail = Action::Fail { reason: "no longer wanted".to_owned() };
    store.change(&fail, &[waiting, published], &note(None)).await.unwrap();
    store.change(&Action::Replay, &[published], &note(Some("type=\0t"))).await.unwrap();
    let nothing = store.change(&Action::Replay, &[waiting, Uuid::now_v7()], &note(None)).await.unwrap();
    assert!(nothing.is_empty());
    let [replayed, failed] = store.audit(None, 10).await.unwrap().try_into().expect("two changes, newest first");
    assert_eq!((&*failed.who, &*failed.from, &*failed.action), ("ann", "192.0.2.1", "fail"));
    assert_eq!((failed.filter.as_deref(), failed.events, &*failed.reason), (None, 1, "no longer wanted"));
    assert_eq!(failed.ids, [waiting]);
    assert_eq!((replayed.filter.as_deref(), &*replayed.action, &*replayed.reason), (Some("type=t"), "replay", ""));
    assert!(replayed.id > failed.id && replayed.at >= failed.at, "{replayed:?} after {failed:?}");
    assert_eq!(store.audit(None, 1).await.unwrap()[0], replayed);
    assert_eq!(store.audit(Some(replayed.id), 10).await.unwrap(), [failed]);
}

pub(super) async fn a_change_of_very_many_events_names_the_first_thousand<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut events = Vec::new();
    for _ in 0..1_003 {
        events.push(TestRow::new().status("failed").insert(&fixture).await);
    }
    store.change(&Action::Retry, &events, &note(None)).await.unwrap();
    let [entry] = store.audit(None, 10).await.unwrap().try_into().unwrap();
    assert_eq!((entry.events, entry.ids.len()), (1_003, 1_000));
}

pub(super) async fn a_change_that_cannot_be_recorded_is_not_made<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let id = TestRow::new().insert(&fixture).await;
    fixture.execute("DROP TABLE outbox_audit").await;
    let fail = Action::Fail { reason: "unseen".to_owned() };
    store.change(&fail, &[id], &note(None)).await.unwrap_err();
    assert_eq!(find(&store, id).await.status, Status::Pending);
}

pub(super) async fn recorded_changes_are_deleted_with_the_history<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let event = TestRow::new().status("failed").insert(&fixture).await;
    for days in [31, 29, 31] {
        store.change(&Action::Retry, &[event], &note(None)).await.unwrap();
        let at = fixture.time(-days * DAY_MS);
        fixture
            .execute(&format!("UPDATE outbox_audit SET at = {at} WHERE id = (SELECT last FROM (SELECT max(id) AS last FROM outbox_audit) AS all_rows)"))
            .await;
    }
    assert_eq!(store.delete_old_audit().await.unwrap(), 2);
    assert_eq!(store.delete_old_audit().await.unwrap(), 0);
    assert_eq!(store.audit(None, 10).await.unwrap().len(), 1);
}
