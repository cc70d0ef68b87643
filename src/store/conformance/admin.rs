use std::time::Duration;

use uuid::Uuid;

use super::Fixture;
use super::builders::*;
use crate::event::Status;
use crate::publish::NewEvent;
use crate::store::{
    Action, AuditNote, CountMode, CreatedCursor, EventFilter, Page, RetentionCutoff, ScanPage, UnrecordedEvents,
};

const DAY_MS: i64 = 86_400_000;
const DAY: Duration = Duration::from_secs(86_400);

pub(super) async fn rows_without_seq_get_one_in_the_order_of_writing<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let second = TestRow::keyed("k").with("created_at", fixture.time(-1000)).insert(&fixture).await;
    let first = TestRow::keyed("k").with("created_at", fixture.time(-2000)).insert(&fixture).await;
    TestRow::new().status("published").insert(&fixture).await;
    fixture.execute(&format!("UPDATE outbox_events SET seq = NULL, scheduled_at = {}", fixture.time(-60_000))).await;
    assert!(fetch_all(&store).await.is_empty());
    assert_eq!(store.repair_missing_seq().await.unwrap(), 2);
    assert_eq!(store.repair_missing_seq().await.unwrap(), 0);
    fixture.execute("UPDATE outbox_events SET scheduled_at = (SELECT first FROM (SELECT min(scheduled_at) AS first FROM outbox_events) AS all_rows)").await;
    assert_eq!(ids(&fetch_all(&store).await), [first, second]);
    let third = TestRow::keyed("k").insert(&fixture).await;
    assert!(find(&store, third).await.seq > find(&store, second).await.seq);
}

async fn old(fixture: &impl Fixture, row: TestRow, days: i64) -> Uuid {
    let then = fixture.time(-days * DAY_MS);
    row.with("created_at", &then).with("updated_at", &then).with("published_at", &then).insert(fixture).await
}

pub(super) async fn expired_events_are_deleted_in_small_batches<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    for _ in 0..3 {
        old(&fixture, TestRow::new().status("published"), 8).await;
    }
    old(&fixture, TestRow::new().status("failed"), 31).await;
    let mut kept = vec![
        old(&fixture, TestRow::new().status("published"), 6).await,
        old(&fixture, TestRow::new().status("failed"), 29).await,
        old(&fixture, TestRow::new(), 100).await,
        old(&fixture, TestRow::new().retry_in(&fixture, 0), 100).await,
    ];
    let nothing = RetentionCutoff { published: None, failed: None, limit: 10 };
    assert_eq!(delete_old(&store, nothing, &[]).await, 0);
    let expiry = RetentionCutoff { published: Some(7 * DAY), failed: Some(30 * DAY), limit: 2 };
    let mut deleted = 0;
    loop {
        let batch = delete_old(&store, expiry, &[]).await;
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
    let held = old(&fixture, TestRow::keyed("k").status("failed"), 31).await;
    old(&fixture, TestRow::new().status("failed"), 31).await;
    old(&fixture, TestRow::keyed("k").lane("other").status("failed"), 31).await;
    let expiry = RetentionCutoff { published: None, failed: Some(30 * DAY), limit: 10 };
    assert_eq!(delete_old(&store, expiry, &[lane()]).await, 2);
    assert_eq!(list(&fixture, EventFilter::default()).await, [held]);
}

const NEWEST: Page = Page { newest_first: true, after: None, limit: 100 };
const OLDEST: Page = Page { newest_first: false, ..NEWEST };

/// More events than a test has.
const WHOLE_TABLE: i64 = 1_000;

async fn select(fixture: &impl Fixture, filter: EventFilter, page: Page) -> Vec<Uuid> {
    let found = fixture.store().scan(&filter, page, WHOLE_TABLE).await.unwrap();
    found.places.iter().map(|place| place.id).collect()
}

async fn list(fixture: &impl Fixture, filter: EventFilter) -> Vec<Uuid> {
    select(fixture, filter, NEWEST).await
}

