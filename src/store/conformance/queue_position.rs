use uuid::Uuid;

use super::Fixture;
use super::builders::*;
use crate::publish::NewEvent;
use crate::store::MOST_AHEAD;

pub(super) async fn an_event_stands_behind_the_pending_ones_of_its_lane_that_come_first<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    for at in [-90_000, -80_000, -70_000] {
        TestRow::new().at(at).insert(&fixture).await;
    }
    TestRow::new().at(-80_000).lane("other").insert(&fixture).await;
    TestRow::new().at(-80_000).status("published").insert(&fixture).await;
    let asked = TestRow::new().at(-60_000).insert(&fixture).await;
    TestRow::new().at(-50_000).insert(&fixture).await;
    let queue_position = store.queue_position(asked).await.unwrap().unwrap();
    assert_eq!((queue_position.ahead, queue_position.more_ahead, queue_position.owner), (3, false, None));
    assert_eq!(queue_position.position, position_of(&store, asked).await);
    assert_eq!(queue_position.shard, fetch_one(&store, asked).await.shard);
    let event = find(&store, asked).await;
    let span = queue_position.now - event.scheduled_at;
    assert!((60..120).contains(&span.num_seconds()), "{span}");
    assert!(store.queue_position(Uuid::now_v7()).await.unwrap().is_none());
}

pub(super) async fn those_before_an_event_are_counted_up_to_a_bound<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let first = TestRow::new().at(-90_000).insert(&fixture).await;
    let many = || (0..4_000).map(|_| NewEvent::new("t", "s").backend("orders")).collect();
    for _ in 0..3 {
        store.insert(many()).await.unwrap();
    }
    let asked = TestRow::new().at(0).insert(&fixture).await;
    let queue_position = store.queue_position(asked).await.unwrap().unwrap();
    assert!(queue_position.more_ahead);
    assert!((MOST_AHEAD * 9 / 10..=MOST_AHEAD).contains(&queue_position.ahead), "{}", queue_position.ahead);
    assert_eq!(store.queue_position(first).await.unwrap().unwrap().ahead, 0);
}

pub(super) async fn an_events_owner_is_who_has_a_lease_that_runs<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let asked = TestRow::new().insert(&fixture).await;
    let owner = TestWorker::owner(&store).await;
    let idle = TestWorker::idle(&store).await;
    assert_eq!(store.queue_position(asked).await.unwrap().unwrap().owner, Some(owner.id));
    let mut names: Vec<_> = store.workers().await.unwrap().into_iter().map(|worker| worker.id).collect();
    names.sort();
    let mut expected = vec![owner.id, idle.id];
    expected.sort();
    assert_eq!(names, expected);
    expire_leases(&fixture).await;
    assert_eq!(store.queue_position(asked).await.unwrap().unwrap().owner, None);
}

pub(super) async fn an_event_stands_somewhere_whatever_its_row_holds<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    for (column, expression) in fixture.nonsense() {
        let id = TestRow::new().with(column, *expression).insert(&fixture).await;
        assert!(store.queue_position(id).await.unwrap().is_some(), "{column} = {expression}");
    }
    let id = TestRow::new().insert(&fixture).await;
    fixture.execute("UPDATE outbox_events SET seq = NULL").await;
    assert_eq!(store.queue_position(id).await.unwrap().unwrap().position.seq, 0);
}
