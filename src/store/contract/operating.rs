use std::time::Duration;

use uuid::Uuid;

use super::Fixture;
use super::given::*;
use crate::event::Status;
use crate::store::{EventFilter, Expiry};

const DAY_MS: i64 = 86_400_000;
const DAY: Duration = Duration::from_secs(86_400);

pub(super) async fn rows_without_seq_get_one_in_the_order_of_writing<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let second = Row::keyed("k").with("created_at", fixture.time(-1000)).insert(&fixture).await;
    let first = Row::keyed("k").with("created_at", fixture.time(-2000)).insert(&fixture).await;
    Row::new().status("published").insert(&fixture).await;
    fixture.execute(&format!("UPDATE outbox_events SET seq = NULL, scheduled_at = {}", fixture.time(-60_000))).await;
    assert!(fetch_all(&store).await.is_empty());
    assert_eq!(store.repair_missing_seq().await.unwrap(), 2);
    assert_eq!(store.repair_missing_seq().await.unwrap(), 0);
    fixture.execute("UPDATE outbox_events SET scheduled_at = (SELECT min(scheduled_at) FROM outbox_events)").await;
    assert_eq!(ids(&fetch_all(&store).await), [first, second]);
    let third = Row::keyed("k").insert(&fixture).await;
    assert!(find(&store, third).await.seq > find(&store, second).await.seq);
}

async fn old(fixture: &impl Fixture, row: Row, days: i64) -> Uuid {
    let then = fixture.time(-days * DAY_MS);
    row.with("created_at", &then).with("updated_at", &then).with("published_at", &then).insert(fixture).await
}

pub(super) async fn expired_events_are_deleted_in_small_batches<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    for _ in 0..3 {
        old(&fixture, Row::new().status("published"), 8).await;
    }
    old(&fixture, Row::new().status("failed"), 31).await;
    let mut kept = vec![
        old(&fixture, Row::new().status("published"), 6).await,
        old(&fixture, Row::new().status("failed"), 29).await,
        old(&fixture, Row::new(), 100).await,
        old(&fixture, Row::new().retry_in(&fixture, 0), 100).await,
    ];
    let nothing = Expiry { published: None, failed: None, limit: 10 };
    assert_eq!(store.delete_expired(nothing, &[]).await.unwrap(), 0);
    let expiry = Expiry { published: Some(7 * DAY), failed: Some(30 * DAY), limit: 2 };
    let mut deleted = 0;
    loop {
        let batch = store.delete_expired(expiry, &[]).await.unwrap();
        assert!(batch <= 2, "{batch}");
        deleted += batch;
        if batch == 0 {
            break;
        }
    }
    assert_eq!(deleted, 4);
    let mut left: Vec<_> = list(&fixture, EventFilter::default()).await;
    left.sort();
    kept.sort();
    assert_eq!(left, kept);
}

pub(super) async fn a_failed_event_that_holds_its_key_is_kept<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let held = old(&fixture, Row::keyed("k").status("failed"), 31).await;
    old(&fixture, Row::new().status("failed"), 31).await;
    old(&fixture, Row::keyed("k").lane("other").status("failed"), 31).await;
    let expiry = Expiry { published: None, failed: Some(30 * DAY), limit: 10 };
    assert_eq!(store.delete_expired(expiry, &[lane()]).await.unwrap(), 2);
    assert_eq!(list(&fixture, EventFilter::default()).await, [held]);
}

async fn list(fixture: &impl Fixture, filter: EventFilter) -> Vec<Uuid> {
    let filter = EventFilter { limit: if filter.limit == 0 { 100 } else { filter.limit }, ..filter };
    fixture.store().list(&filter).await.unwrap().into_iter().map(|event| event.id).collect()
}

pub(super) async fn events_are_listed_newest_first_and_filtered<F: Fixture>() {
    let fixture = F::fresh().await;
    let old = Row::keyed("k").with("created_at", fixture.time(-3000)).insert(&fixture).await;
    let middle = Row::new().status("failed").with("created_at", fixture.time(-2000)).insert(&fixture).await;
    let new = Row::new().lane("other").with("created_at", fixture.time(-1000)).insert(&fixture).await;
    let none = EventFilter::default();
    assert_eq!(list(&fixture, none.clone()).await, [new, middle, old]);
    assert_eq!(list(&fixture, EventFilter { limit: 2, ..none.clone() }).await, [new, middle]);
    assert_eq!(list(&fixture, EventFilter { status: Some(Status::Failed), ..none.clone() }).await, [middle]);
    assert_eq!(list(&fixture, EventFilter { backend: Some("other".into()), ..none.clone() }).await, [new]);
    assert_eq!(list(&fixture, EventFilter { key: Some("k".into()), ..none.clone() }).await, [old]);
    assert_eq!(list(&fixture, EventFilter { event_type: Some("t".into()), ..none.clone() }).await.len(), 3);
    assert!(list(&fixture, EventFilter { event_type: Some("x".into()), ..none }).await.is_empty());
}

pub(super) async fn an_event_is_found_by_its_id<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let id = Row::new().insert(&fixture).await;
    assert_eq!(find(&store, id).await.id, id);
    assert!(store.find(Uuid::now_v7()).await.unwrap().is_none());
}