pub(super) async fn events_are_selected_in_the_order_of_creation_and_filtered<F: Fixture>() {
    let fixture = F::fresh().await;
    let old = TestRow::keyed("k").with("created_at", fixture.time(-3000)).insert(&fixture).await;
    let middle = TestRow::new().status("failed").with("subject", "'about this'".to_owned());
    let middle = middle.with("created_at", fixture.time(-2000)).insert(&fixture).await;
    let published = TestRow::new().lane("other").status("published").with("published_at", fixture.time(-500));
    let new = published.with("created_at", fixture.time(-1000)).insert(&fixture).await;
    let none = EventFilter::default();
    assert_eq!(list(&fixture, none.clone()).await, [new, middle, old]);
    assert_eq!(select(&fixture, none.clone(), OLDEST).await, [old, middle, new]);
    assert_eq!(select(&fixture, none.clone(), Page { limit: 2, ..NEWEST }).await, [new, middle]);
    let time = find(&fixture.store(), new).await.published_at;
    let created_at = Some(find(&fixture.store(), middle).await.created_at);
    for (filter, expected) in [
        (EventFilter { subject: Some("about this".into()), ..none.clone() }, vec![middle]),
        (EventFilter { source: Some("s".into()), ..none.clone() }, vec![new, middle, old]),
        (EventFilter { source: Some("x".into()), ..none.clone() }, vec![]),
        (EventFilter { created_since: created_at, ..none.clone() }, vec![new, middle]),
        (EventFilter { created_until: created_at, ..none.clone() }, vec![old]),
        (EventFilter { statuses: vec![Status::Failed], ..none.clone() }, vec![middle]),
        (EventFilter { statuses: vec![Status::Failed, Status::Pending], ..none.clone() }, vec![middle, old]),
        (EventFilter { statuses: vec![Status::Published, Status::Pending], ..none.clone() }, vec![new, old]),
        (
            EventFilter {
                statuses: vec![Status::Failed, Status::Retry, Status::Pending],
                key: Some("k".into()),
                created_until: created_at,
                ..none.clone()
            },
            vec![old],
        ),
        (EventFilter { backend: Some("other".into()), ..none.clone() }, vec![new]),
        (EventFilter { key: Some("k".into()), ..none.clone() }, vec![old]),
        (EventFilter { event_type: Some("t".into()), ..none.clone() }, vec![new, middle, old]),
        (EventFilter { event_type: Some("x".into()), ..none.clone() }, vec![]),
        (EventFilter { published_since: time, ..none.clone() }, vec![new]),
        (EventFilter { published_until: time, ..none.clone() }, vec![]),
    ] {
        let scanned = fixture.store().scan(&filter, NEWEST, 100).await.unwrap();
        assert_eq!(scanned.places.iter().map(|place| place.id).collect::<Vec<_>>(), expected, "{filter:?}");
        let Some(first) = scanned.places.first().copied() else { continue };
        let rest = Page { after: Some(first), ..NEWEST };
        assert_eq!(select(&fixture, filter.clone(), rest).await, expected[1..], "{filter:?}");
    }
}

pub(super) async fn looking_through_events_finds_what_is_meant_and_says_where_it_stopped<F: Fixture>() {
    let fixture = F::fresh().await;
    let mut all = Vec::new();
    for n in 0..10 {
        let row = TestRow::new().with("subject", if n % 4 == 0 { "'it'".to_owned() } else { "''".to_owned() });
        all.push(row.with("created_at", fixture.time(n * 1_000 - 20_000)).insert(&fixture).await);
    }
    all.reverse();
    // Newest first: the second, the sixth and the last.
    let filter = EventFilter { subject: Some("it".into()), ..EventFilter::default() };
    let look = async |page: Page, most| {
        let ScanPage { places, stopped_at } = fixture.store().scan(&filter, page, most).await.unwrap();
        (places.iter().map(|place| place.id).collect::<Vec<_>>(), stopped_at)
    };
    let newest = fixture.store().scan(&EventFilter::default(), NEWEST, WHOLE_TABLE).await.unwrap().places[0];
    let created_at = find(&fixture.store(), newest.id).await.created_at;
    assert_eq!(fixture.store().epoch() + chrono::TimeDelta::microseconds(newest.created_at), created_at);
    assert_eq!(look(NEWEST, 100).await, (vec![all[1], all[5], all[9]], None));
    assert_eq!(look(OLDEST, 100).await, (vec![all[9], all[5], all[1]], None));
    assert_eq!(look(Page { limit: 2, ..NEWEST }, 100).await.0, [all[1], all[5]]);
    let (found, stopped_at) = look(NEWEST, 4).await;
    assert_eq!((found, stopped_at.unwrap().id), (vec![all[1]], all[3]));
    let (found, stopped_at) = look(Page { after: stopped_at, ..NEWEST }, 4).await;
    assert_eq!((found, stopped_at.unwrap().id), (vec![all[5]], all[7]));
    assert_eq!(look(Page { after: stopped_at, ..NEWEST }, 4).await, (vec![all[9]], None));
}

pub(super) async fn pages_follow_each_other_without_a_gap_also_within_one_moment<F: Fixture>() {
    let fixture = F::fresh().await;
    for _ in 0..7 {
        TestRow::new().insert(&fixture).await;
    }
    fixture.execute("UPDATE outbox_events SET created_at = (SELECT first FROM (SELECT min(created_at) AS first FROM outbox_events) AS all_rows)").await;
    for direction in [NEWEST, OLDEST] {
        let all = select(&fixture, EventFilter::default(), direction).await;
        let (mut paged, mut after): (Vec<Uuid>, Option<CreatedCursor>) = (Vec::new(), None);
        loop {
            let page = Page { after, limit: 2, ..direction };
            let places = fixture.store().scan(&EventFilter::default(), page, WHOLE_TABLE).await.unwrap().places;
            paged.extend(places.iter().map(|place| place.id));
            match places.last() {
                Some(last) => after = Some(*last),
                None => break,
            }
        }
        assert_eq!(paged, all);
        assert_eq!(all.len(), 7);
    }
}

pub(super) async fn events_are_loaded_in_the_order_given_and_a_row_that_is_none_says_why<F: Fixture>() {
    let fixture = F::fresh().await;
    let (first, second) = (TestRow::new().insert(&fixture).await, TestRow::new().insert(&fixture).await);
    let (column, nonsense) = fixture.nonsense()[0];
    let broken = TestRow::new().with(column, nonsense).insert(&fixture).await;
    let loaded = fixture.store().load(&[second, Uuid::now_v7(), broken, first]).await.unwrap();
    let ids = loaded.iter().map(|event| event.as_ref().map(|event| event.id).map_err(|row| row.id));
    assert_eq!(ids.collect::<Vec<_>>(), [Ok(second), Err(broken), Ok(first)]);
    assert!(loaded[1].as_ref().is_err_and(|row| row.reason.contains(column)), "{loaded:?}");
}

pub(super) async fn an_event_is_loaded_without_its_data<F: Fixture>() {
    let fixture = F::fresh().await;
    let json = TestRow::new().with("data", "'{\"order\": 7}'").with("subject", "'order 7'").insert(&fixture).await;
    let [whole] = fixture.store().load(&[json]).await.unwrap().try_into().unwrap();
    let [slim] = fixture.store().load_without_data(&[json]).await.unwrap().try_into().unwrap();
    let (mut whole, slim) = (whole.unwrap(), slim.unwrap());
    assert!(whole.data.take().is_some());
    assert_eq!(slim, whole);
}

pub(super) async fn data_is_read_in_parts<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let json = TestRow::new().with("data", "'[\"äöü\"]'").insert(&fixture).await;
    let none = TestRow::new().insert(&fixture).await;
    let part = async |id, from, length| {
        let part = store.data_part(id, from, length).await.unwrap().unwrap();
        (String::from_utf8_lossy(&part.bytes).into_owned(), part.total, part.is_binary)
    };
    assert_eq!(part(json, 0, 100).await, ("[\"äöü\"]".to_owned(), 10, false));
    assert_eq!((part(json, 4, 4).await.0, part(json, 8, 100).await.0), ("öü".to_owned(), "\"]".to_owned()));
    assert_eq!(part(json, 10, 1).await, (String::new(), 10, false));
    assert_eq!(part(none, 0, 100).await, (String::new(), 0, false));
    assert_eq!(store.data_part(Uuid::now_v7(), 0, 1).await.unwrap(), None);
    let event = NewEvent::new("t", "s").binary(vec![1, 2, 3, 4]);
    let [event] = store.insert(vec![event]).await.unwrap().try_into().unwrap();
    assert_eq!(store.data_part(event.id, 1, 2).await.unwrap().unwrap().bytes, [2, 3]);
    assert!(store.data_part(event.id, 0, 4).await.unwrap().is_some_and(|part| part.is_binary && part.is_whole()));
}

pub(super) async fn a_row_is_checked_without_its_data<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let good = TestRow::new().with("data", "'{\"order\": 7}'").insert(&fixture).await;
    let [checked] = store.load_checked(&[good]).await.unwrap().try_into().unwrap();
    assert_eq!(checked.unwrap().data, None);
    for (column, nonsense) in fixture.nonsense() {
        let bad = TestRow::new().with(column, *nonsense).insert(&fixture).await;
        let [checked] = store.load_checked(&[bad]).await.unwrap().try_into().unwrap();
        let [loaded] = store.load(&[bad]).await.unwrap().try_into().unwrap();
        assert!(checked.is_err_and(|row| row.reason.contains(column)) && loaded.is_err(), "{column} = {nonsense}");
    }
}

pub(super) async fn a_retried_event_is_as_new_in_its_old_place_and_is_not_sent_twice<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let failed = |row: TestRow| row.status("failed").with("retry_count", "3").with("last_error", "'refused'");
    let refused = failed(TestRow::keyed("k")).insert(&fixture).await;
    let sent =
        failed(TestRow::new()).with("published_at", fixture.time(-1000)).with("pending_handlers", "'[\"mail\"]'");
    let sent = sent.insert(&fixture).await;
    let published = TestRow::new().status("published").with("published_at", fixture.time(-1000)).insert(&fixture).await;
    let before = find(&store, refused).await;
    let mut changed =
        store.change(&Action::Retry, &[refused, sent, published, Uuid::now_v7()], &AuditNote::default()).await.unwrap();
    changed.sort();
    assert_eq!(changed, [refused, sent]);
    let event = find(&store, refused).await;
    assert_eq!((event.status, event.retry_count, &*event.last_error), (Status::Pending, 0, ""));
    assert_eq!((event.scheduled_at, event.seq, event.retry_at), (before.scheduled_at, before.seq, None));
    let event = find(&store, sent).await;
    assert!(event.published_at.is_some() && event.pending_handlers == Some(vec!["mail".to_owned()]), "{event:?}");
    assert_eq!(find(&store, published).await.status, Status::Published);
    assert_eq!(sorted_ids(&store.fetch(&everything(&store)).await.unwrap()), [refused, sent]);
}

pub(super) async fn an_event_is_failed_for_a_reason_unless_it_is_published<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let waiting = TestRow::new().retry_in(&fixture, 1000).insert(&fixture).await;
    let published = TestRow::new().status("published").insert(&fixture).await;
    let fail = Action::Fail { reason: "no longer wanted".to_owned() };
    assert_eq!(store.change(&fail, &[waiting, published], &AuditNote::default()).await.unwrap(), [waiting]);
    let event = find(&store, waiting).await;
    assert_eq!((event.status, &*event.last_error), (Status::Failed, "no longer wanted"));
}

pub(super) async fn a_failed_event_that_a_person_gave_up_holds_its_key_no_longer<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let failed = old(&fixture, TestRow::keyed("k").at(-40_000).status("failed"), 31).await;
    let asked = TestRow::keyed("k").at(-30_000).insert(&fixture).await;
    let question = [ask_before(&store, "k", asked).await];
    assert!(!store.has_due(&[lane()], &[lane()], &UnrecordedEvents::default()).await.unwrap());
    assert_eq!(store.blockers(&lane(), true, &question).await.unwrap()["k"].id, failed);
    store.change(&Action::Fail { reason: "given up".to_owned() }, &[failed], &AuditNote::default()).await.unwrap();
    assert!(store.blockers(&lane(), true, &question).await.unwrap().is_empty());
    assert!(store.has_due(&[lane()], &[lane()], &UnrecordedEvents::default()).await.unwrap());
    fixture
        .execute(&format!("UPDATE outbox_events SET updated_at = created_at WHERE id = {}", fixture.id(failed)))
        .await;
    let expiry = RetentionCutoff { published: None, failed: Some(30 * DAY), limit: 10 };
    assert_eq!(delete_old(&store, expiry, &[lane()]).await, 1, "nor does it have to stay");
}

pub(super) async fn a_replayed_event_is_new_under_its_old_id_and_replays_keep_their_order<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut events = Vec::new();
    for offset in [-3000, -2000, -1000] {
        let row = TestRow::keyed("k").at(offset).status("published").with("published_at", fixture.time(offset));
        events.push(row.with("retry_count", "2").with("pending_handlers", "'[]'").insert(&fixture).await);
    }
    let failed = TestRow::new().status("failed").insert(&fixture).await;
    let newest = find(&store, failed).await.seq;
    let given: Vec<Uuid> = events.iter().rev().chain([&failed]).copied().collect();
    let mut changed = store.change(&Action::Replay, &given, &AuditNote::default()).await.unwrap();
    changed.sort();
    assert_eq!(changed, events);
    let mut seqs = Vec::new();
    for id in &events {
        let event = find(&store, *id).await;
        assert_eq!((event.status, event.retry_count, event.published_at), (Status::Pending, 0, None));
        assert_eq!(event.pending_handlers, None);
        seqs.push(event.seq);
    }
    assert!(seqs[0] > newest && seqs.is_sorted(), "{seqs:?} after {newest}");
    assert_eq!(ids(&fetch_all(&store).await), events);
}

pub(super) async fn the_overview_counts_what_there_is_and_what_is_due<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let empty = store.overview(CountMode::Exactly).await.unwrap();
    assert!(empty.counts.is_empty() && empty.due.is_empty() && empty.workers.is_empty(), "{empty:?}");
    TestRow::new().at(-60_000).insert(&fixture).await;
    TestRow::new().at(60_000).insert(&fixture).await;
    TestRow::new().at(-90_000).retry_in(&fixture, -5000).insert(&fixture).await;
    TestRow::new().lane("other").at(-90_000).retry_in(&fixture, 60_000).insert(&fixture).await;
    TestRow::new().status("published").insert(&fixture).await;
    let worker = TestWorker::owner(&store).await;
    let overview = store.overview(CountMode::Exactly).await.unwrap();
    let counts = [("pending", 2), ("published", 1), ("retry", 2)].map(|(status, count)| (status.to_owned(), count));
    assert_eq!(overview.counts, counts);
    let [due] = overview.due.as_slice() else { panic!("{overview:?}") };
    assert_eq!((&*due.lane, due.events), ("orders", 2));
    assert!((59..=90).contains(&due.oldest.as_secs()), "{due:?}");
    let [row] = overview.workers.as_slice() else { panic!("{overview:?}") };
    assert_eq!(row.shards, [(lane(), i64::try_from(worker.epochs.len()).unwrap())]);
    assert!(row.silent_for < Duration::from_secs(60), "{row:?}");
}

pub(super) async fn an_event_is_found_by_its_id<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let id = TestRow::new().insert(&fixture).await;
    assert_eq!(find(&store, id).await.id, id);
    assert!(store.find(Uuid::now_v7()).await.unwrap().is_none());
}
